"""Wall time and CPU time of plans, measured while a planner is used."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.interface import ModelCard, Planner, PlanQuery, PlanResult
from sims.core.task import Simulation, Task
from sims.evaluation.evaluate import play
from sims.evaluation.pairs import Pair
from sims.evaluation.policies import Policy, local_planner
from sims.evaluation.statistics import percentiles

EPISODE = 1000  # between the seeds of two episodes' first queries: see sims.evaluation.policies.PlannerPolicy
SETTLE_S = 0.5  # torch's threads spin for a while after their last work, which would be charged to what follows

T = TypeVar("T")
Transform = Callable[[PlanQuery], PlanQuery]


@dataclass(frozen=True)
class PlanCost:
    """The cost of one plan."""

    wall_ms: float
    cpu_s: float  # sum over all threads of this process


def measure(work: Callable[[], T]) -> tuple[T, PlanCost]:
    """Call ``work`` and return its result with its cost."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return result, PlanCost((time.perf_counter() - wall) * 1e3, time.process_time() - cpu)


def unchanged(query: PlanQuery) -> PlanQuery:
    """The query itself."""
    return query


def stamped(query: PlanQuery, run: int = 0, new_goal: bool = False) -> PlanQuery:
    """A query of an evaluation whose images differ from all others, as those of a real camera do.

    The planner caches encoded images. A robot that stands still in a simulator, or a repeated episode, would therefore
    look cheaper than it is. So the first eight bytes of each frame hold its time step (known from the query's seed),
    equal in all queries that contain this frame, those of the goal image hold the episode; and all hold ``run``, which
    separates repetitions. ``new_goal``: the goal is a new image in every query.
    """
    first = query.seed - len(query.frames) + 1
    frames = [_stamp(frame, run, first + i) for i, frame in enumerate(query.frames)]
    goal = query.goal
    if isinstance(goal, ImageGoal):
        stamp = _stamp(goal.frame, run, -1 - (query.seed if new_goal else query.seed // EPISODE))
        goal = replace(goal, frame=stamp)
    return replace(query, frames=np.stack(frames), goal=goal)


def _stamp(frame: NDArray[np.uint8], run: int, number: int) -> NDArray[np.uint8]:
    marked = frame.copy()
    marked.reshape(-1)[:8] = np.array([run, number], np.int32).view(np.uint8)
    return marked


@dataclass
class InstrumentedPlanner:
    """A planner that records every query with the cost of its plan. ``transform`` is applied to each query first."""

    planner: Planner
    transform: Transform = unchanged
    queries: list[PlanQuery] = field(default_factory=list)
    costs: list[PlanCost] = field(default_factory=list)
    timing_ms: list[dict[str, float]] = field(default_factory=list)  # the planner's own: encode, plan
    reached: list[bool] = field(default_factory=list)  # where true, there was no search

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self.planner.card

    def check(self, query: PlanQuery) -> None:
        """See Planner."""
        self.planner.check(self.transform(query))

    def plan(self, queries: list[PlanQuery]) -> list[PlanResult]:
        """See Planner. The cost of a batch is recorded once."""
        transformed = [self.transform(query) for query in queries]
        results, cost = measure(lambda: self.planner.plan(transformed))
        self.queries += transformed
        self.costs.append(cost)
        self.timing_ms.append(results[0].timing_ms)
        self.reached.append(results[0].reached)
        return results


def policies(planner: Planner, transforms: Mapping[str, Transform]) -> list[Policy]:
    """One policy for each transform of the planner's queries, by name."""
    return [
        replace(local_planner(InstrumentedPlanner(planner, transform)), name=name)
        for name, transform in transforms.items()
    ]


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th and 99th percentile by name."""
    return dict(zip(("p50", "p95", "p99"), percentiles(values, (50, 95, 99)), strict=True))


def summarise(costs: Sequence[PlanCost]) -> dict[str, Any]:
    """Number of plans, quantiles of the wall time in milliseconds, and mean CPU-seconds of a plan."""
    return {
        "plans": len(costs),
        "wall_ms": quantiles([cost.wall_ms for cost in costs]),
        "cpu_s": sum(cost.cpu_s for cost in costs) / len(costs),
    }


def summary(planners: Sequence[InstrumentedPlanner], reached: bool = False) -> dict[str, Any]:
    """``summarise`` for the plans that needed a search, with encoding and search apart.

    ``reached``: for the other plans instead, where the goal counted as reached and the answer was to hold still.
    """
    recorded = [x for p in planners for x in zip(p.costs, p.timing_ms, p.reached, strict=True)]
    timings = [timing for _, timing, at_goal in recorded if at_goal == reached]
    return {
        **summarise([cost for cost, _, at_goal in recorded if at_goal == reached]),
        "encode_ms": quantiles([timing["encode"] for timing in timings]),
        "search_ms": quantiles([timing["plan"] for timing in timings]),
    }


@contextlib.contextmanager
def threads(count: int) -> Iterator[None]:
    """Let torch use this many threads in the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if count > 1:
            time.sleep(SETTLE_S)


def closed_loop_queries(task: Task, simulation: Simulation, planner: Planner, pairs: Sequence[Pair]) -> list[PlanQuery]:
    """The queries that a planner receives while it plays these pairs: real frames, its own previous plan, the goals."""
    instrumented = InstrumentedPlanner(planner)
    play(task, simulation, local_planner(instrumented), pairs, task.evaluation_steps, progress=False)
    return instrumented.queries[1:]  # the first query is repeated: see ``play``


def replay(planner: Planner, queries: Sequence[PlanQuery], run: int, new_goals: bool = False) -> InstrumentedPlanner:
    """Replay the queries of a closed loop in their order, with images that are in none of the planner's caches.

    An episode's first query, at which the goal is new, is not recorded. With ``new_goals`` every query has a new goal.
    """
    instrumented = InstrumentedPlanner(planner)
    for query in queries:
        (instrumented if query.seed % EPISODE else planner).plan([stamped(query, run, new_goals)])
    return instrumented
