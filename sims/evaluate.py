"""Closed-loop evaluation: every method plays the same pairs; the simulator's truth says how near it came."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from sims.policies import Observation, Policy
from sims.protocol import GoalKind, Pair, Split, fulfils
from sims.rendering import backend
from sims.statistics import PairedDifference, Rate, paired_difference, percentiles, wilson
from sims.task import Simulation, Task

FILMED = 200  # episodes of a method of which the frames are kept, to choose successes and failures from


@dataclass(frozen=True)
class Rollout:
    """One episode. Rows 0 to N are the start and the states after each of the N actions."""

    pair: int
    seed: int
    distances: tuple[float, ...]  # N + 1, metres to the goal's configuration
    met: tuple[tuple[bool, ...], ...]  # N + 1 x criteria
    plan_ms: tuple[float, ...]  # N, or none for methods that do not plan
    server_ms: dict[str, float]  # means over the steps, as the server says
    believed: tuple[bool, ...]  # N, whether the method said 'reached' before the action
    frames: NDArray[np.uint8] | None = None  # N + 1 x H x W x 3

    def ever(self, criterion: int) -> bool:
        """Whether the criterion was met after any action."""
        return any(row[criterion] for row in self.met[1:])

    def end(self, criterion: int) -> bool:
        """Whether the criterion was met after the last action."""
        return self.met[-1][criterion]


@dataclass(frozen=True)
class MethodResult:
    """All episodes of one method, in the order of the pairs."""

    name: str
    rollouts: tuple[Rollout, ...]

    def ever(self, criterion: int) -> Rate:
        """Share of episodes that met the criterion at some step, with its 95 % interval."""
        return wilson(sum(r.ever(criterion) for r in self.rollouts), len(self.rollouts))

    def end(self, criterion: int) -> Rate:
        """Share of episodes that met the criterion at the end, with its 95 % interval."""
        return wilson(sum(r.end(criterion) for r in self.rollouts), len(self.rollouts))

    def latencies(self) -> list[float]:
        """Milliseconds of every plan of every episode; empty when the method does not plan."""
        return [ms for r in self.rollouts for ms in r.plan_ms]

    def final_distances(self) -> list[float]:
        """Metres to the goal after the last action, of every episode."""
        return [r.distances[-1] for r in self.rollouts]


@dataclass(frozen=True)
class EvaluationResult:
    """What was asked, under which conditions, and what came out."""

    task: str
    split: Split
    seed: int
    goal: GoalKind
    criteria: tuple[str, ...]
    steps: int
    methods: tuple[MethodResult, ...]
    conditions: dict[str, str]

    def method(self, name: str) -> MethodResult:
        """Return the results of one method."""
        return next(m for m in self.methods if m.name == name)

    def compare(self, first: str, second: str, criterion: int) -> PairedDifference:
        """Compare two methods' successes at the end, pair by pair."""
        a, b = self.method(first).rollouts, self.method(second).rollouts
        return paired_difference([r.end(criterion) for r in a], [r.end(criterion) for r in b])


def roll_out(task: Task, simulation: Simulation, policy: Policy, pair: Pair, film: bool) -> Rollout:
    """Play one pair for ``task.evaluation_steps`` actions and measure after each."""
    simulation.restore(pair.start)
    act = policy.begin(pair)
    frames, states, decisions = [simulation.frame()], [simulation.state()], []
    for _ in range(task.evaluation_steps):
        decision = act(Observation(np.stack(frames), states[-1]))
        simulation.step(decision.action)
        decisions.append(decision)
        frames.append(simulation.frame())
        states.append(simulation.state())
    distances = [task.distance(state, pair.goal_state) for state in states]
    server = [d.server_ms for d in decisions if d.server_ms]
    return Rollout(
        pair=pair.index,
        seed=pair.seed,
        distances=tuple(distances),
        met=tuple(_met(task, pair, state, d) for state, d in zip(states, distances, strict=True)),
        plan_ms=tuple(d.plan_ms for d in decisions if d.plan_ms is not None),
        server_ms={key: float(np.mean([s[key] for s in server])) for key in (server[0] if server else ())},
        believed=tuple(d.reached for d in decisions),
        frames=np.stack(frames) if film else None,
    )


def _met(task: Task, pair: Pair, state: NDArray[np.float32], distance: float) -> tuple[bool, ...]:
    if pair.required:
        return (fulfils(task, state, pair.required),)
    return tuple(distance <= tolerance for tolerance in task.tolerances)


def criteria_of(task: Task, kind: GoalKind) -> tuple[str, ...]:
    """Name what counts as success: distances for image goals, for others that what was said is true."""
    return tuple(f"{100 * t:g} cm" for t in task.tolerances) if kind == "image" else ("as told",)


def evaluate(
    task: Task,
    simulation: Simulation,
    policies: Sequence[Policy],
    pairs: Sequence[Pair],
    split: Split,
    seed: int,
    kind: GoalKind,
    conditions: dict[str, str] | None = None,
    progress: bool = True,
) -> EvaluationResult:
    """Let every policy play every pair, one episode after another so that latencies are those of a single robot.

    The first plan of each policy is asked once before and thrown away: it pays for what is set up only once.
    ``conditions``: what else a reader must know (model, server).
    """
    methods = []
    for policy in policies:
        simulation.restore(pairs[0].start)
        policy.begin(pairs[0])(Observation(simulation.frame()[None], simulation.state()))
        bar = tqdm(pairs, desc=policy.name, unit="episode", disable=not progress)
        rollouts = tuple(roll_out(task, simulation, policy, pair, film=i < FILMED) for i, pair in enumerate(bar))
        methods.append(MethodResult(policy.name, rollouts))
    return EvaluationResult(
        task=task.name,
        split=split,
        seed=seed,
        goal=kind,
        criteria=criteria_of(task, kind),
        steps=task.evaluation_steps,
        methods=tuple(methods),
        conditions={
            **(conditions or {}),
            "renderer": backend(),
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    )


def to_json(result: EvaluationResult) -> dict[str, Any]:
    """Return a result as plain JSON values, without frames: a summary per method, then every episode."""
    return {
        "format": 1,
        **{key: getattr(result, key) for key in ("task", "split", "seed", "goal", "criteria", "steps", "conditions")},
        "summary": {m.name: summary(result, m) for m in result.methods},
        "episodes": {
            m.name: [{key: getattr(r, key) for key in Rollout.__annotations__ if key != "frames"} for r in m.rollouts]
            for m in result.methods
        },
    }


def summary(result: EvaluationResult, method: MethodResult) -> dict[str, Any]:
    """Return a method's success rates with intervals, final distance and latency as plain JSON values."""
    latencies = method.latencies()
    return {
        "episodes": len(method.rollouts),
        "success": {
            name: {"ever": asdict(method.ever(i)), "end": asdict(method.end(i))}
            for i, name in enumerate(result.criteria)
        },
        "final_distance_m": dict(
            zip(("p25", "p50", "p75"), percentiles(method.final_distances(), (25, 50, 75)), strict=True)
        ),
        "plan_ms": dict(zip(("p50", "p95", "p99"), percentiles(latencies, (50, 95, 99)), strict=True))
        if latencies
        else None,
    }


def as_text(result: EvaluationResult) -> str:
    """Return the table of a result for a terminal: success in per cent with its 95 % interval, plan latency in ms."""
    head = ["method", *(f"{c} {when}" for c in result.criteria for when in ("ever", "end")), "plan p50/p95/p99 [ms]"]
    rows = [head]
    for method in result.methods:
        rates = [rate for i in range(len(result.criteria)) for rate in (method.ever(i), method.end(i))]
        plans = method.latencies()
        rows.append(
            [
                method.name,
                *(f"{100 * r.value:.0f} [{100 * r.low:.0f}, {100 * r.high:.0f}]" for r in rates),
                " / ".join(f"{ms:.1f}" for ms in percentiles(plans, (50, 95, 99))) if plans else "-",
            ]
        )
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    count = len(result.methods[0].rollouts)
    title = (
        f"{result.task}, {count} {result.goal} goals ({result.split}, seed {result.seed}): success in % [95 % interval]"
    )
    return "\n".join(
        [title, *("  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in rows)]
    )
