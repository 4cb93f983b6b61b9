"""The search that ships against others (``searches``), at equal numbers of imagined steps, on the same pairs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.part import Part
from benchmarks.planner.ablation import SHIPPED, compared
from benchmarks.planner.instrumented import Watched, summarise, threads
from benchmarks.planner.searches import BACKWARD, gradients, icem, mppi, random_shooting
from hnet_vjepa.checkpoint import Checkpoint, load_checkpoint
from hnet_vjepa.planning.cem import Found, Search, SearchProblem, search_actions
from hnet_vjepa.planning.interface import PlanQuery, PlanResult, SearchSettings
from hnet_vjepa.planning.planner import WorldModelPlanner
from sims.core.task import Simulation, Task
from sims.evaluation.evaluate import criteria_of, evaluate
from sims.evaluation.pairs import Pair, make_pairs
from sims.evaluation.policies import Policy, check_card, local_planner
from sims.evaluation.results import summary

PAIRS = 20
LARGER = 4  # times the shipped budget, for the second comparison
FEWER = 3  # times fewer pairs there

SEARCHES: dict[str, Search] = {
    SHIPPED: search_actions,
    "iCEM": icem,
    "MPPI": mppi,
    "gradients": gradients,
    "random shooting": random_shooting,
}


@dataclass
class Counted:
    """A search that notes how many steps it had imagined; of a step that was differentiated, those of both passes."""

    search: Search
    steps: int = 0
    plans: int = 0

    def __call__(self, problem: SearchProblem) -> Found:
        """See Search."""

        def counted(actions: Tensor) -> Tensor:
            self.steps += actions.shape[:3].numel() * (BACKWARD if actions.requires_grad else 1)
            return problem.score(actions)

        self.plans += len(problem.start)
        return self.search(replace(problem, score=counted))


class DifferentiablePlanner(WorldModelPlanner):
    """The planner without inference mode, in which nothing can be differentiated."""

    def plan(self, queries: list[PlanQuery]) -> list[PlanResult]:
        """See Planner."""
        plain: Callable[[WorldModelPlanner, list[PlanQuery]], list[PlanResult]] = WorldModelPlanner.plan.__wrapped__  # type: ignore[attr-defined]
        with torch.no_grad():
            return plain(self, queries)


def budgets(shipped: SearchSettings, pairs: int) -> dict[str, tuple[SearchSettings, int]]:
    """The settings at which searches are compared, by name, and on how many pairs."""
    larger = replace(shipped, candidates=2 * shipped.candidates, iterations=LARGER // 2 * shipped.iterations)
    return {"as shipped": (shipped, pairs), f"{LARGER} times as much": (larger, -(-pairs // FEWER))}


def alternatives(task: Task, checkpoint: Path, pairs: int = PAIRS, searches: Mapping[str, Search] = SEARCHES) -> Part:
    """Play the same dev pairs with every search at both budgets, one thread."""
    loaded = load_checkpoint(checkpoint)
    shipped = WorldModelPlanner(loaded).card
    check_card(task, shipped, "image")
    with contextlib.closing(task.open()) as simulation, threads(1):
        drawn = make_pairs(task, simulation, "dev", 0, pairs, "image")
        rows = [
            row
            for budget, (search, count) in budgets(shipped.search, pairs).items()
            for row in played(task, simulation, loaded, searches, search, budget, drawn[:count])
        ]
    return Part(
        {
            "task": task.name,
            "weights": loaded.fingerprint,
            "split": "dev",
            "pairs": pairs,
            "unit": task.unit,
            "criterion": criteria_of(task, "image")[-1],
            "threads": 1,
        },
        {},
        {"rows": rows},
    )


def played(
    task: Task,
    simulation: Simulation,
    checkpoint: Checkpoint,
    searches: Mapping[str, Search],
    settings: SearchSettings,
    budget: str,
    pairs: Sequence[Pair],
) -> list[dict[str, Any]]:
    """One row for every search: success at the strictest tolerance, what it costs, and how it compares with ours."""
    counted = {name: Counted(search) for name, search in searches.items()}
    instrumented = {name: Watched(planner(checkpoint, one), in_budget(settings)) for name, one in counted.items()}
    policies: list[Policy] = [replace(local_planner(w), name=name) for name, w in instrumented.items()]
    result = evaluate(task, simulation, policies, pairs, "dev", 0, "image", progress=False)
    rows = []
    for method in result.methods:
        found = summary(result, method)
        rows.append(
            {
                "who": method.name,
                "budget": budget,
                "search": asdict(settings),
                "success_end": found["success"][result.criteria[-1]]["end"],
                "final_distance": found["final_distance"]["p50"],
                "imagined": counted[method.name].steps / counted[method.name].plans,
                "cpu_s": summarise(instrumented[method.name].spent[1:])[
                    "cpu_s"
                ],  # the first is asked twice: see ``play``
                "against": None if method.name == SHIPPED else compared(result, SHIPPED, method.name),
            }
        )
    return rows


def planner(checkpoint: Checkpoint, counted: Counted) -> WorldModelPlanner:
    """A planner that searches this way."""
    make = DifferentiablePlanner if counted.search is gradients else WorldModelPlanner
    return make(checkpoint, counted)


def in_budget(settings: SearchSettings) -> Callable[[PlanQuery], PlanQuery]:
    """Ask for a search of these settings."""
    return lambda query: replace(query, search=settings)
