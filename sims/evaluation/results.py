"""Results of an evaluation: rollouts, methods, and their summary as JSON and as text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sims.evaluation.pairs import GoalKind, Split
from sims.evaluation.statistics import (
    Estimate,
    PairedDifference,
    Rate,
    bootstrap_median,
    paired_difference,
    percentiles,
    spearman,
    wilson,
)
from sims.evaluation.units import columns

HELD = 3  # last actions of an episode after each of which the criterion must be met
BOUNDS = ("random", "replay", "scripted")  # methods without a model: floor and ceilings


@dataclass(frozen=True)
class Rollout:
    """One episode. Rows 0 to N are the start and the states after each of the N actions."""

    pair: int
    seed: int
    distances: tuple[float, ...]  # N + 1, to the goal, in the task's unit
    met: tuple[tuple[bool, ...], ...]  # N + 1 x criteria
    plan_ms: tuple[float, ...]  # N, or none for methods that do not plan
    server_ms: dict[str, float]  # means over the steps, as reported by the server
    believed: tuple[bool, ...]  # N, whether the method reported 'reached' before the action
    energies: tuple[float, ...] = ()  # N, energy of the state before the action; or none
    frames: NDArray[np.uint8] | None = None  # N + 1 x H x W x 3

    def ever(self, criterion: int) -> bool:
        """Whether the criterion was met after any action."""
        return any(row[criterion] for row in self.met[1:])

    def end(self, criterion: int) -> bool:
        """Whether the criterion was met after the last action."""
        return self.met[-1][criterion]

    def held(self, criterion: int) -> bool:
        """Whether the criterion was met after each of the last three actions (of all, where there were fewer)."""
        return all(row[criterion] for row in self.met[1:][-HELD:])

    def rank_correlation(self) -> float:
        """Spearman's correlation of energy and true distance over the steps; NaN when there is nothing to rank."""
        return spearman(self.energies, self.distances[:-1]) if self.energies else float("nan")


@dataclass(frozen=True)
class MethodResult:
    """All episodes of one method, in the order of the pairs."""

    name: str
    rollouts: tuple[Rollout, ...]

    def ever(self, criterion: int) -> Rate:
        """Share of episodes that met the criterion at some step, with its 95 % interval."""
        return self._rate(r.ever(criterion) for r in self.rollouts)

    def end(self, criterion: int) -> Rate:
        """Share of episodes that met the criterion at the end, with its 95 % interval."""
        return self._rate(r.end(criterion) for r in self.rollouts)

    def held(self, criterion: int) -> Rate:
        """Share of episodes that met the criterion after each of the last three actions, with its 95 % interval."""
        return self._rate(r.held(criterion) for r in self.rollouts)

    def rates(self, criterion: int) -> dict[str, Rate]:
        """Success ever, at the end, and held."""
        return {"ever": self.ever(criterion), "end": self.end(criterion), "held": self.held(criterion)}

    def latencies(self) -> list[float]:
        """Milliseconds of every plan of every episode; empty when the method does not plan."""
        return [ms for r in self.rollouts for ms in r.plan_ms]

    def final_distances(self) -> list[float]:
        """Distance to the goal after the last action, of every episode, in the task's unit."""
        return [r.distances[-1] for r in self.rollouts]

    def rank_correlation(self) -> Estimate | None:
        """Rank correlation of energy and true distance: median over the episodes; None without energies."""
        return bootstrap_median([r.rank_correlation() for r in self.rollouts])

    def _rate(self, successes: Iterable[bool]) -> Rate:
        return wilson(sum(successes), len(self.rollouts))


@dataclass(frozen=True)
class EvaluationResult:
    """The settings of an evaluation, its conditions, and the results of every method."""

    task: str
    split: Split
    seed: int
    goal: GoalKind
    distance: int | None  # steps of the environment to the goal; None for the task's own goals
    criteria: tuple[str, ...]
    unit: str  # of distances
    steps: int
    excluded: int  # draws rejected because start and goal were too near
    methods: tuple[MethodResult, ...]
    conditions: dict[str, str]

    def method(self, name: str) -> MethodResult:
        """Return the results of one method."""
        return next(m for m in self.methods if m.name == name)

    @property
    def main(self) -> MethodResult:
        """The evaluated method: the first that is neither floor nor ceiling, else the last."""
        return next((m for m in self.methods if m.name not in BOUNDS), self.methods[-1])

    def compare(self, first: str, second: str, criterion: int) -> PairedDifference:
        """Compare two methods' successes at the end, pair by pair."""
        a, b = self.method(first).rollouts, self.method(second).rollouts
        return paired_difference([r.end(criterion) for r in a], [r.end(criterion) for r in b])

    def rank_correlation(self, method: MethodResult) -> Estimate | None:
        """A method's rank correlation. None for text and label goals, which describe a region instead of a state."""
        return method.rank_correlation() if self.goal == "image" else None


SETTINGS = ("task", "split", "seed", "goal", "distance", "criteria", "unit", "steps", "excluded", "conditions")


def to_json(result: EvaluationResult) -> dict[str, Any]:
    """Return a result as plain JSON values, without frames: summaries, comparisons, then every episode."""
    main = result.main
    return {
        "format": 2,
        **{key: getattr(result, key) for key in SETTINGS},
        "summary": {m.name: summary(result, m) for m in result.methods},
        "comparisons": {
            other.name: {
                criterion: asdict(result.compare(main.name, other.name, i))
                for i, criterion in enumerate(result.criteria)
            }
            for other in result.methods
            if other is not main
        },
        "episodes": {
            m.name: [{key: getattr(r, key) for key in Rollout.__annotations__ if key != "frames"} for r in m.rollouts]
            for m in result.methods
        },
    }


def summary(result: EvaluationResult, method: MethodResult) -> dict[str, Any]:
    """Return a method's success rates with intervals, final distance, latency and rank correlation for JSON."""
    latencies, correlation = method.latencies(), result.rank_correlation(method)
    return {
        "episodes": len(method.rollouts),
        "success": {
            name: {when: {"value": rate.value, **asdict(rate)} for when, rate in method.rates(i).items()}
            for i, name in enumerate(result.criteria)
        },
        "final_distance": dict(
            zip(("p25", "p50", "p75"), percentiles(method.final_distances(), (25, 50, 75)), strict=True)
        ),
        "rank_correlation": None if correlation is None else asdict(correlation),
        "plan_ms": dict(zip(("p50", "p95", "p99"), percentiles(latencies, (50, 95, 99)), strict=True))
        if latencies
        else None,
    }


def about(result: EvaluationResult) -> str:
    """The settings in one line: '100 image goals 25 steps away (test, seed 0), 50 actions'."""
    away = "" if result.distance is None else f" {result.distance} steps away"
    count = len(result.methods[0].rollouts)
    return f"{count} {result.goal} goals{away} ({result.split}, seed {result.seed}), {result.steps} actions"


def as_text(result: EvaluationResult) -> str:
    """Return the table of a result for a terminal: success in per cent with its 95 % interval, plan latency in ms."""
    rows = [["method", "criterion", "ever", "end", "held", "rank corr.", "plan p50/p95/p99 [ms]"]]
    for method in result.methods:
        plans, correlation = method.latencies(), result.rank_correlation(method)
        more = [
            "-" if correlation is None else f"{correlation.median:.2f} [{correlation.low:.2f}, {correlation.high:.2f}]",
            " / ".join(f"{ms:.1f}" for ms in percentiles(plans, (50, 95, 99))) if plans else "-",
        ]
        for i, criterion in enumerate(result.criteria):
            rates = [_per_cent(rate) for rate in method.rates(i).values()]
            rows.append([method.name, criterion, *rates, *more] if i == 0 else ["", criterion, *rates, "", ""])
    title = f"{result.task}, {about(result)}: success in % [95 % interval]"
    main, first = result.main, result.criteria[0]
    notes = []
    for other in (m for m in result.methods if m is not main):
        pair = result.compare(main.name, other.name, 0)
        interval = f"{100 * pair.difference:+.0f} points [{100 * pair.low:+.0f}, {100 * pair.high:+.0f}]"
        notes.append(f"{main.name} against {other.name}, {first} at the end: {interval}, p = {pair.p_value:.2g}")
    if result.excluded:
        drawn = result.excluded + len(result.main.rollouts)
        notes.append(
            f"{result.excluded} of {drawn} draws were excluded: goal too near to the start, or fulfilled there"
        )
    return "\n".join([title, *columns(rows), *notes])


def _per_cent(rate: Rate) -> str:
    return f"{100 * rate.value:.0f} [{100 * rate.low:.0f}, {100 * rate.high:.0f}]"
