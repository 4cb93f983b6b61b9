"""Why a task fails: every link between the picture and the action measured by itself, against the simulator's truth.

Four parts, on dev seeds. (a) Is the true state in the planning state? (b) Does imagination follow it? (c) Is there a
way to the goal among what a search tries first, and does the search take it? (d) Does the energy rank what came out
by true distance, for real pictures and for imagined ones? A chain of blame follows: each part rests on those before.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hnet_vjepa.data.store import Episode
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.inspect import Inspector, Seen
from hnet_vjepa.planning.interface import PlanQuery
from hnet_vjepa.trainers.measure import Readout, fit_readout
from sims.core.collect import record
from sims.core.seeds import episode_seed
from sims.core.task import Simulation, State, Task
from sims.evaluation.evaluate import columns, in_unit, length, shown_in
from sims.evaluation.pairs import Pair, make_pairs
from sims.evaluation.statistics import Estimate, bootstrap_median, spearman

FIRST_EPISODE = 2**23  # so that no episode starts where a pair starts
FITTED = 0.75  # share of the episodes that the read-out is fitted on
HORIZON = 10
EVERY = 3  # frames between two starts of imagination

# What counts as sound. The documentation says why.
READ = 0.5  # read-out error, as a share of the loosest tolerance
IMAGINED = 0.5  # imagined error at the planning horizon, as a share of that of 'nothing moves' ...
ADDED = 1.5  # ... or as a multiple of the error of reading the real picture of that moment
NEARER = 0.9  # share of the pairs in which some candidate makes some of the way to the goal ...
SOME = 0.05  # ... that is, this share of it
TAKEN = 0.5  # progress of the plan, as a share of the best candidate's
RANKED = 0.7  # median rank correlation of energy and true distance
LOST = 0.1  # of it, when pictures are imagined instead of real
GRAIN = 0.01  # of the loosest tolerance, in which distances are ranked

DISTANCES = {  # of Tried, and what people call them
    "now": "at the start",
    "typical": "typical candidate",
    "picked": "energy's pick",
    "planned": "plan",
    "best": "best candidate",
}

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Reading:
    """(a) The true state, read linearly out of the planning state, on episodes that it was not fitted on."""

    error: float  # median, in the task's unit
    mean_error: float  # of 'always the mean'
    r2: dict[str, float]  # per number of the state that changes
    fitted: int  # episodes
    held_out: int


@dataclass(frozen=True)
class Imagining:
    """(b) Median read-out errors after 1, 2, ... actions, in the task's unit, where something moves."""

    imagined: tuple[float, ...]
    real: tuple[float, ...]  # of the real picture at that moment: what the read-out itself errs by
    still: tuple[float, ...]  # of 'nothing moves', from the true state

    def at(self, horizon: int) -> tuple[float, float, float]:
        """The three errors after ``horizon`` actions, or as far as was measured."""
        h = min(horizon, len(self.imagined)) - 1
        return self.imagined[h], self.real[h], self.still[h]


@dataclass(frozen=True)
class Tried:
    """(c, d) One pair: true distances to the goal, in the task's unit, after the horizon's actions."""

    now: float
    best: float  # of all candidates: the oracle
    typical: float  # median candidate
    picked: float  # the candidate of the lowest imagined energy
    planned: float  # what the planner's search chose
    rank_real: float | None  # Spearman over candidates: energy of the real final picture, and true distance;
    rank_imagined: float | None  # the same with the imagined final state. None where all come equally near


@dataclass(frozen=True)
class Verdict:
    """One link of the chain: whether it holds, and why."""

    link: str
    sound: bool
    reason: str


@dataclass(frozen=True)
class Diagnosis:
    """All that was measured."""

    task: str
    unit: str
    tolerance: float  # the loosest
    seed: int
    horizon: int
    candidates: int
    reading: Reading
    imagining: Imagining
    tried: tuple[Tried, ...]

    def median(self, name: str) -> float:
        """Median over the pairs of one of the distances of Tried."""
        return float(np.median([getattr(t, name) for t in self.tried]))

    def progress(self, name: str) -> float:
        """Median share of the way to the goal that was made: 1 is all of it, below 0 it became longer."""
        return float(np.median([1 - getattr(t, name) / t.now for t in self.tried]))

    def ranks(self) -> tuple[Estimate | None, Estimate | None]:
        """Rank correlations with real and with imagined pictures: medians over the pairs."""
        real = [t.rank_real for t in self.tried if t.rank_real is not None]
        imagined = [t.rank_imagined for t in self.tried if t.rank_imagined is not None]
        return bootstrap_median(real), bootstrap_median(imagined)


def record_episodes(task: Task, simulation: Simulation, seed: int, count: int, progress: bool = True) -> list[Episode]:
    """Record episodes of the data policy on dev seeds. Raises UserError when fewer than 4 are asked for."""
    if count < 4:
        raise UserError(f"episodes is {count}; a read-out needs at least 4")
    numbers = range(FIRST_EPISODE, FIRST_EPISODE + count)
    bar = tqdm(numbers, desc="episodes", unit="episode", disable=not progress)
    return [record(task, simulation, episode_seed("dev", seed, number), number) for number in bar]


def fit(task: Task, seen: Sequence[Seen], truth: Sequence[Array]) -> tuple[Readout, Reading, int]:
    """Fit the read-out on the first episodes and judge it on the rest; also says how many it was fitted on.

    ``seen`` and ``truth``: per episode T rows, planning states and true states (T x S).
    """
    cut = max(1, round(FITTED * len(seen)))
    features = [s.features() for s in seen]
    readout = fit_readout(np.concatenate(features[:cut]), np.concatenate(truth[:cut]))
    true = np.concatenate(truth[cut:])
    read = readout(np.concatenate(features[cut:]))
    moving = true.std(0) > 1e-6
    explained = 1 - ((read - true) ** 2).mean(0)[moving] / ((readout.centre - true) ** 2).mean(0)[moving]
    names = [name for name, moves in zip(task.states, moving, strict=True) if moves]
    reading = Reading(
        error=_median_distance(task, read, true),
        mean_error=_median_distance(task, np.broadcast_to(readout.centre, true.shape), true),
        r2=dict(zip(names, map(float, explained), strict=True)),
        fitted=cut,
        held_out=len(seen) - cut,
    )
    return readout, reading, cut


def imagine(
    task: Task,
    inspector: Inspector,
    readout: Readout,
    seen: Sequence[Seen],
    truth: Sequence[Array],
    actions: Sequence[NDArray[np.float32]],
) -> Imagining:
    """Imagine on from every few frames of episodes and compare with what really came, as read out.

    Only starts count after which the task's distance changes by its loosest tolerance: an object lies still for most of
    an episode, and that nothing moves is then hard to beat and says nothing. Without any such start all count.
    """
    ahead = min(HORIZON, min(map(len, seen)) - 2)
    rows: list[list[tuple[Array, Array, Array, Array]]] = [[] for _ in range(ahead)]
    for episode, true, done in zip(seen, truth, actions, strict=True):
        starts = list(range(1, len(episode) - ahead, EVERY))
        told = np.stack([done[s : s + ahead] for s in starts])
        for h, imagined in enumerate(inspector.imagine(episode[starts], told)):
            later = [s + h + 1 for s in starts]
            read, real = readout(imagined.features()), readout(episode[later].features())
            rows[h].append((read, real, true[starts], true[later]))
    joined = [[np.concatenate(part) for part in zip(*row, strict=True)] for row in rows]
    moved = np.max([_distances(task, parts[2], parts[3]) for parts in joined], axis=0) >= task.tolerances[0]
    if moved.any():
        joined = [[part[moved] for part in parts] for parts in joined]
    imagined_error, real_error, still = (
        tuple(_median_distance(task, parts[i], parts[3]) for parts in joined) for i in range(3)
    )
    return Imagining(imagined_error, real_error, still)


def try_pair(
    task: Task, simulation: Simulation, inspector: Inspector, pair: Pair, candidates: int, horizon: int
) -> Tried:
    """Do what a search would try first in the true simulation, and compare with what the model makes of it."""
    simulation.restore(pair.start)
    frames = simulation.frame()[None]
    start, goal = inspector.last(frames[None]), inspector.last(pair.goal_frame[None, None])
    query = PlanQuery(frames, ImageGoal(pair.goal_frame), seed=pair.index)
    proposed = inspector.planner.first_candidates(query, candidates, horizon)
    outcomes = [_do(task, simulation, pair, actions, inspector.window) for actions in proposed]
    distances = np.array([distance for distance, _ in outcomes])
    real = inspector.energy(inspector.last(np.stack([clip for _, clip in outcomes])), goal)
    imagined = inspector.imagine(start[[0] * candidates], proposed)
    energies = [inspector.energy(state, goal) for state in imagined]  # H x candidates
    [plan] = inspector.planner.plan([query])
    return Tried(
        now=task.distance(pair.start_state, pair.goal_state),
        best=float(distances.min()),
        typical=float(np.median(distances)),
        picked=float(distances[inspector.cost(energies).argmin()]),
        planned=_do(task, simulation, pair, plan.actions[:horizon], 1)[0],
        rank_real=_rank(task, real, distances),
        rank_imagined=_rank(task, energies[-1], distances),
    )


def _rank(task: Task, energies: Array, distances: Array) -> float | None:
    """Rank correlation; distances that differ by less than anybody cares for count as equal (an object's jitter)."""
    value = spearman(energies, np.round(distances / (GRAIN * task.tolerances[0])))
    return value if math.isfinite(value) else None


def _do(
    task: Task, simulation: Simulation, pair: Pair, actions: NDArray[np.float32], window: int
) -> tuple[float, NDArray[np.uint8]]:
    """Do actions from a pair's start; return the true distance to its goal and the last ``window`` pictures."""
    simulation.restore(pair.start)
    shown = [simulation.frame()] if window > len(actions) else []
    for i, action in enumerate(actions):
        simulation.step(action)
        if i >= len(actions) - window:
            shown.append(simulation.frame())
    return task.distance(simulation.state(), pair.goal_state), np.stack(shown)


def diagnose(
    task: Task,
    simulation: Simulation,
    inspector: Inspector,
    seed: int = 0,
    episodes: int = 40,
    pairs: int = 20,
    candidates: int = 64,
    progress: bool = True,
) -> Diagnosis:
    """Measure all parts. Raises UserError when a number is out of range."""
    if candidates < 2:
        raise UserError(f"candidates is {candidates}; it must be at least 2")
    recorded = record_episodes(task, simulation, seed, episodes, progress)
    seen = [inspector.episode(e.frames, e.actions) for e in recorded]
    truth = [np.asarray(e.states, np.float64) for e in recorded]
    readout, reading, cut = fit(task, seen, truth)
    horizon = inspector.planner.card.search.horizon
    drawn = make_pairs(task, simulation, "dev", seed, pairs, "image")
    bar = tqdm(drawn, desc="pairs", unit="pair", disable=not progress)
    return Diagnosis(
        task=task.name,
        unit=task.unit,
        tolerance=task.tolerances[0],
        seed=seed,
        horizon=horizon,
        candidates=candidates,
        reading=reading,
        imagining=imagine(task, inspector, readout, seen[cut:], truth[cut:], [e.actions for e in recorded[cut:]]),
        tried=tuple(try_pair(task, simulation, inspector, pair, candidates, horizon) for pair in bar),
    )


def verdicts(found: Diagnosis) -> dict[str, Verdict]:
    """Judge every link, in the order in which they rest on each other; keys are the parts of the table."""
    imagined, real, still = found.imagining.at(found.horizon)
    nearer = float(np.mean([t.best <= (1 - SOME) * t.now for t in found.tried]))
    oracle, planned = found.progress("best"), found.progress("planned")
    share = found.reading.error / found.tolerance
    by_real, by_imagined = found.ranks()
    if by_real is None or by_imagined is None:
        ranked, kept, energy = True, True, "no candidate changed the distance, so there was nothing to rank"
    else:
        ranked = by_real.median >= RANKED
        kept = by_imagined.median >= min(RANKED, by_real.median - LOST)
        energy = f"real pictures are ranked by true distance with {by_real.median:.2f}"
    follows = imagined <= max(IMAGINED * still, ADDED * real)
    rank = "" if by_imagined is None else f"; imagined pictures are ranked with {by_imagined.median:.2f}"
    return {
        "a": Verdict(
            "representation",
            share <= READ,
            f"the read-out errs by {share:.2g} of the tolerance of {length(found.tolerance, found.unit)}",
        ),
        "d": Verdict("energy", ranked, energy),
        "b": Verdict(
            "dynamics",
            follows and kept,
            f"after {found.horizon} actions imagination errs by {length(imagined, found.unit)}, reading the real "
            f"picture by {length(real, found.unit)}, 'nothing moves' by {length(still, found.unit)}{rank}",
        ),
        "c": Verdict(
            "proposals",
            nearer >= NEARER,
            f"in {100 * nearer:.0f} % of the pairs some candidate makes at least {100 * SOME:.0f} % of the way",
        ),
        "search": Verdict(
            "search",
            planned >= TAKEN * oracle,
            f"the plan makes {100 * planned:.0f} % of the way, the best candidate {100 * oracle:.0f} %",
        ),
    }


def weakest(found: Diagnosis) -> str:
    """The first link that does not hold, in words."""
    weak = [v for v in verdicts(found).values() if not v.sound]
    if not weak:
        return (
            "no link is weak by these measures; what fails is what they do not single out: rare moments, or far goals"
        )
    return f"weakest link: {weak[0].link} ({weak[0].reason})"


def to_json(found: Diagnosis) -> dict[str, Any]:
    """The diagnosis as plain JSON values."""
    judged = [asdict(v) for v in verdicts(found).values()]
    return {"format": 1, **asdict(found), "verdicts": judged, "conclusion": weakest(found)}


def as_text(found: Diagnosis) -> str:
    """The diagnosis as tables for a terminal, with a closing line per part."""
    factor, _ = shown_in(found.unit)
    judged, reading = verdicts(found), found.reading
    number = lambda value: f"{factor * value:.3g}"  # noqa: E731
    real, imagined = found.ranks()
    ahead = [[in_unit("steps ahead, median error", found.unit), *map(str, range(1, len(found.imagining.imagined) + 1))]]
    for name, values in (
        ("imagined", found.imagining.imagined),
        ("real picture", found.imagining.real),
        ("nothing moves", found.imagining.still),
    ):
        ahead.append([name, *map(number, values)])
    searched = [
        [in_unit(f"after {found.horizon} actions, median", found.unit), *DISTANCES.values()],
        ["distance to the goal", *(number(found.median(name)) for name in DISTANCES)],
    ]
    closing = lambda *parts: [f"=> {_say(judged[part])}" for part in parts]  # noqa: E731
    return "\n".join(
        [
            f"{found.task}, dev seed {found.seed}: {reading.fitted + reading.held_out} episodes, "
            f"{len(found.tried)} pairs, {found.candidates} candidates of {found.horizon} actions",
            "",
            "(a) the true state, read from the planning state",
            f"median error {length(reading.error, found.unit)}, "
            f"always the mean {length(reading.mean_error, found.unit)}",
            "R2: " + ", ".join(f"{name} {value:.3f}" for name, value in reading.r2.items()),
            *closing("a"),
            "",
            "(b) imagination",
            *columns(ahead),
            *closing("b"),
            "",
            "(c) candidates and the search, done in the true simulation",
            *columns(searched),
            *closing("c", "search"),
            "",
            "(d) does the energy rank the candidates by true distance? (Spearman, median over the pairs)",
            f"real final pictures {_interval(real)}; imagined ones {_interval(imagined)}",
            *closing("d"),
            "",
            weakest(found),
        ]
    )


def _say(verdict: Verdict) -> str:
    return f"{verdict.link}: {'sound' if verdict.sound else 'WEAK'}, {verdict.reason}"


def _interval(rank: Estimate | None) -> str:
    return "-" if rank is None else f"{rank.median:.2f} [{rank.low:.2f}, {rank.high:.2f}]"


def _median_distance(task: Task, read: Array, true: Array) -> float:
    """Median of the task's own distance between states that were read and true ones (N x S each)."""
    return float(np.median(_distances(task, read, true)))


def _distances(task: Task, some: Array, others: Array) -> Array:
    """The task's own distance between N x S states and as many others: N."""
    states: list[tuple[State, State]] = list(zip(some.astype(np.float32), others.astype(np.float32), strict=True))
    return np.array([task.distance(a, b) for a, b in states])
