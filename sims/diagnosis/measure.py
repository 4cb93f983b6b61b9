"""Why a task fails: each part of the chain from picture to action, measured by itself against the simulator's truth.

On dev seeds: (a) is the true state linearly decodable from the planning state? (b) Does the rollout follow it? (c) Do
the candidates that a search tries first contain progress towards the goal, and does the plan make it? (d) Does the
energy rank outcomes by what is left of the way to the goal, for observed and for imagined final states?
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.data.store import Episode
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.inspect import Inspector, StateBatch
from hnet_vjepa.planning.interface import PlanQuery
from hnet_vjepa.trainers.linear_probe import LinearProbe, fit_probe
from hnet_vjepa.utils.progress import show_progress
from sims.core.collect import record
from sims.core.seeds import episode_seed
from sims.core.task import Simulation, State, Task
from sims.diagnosis.to_go import Progress, ToGo, to_go
from sims.evaluation.pairs import Pair, make_pairs
from sims.evaluation.statistics import Estimate, bootstrap_median, spearman

FIRST_EPISODE = 2**23  # so that no episode starts where a pair starts
FITTED = 0.75  # share of the episodes that the linear probe is fitted on
HORIZON = 10  # actions that rollouts are measured over
EVERY = 3  # frames between two starts of a rollout

Array = NDArray[np.float64]


@dataclass(frozen=True)
class ProbeError:
    """(a) Errors of a linear probe of the true state on the planning state, on episodes it was not fitted on."""

    error: float  # median, in the task's unit
    mean_error: float  # of 'always the mean'
    r2: dict[str, float]  # per number of the state that changes
    fitted: int  # episodes
    held_out: int


@dataclass(frozen=True)
class RolloutError:
    """(b) Median errors of the linear probe after 1, 2, ... actions, in the task's unit, where something moves."""

    imagined: tuple[float, ...]  # of the imagined state
    observed: tuple[float, ...]  # of the state encoded from the real picture: the error of the probe itself
    nothing_moves: tuple[float, ...]  # of the true state at the start

    def at(self, horizon: int) -> tuple[float, float, float]:
        """The three errors after ``horizon`` actions, or as far as was measured."""
        h = min(horizon, len(self.imagined)) - 1
        return self.imagined[h], self.observed[h], self.nothing_moves[h]


@dataclass(frozen=True)
class PairOutcome:
    """(c, d) One pair: what is left of the way to the goal (see ToGo) after the horizon's actions."""

    start: float  # before any action
    best: float  # of all candidates
    typical: float  # median candidate
    picked: float  # the candidate of the lowest imagined cost
    planned: float  # the planner's plan
    rank_observed: float | None  # Spearman over candidates: energy of the observed final state, and what is left;
    rank_imagined: float | None  # the same with the imagined final state. None where all candidates are equal


@dataclass(frozen=True)
class Diagnosis:
    """All that was measured. ``progress``: whether the outcomes count steps to go or straight distances."""

    task: str
    unit: str
    tolerance: float  # the loosest
    seed: int
    horizon: int
    candidates: int
    progress: Progress
    progress_unit: str
    probe: ProbeError
    rollout: RolloutError
    outcomes: tuple[PairOutcome, ...]

    def median(self, name: str) -> float:
        """Median over the pairs of one field of PairOutcome."""
        return float(np.median([getattr(outcome, name) for outcome in self.outcomes]))

    def progress_of(self, name: str) -> float:
        """Median share of the way to the goal that was made: 1 is all of it, below 0 it became longer."""
        return float(np.median([1 - getattr(outcome, name) / outcome.start for outcome in self.outcomes]))

    def ranks(self) -> tuple[Estimate | None, Estimate | None]:
        """Rank correlations with observed and with imagined final states: medians over the pairs."""
        observed = [o.rank_observed for o in self.outcomes if o.rank_observed is not None]
        imagined = [o.rank_imagined for o in self.outcomes if o.rank_imagined is not None]
        return bootstrap_median(observed), bootstrap_median(imagined)


def record_episodes(task: Task, simulation: Simulation, seed: int, count: int, progress: bool = True) -> list[Episode]:
    """Record episodes of the data policy on dev seeds. Raises UserError when fewer than 4 are asked for."""
    if count < 4:
        raise UserError(f"episodes is {count}; the linear probe needs at least 4")
    numbers = range(FIRST_EPISODE, FIRST_EPISODE + count)
    shown = show_progress(numbers, "recording", "episode", progress)
    return [record(task, simulation, episode_seed("dev", seed, number), number) for number in shown]


def fit(task: Task, encoded: Sequence[StateBatch], truth: Sequence[Array]) -> tuple[LinearProbe, ProbeError, int]:
    """Fit the linear probe on the first episodes and test it on the rest; also returns how many it was fitted on.

    ``encoded`` and ``truth``: per episode T rows, planning states and true states (T x N).
    """
    cut = max(1, round(FITTED * len(encoded)))
    features = [s.features() for s in encoded]
    probe = fit_probe(np.concatenate(features[:cut]), np.concatenate(truth[:cut]))
    true = np.concatenate(truth[cut:])
    read = probe(np.concatenate(features[cut:]))
    moving = true.std(0) > 1e-6
    explained = 1 - ((read - true) ** 2).mean(0)[moving] / ((probe.centre - true) ** 2).mean(0)[moving]
    names = [name for name, moves in zip(task.states, moving, strict=True) if moves]
    errors = ProbeError(
        error=_median_distance(task, read, true),
        mean_error=_median_distance(task, np.broadcast_to(probe.centre, true.shape), true),
        r2=dict(zip(names, map(float, explained), strict=True)),
        fitted=cut,
        held_out=len(encoded) - cut,
    )
    return probe, errors, cut


def rollout_error(
    task: Task,
    inspector: Inspector,
    probe: LinearProbe,
    encoded: Sequence[StateBatch],
    truth: Sequence[Array],
    actions: Sequence[NDArray[np.float32]],
) -> RolloutError:
    """Roll out from every few frames of episodes with the recorded actions, and compare with what was observed.

    Only starts count after which the task's distance changes by its loosest tolerance: an object rests for most of an
    episode, and the error of 'nothing moves' is then no baseline. Without any such start all count.
    """
    ahead = min(HORIZON, min(map(len, encoded)) - 2)
    rows: list[list[tuple[Array, Array, Array, Array]]] = [[] for _ in range(ahead)]
    for episode, true, done in zip(encoded, truth, actions, strict=True):
        starts = list(range(1, len(episode) - ahead, EVERY))
        taken = np.stack([done[s : s + ahead] for s in starts])
        for h, imagined in enumerate(inspector.rollout(episode[starts], taken)):
            later = [s + h + 1 for s in starts]
            read, observed = probe(imagined.features()), probe(episode[later].features())
            rows[h].append((read, observed, true[starts], true[later]))
    joined = [[np.concatenate(part) for part in zip(*row, strict=True)] for row in rows]
    moved = np.max([_distances(task, parts[2], parts[3]) for parts in joined], axis=0) >= task.tolerances[0]
    if moved.any():
        joined = [[part[moved] for part in parts] for parts in joined]
    imagined_error, observed_error, still = (
        tuple(_median_distance(task, parts[i], parts[3]) for parts in joined) for i in range(3)
    )
    return RolloutError(imagined_error, observed_error, still)


def try_pair(
    task: Task, simulation: Simulation, inspector: Inspector, left: ToGo, pair: Pair, candidates: int, horizon: int
) -> PairOutcome:
    """Execute a search's first candidates and the plan in the true simulation, and compare with the model's rollout."""
    simulation.restore(pair.start)
    frames = simulation.frame()[None]
    start, goal = inspector.last(frames[None]), inspector.last(pair.goal_frame[None, None])
    query = PlanQuery(frames, ImageGoal(pair.goal_frame), seed=pair.index)
    proposed = inspector.planner.first_candidates(query, candidates, horizon)
    outcomes = [_execute(simulation, left, pair, actions, inspector.window) for actions in proposed]
    remaining = np.array([value for value, _ in outcomes])
    observed = inspector.energy(inspector.last(np.stack([clip for _, clip in outcomes])), goal)
    imagined = inspector.rollout(start[[0] * candidates], proposed)
    energies = [inspector.energy(state, goal) for state in imagined]  # H x candidates
    [plan] = inspector.planner.plan([query])
    return PairOutcome(
        start=_execute(simulation, left, pair, proposed[0][:0], 1)[0],
        best=float(remaining.min()),
        typical=float(np.median(remaining)),
        picked=float(remaining[inspector.cost(energies).argmin()]),
        planned=_execute(simulation, left, pair, plan.actions[:horizon], 1)[0],
        rank_observed=_rank(observed, remaining, left.grain),
        rank_imagined=_rank(energies[-1], remaining, left.grain),
    )


def _rank(energies: Array, remaining: Array, grain: float) -> float | None:
    """Rank correlation of energies with what is left of the way, where less than ``grain`` is no difference."""
    value = spearman(energies, np.round(remaining / grain))
    return value if math.isfinite(value) else None


def _execute(
    simulation: Simulation, left: ToGo, pair: Pair, actions: NDArray[np.float32], window: int
) -> tuple[float, NDArray[np.uint8]]:
    """Execute actions from a pair's start; return what is then left of the way and the last ``window`` pictures."""
    simulation.restore(pair.start)
    shown = [simulation.frame()] if window > len(actions) else []
    for i, action in enumerate(actions):
        simulation.step(action)
        if i >= len(actions) - window:
            shown.append(simulation.frame())
    return left.measure(simulation, pair), np.stack(shown)


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
    encoded = [inspector.episode(e.frames, e.actions) for e in recorded]
    truth = [np.asarray(e.states, np.float64) for e in recorded]
    probe, probe_error, cut = fit(task, encoded, truth)
    horizon = inspector.planner.card.search.horizon
    drawn = make_pairs(task, simulation, "dev", seed, pairs, "image", progress=progress)
    left = to_go(task, simulation, drawn)
    shown = show_progress(drawn, "search", "pair", progress)
    return Diagnosis(
        task=task.name,
        unit=task.unit,
        tolerance=task.tolerances[0],
        seed=seed,
        horizon=horizon,
        candidates=candidates,
        progress=left.by,
        progress_unit=left.unit,
        probe=probe_error,
        rollout=rollout_error(task, inspector, probe, encoded[cut:], truth[cut:], [e.actions for e in recorded[cut:]]),
        outcomes=tuple(try_pair(task, simulation, inspector, left, pair, candidates, horizon) for pair in shown),
    )


def _median_distance(task: Task, read: Array, true: Array) -> float:
    """Median of the task's own distance between decoded and true states (N x S each)."""
    return float(np.median(_distances(task, read, true)))


def _distances(task: Task, some: Array, others: Array) -> Array:
    """The task's own distance between N x S states and as many others: N."""
    states: list[tuple[State, State]] = list(zip(some.astype(np.float32), others.astype(np.float32), strict=True))
    return np.array([task.distance(a, b) for a, b in states])
