"""What plans cost, in wall time and in CPU time, noted while a planner works."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
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
from sims.evaluation.policies import local_planner
from sims.evaluation.statistics import percentiles

EPISODE = 1000  # between the seeds of two episodes' first queries: see sims.evaluation.policies.PlannerPolicy
SETTLE_S = 0.5  # torch's threads wait actively for a while after their last work, which would count for what follows

T = TypeVar("T")


@dataclass(frozen=True)
class Spent:
    """The cost of one plan."""

    wall_ms: float
    cpu_s: float  # of all threads of this process together


def measured(work: Callable[[], T]) -> tuple[T, Spent]:
    """Do something and say what it cost."""
    cpu, wall = time.process_time(), time.perf_counter()
    result = work()
    return result, Spent((time.perf_counter() - wall) * 1e3, time.process_time() - cpu)


def as_asked(query: PlanQuery) -> PlanQuery:
    """The query itself."""
    return query


def stamped(query: PlanQuery, run: int = 0, new_goal: bool = False) -> PlanQuery:
    """A query of an evaluation as a real camera would make it, of which no two pictures are alike.

    A planner remembers the pictures it has encoded. A robot that stands still in a simulator, or an episode asked once
    more, would seem cheaper than it is. So three pixels of each frame tell the moment (the query's seed says which it
    is), the same for all queries that see it, and of the goal the episode; and ``run``, which sets repetitions apart.
    ``new_goal``: the goal is another picture in every query.
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
class Watched:
    """A planner that notes every query with what its plan cost, and may be made to answer a changed query instead."""

    planner: Planner
    change: Callable[[PlanQuery], PlanQuery] = as_asked
    queries: list[PlanQuery] = field(default_factory=list)
    spent: list[Spent] = field(default_factory=list)
    timing_ms: list[dict[str, float]] = field(default_factory=list)  # the planner's own: encode, plan
    reached: list[bool] = field(default_factory=list)  # then no search was made

    @property
    def card(self) -> ModelCard:
        """What the model is."""
        return self.planner.card

    def check(self, query: PlanQuery) -> None:
        """See Planner."""
        self.planner.check(self.change(query))

    def plan(self, queries: list[PlanQuery]) -> list[PlanResult]:
        """See Planner. The cost of a batch counts for its first query."""
        asked = [self.change(query) for query in queries]
        results, spent = measured(lambda: self.planner.plan(asked))
        self.queries += asked
        self.spent.append(spent)
        self.timing_ms.append(results[0].timing_ms)
        self.reached.append(results[0].reached)
        return results


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Median, 95th and 99th percentile by name."""
    return dict(zip(("p50", "p95", "p99"), percentiles(values, (50, 95, 99)), strict=True))


def summarise(spent: Sequence[Spent]) -> dict[str, Any]:
    """Number of plans, quantiles of the wall time in milliseconds, and mean CPU-seconds of a plan."""
    return {
        "plans": len(spent),
        "wall_ms": quantiles([s.wall_ms for s in spent]),
        "cpu_s": sum(s.cpu_s for s in spent) / len(spent),
    }


def summary(instrumented: Sequence[Watched], reached: bool = False) -> dict[str, Any]:
    """What ``summarise`` says of the plans that were searched for, with encoding and search apart.

    ``reached``: of the others, which were answered with holding still.
    """
    noted = [x for w in instrumented for x in zip(w.spent, w.timing_ms, w.reached, strict=True)]
    timings = [timing for _, timing, there in noted if there == reached]
    return {
        **summarise([spent for spent, _, there in noted if there == reached]),
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


def closed_loop(task: Task, simulation: Simulation, planner: Planner, pairs: Sequence[Pair]) -> list[PlanQuery]:
    """What a planner is asked while it plays these pairs: real frames, its own last plan, a goal for each pair."""
    instrumented = Watched(planner)
    play(task, simulation, local_planner(instrumented), pairs, task.evaluation_steps, progress=False)
    return instrumented.queries[1:]  # the first is asked twice: see ``play``


def asked_again(planner: Planner, queries: Sequence[PlanQuery], run: int, new_goals: bool = False) -> Watched:
    """Ask the queries of a closed loop once more, in their order, with pictures that the planner has not seen.

    An episode's first query, at which the goal is new, is asked and not noted. With ``new_goals`` the goal is new
    every time.
    """
    instrumented = Watched(planner)
    for query in queries:
        (instrumented if query.seed % EPISODE else planner).plan([stamped(query, run, new_goals)])
    return instrumented
