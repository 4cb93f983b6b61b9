"""The shipped search beside other algorithms (``searches``), with equal numbers of imagined steps and equal pairs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.part import Part
from benchmarks.planner.cells import difference, further, search_size
from benchmarks.planner.comparison import compare_methods
from benchmarks.planner.instrumented import InstrumentedPlanner, summarise, threads
from benchmarks.planner.searches import BACKWARD, gradients, icem, mppi, random_shooting
from benchmarks.planner.variants import SHIPPED
from benchmarks.table import Result, Table, rate
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
LARGER = 4  # times the shipped budget, in the second comparison
FEWER = 3  # times fewer pairs in it

SEARCHES: dict[str, Search] = {
    SHIPPED: search_actions,
    "iCEM": icem,
    "MPPI": mppi,
    "gradients": gradients,
    "random shooting": random_shooting,
}


@dataclass
class Counted:
    """A search that counts its imagined steps; a differentiated step counts as forward and backward pass."""

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
    """The planner without inference mode, which forbids gradients."""

    def plan(self, queries: list[PlanQuery]) -> list[PlanResult]:
        """See Planner."""
        plain: Callable[[WorldModelPlanner, list[PlanQuery]], list[PlanResult]] = WorldModelPlanner.plan.__wrapped__  # type: ignore[attr-defined]
        with torch.no_grad():
            return plain(self, queries)


def budgets(shipped: SearchSettings, pairs: int) -> dict[str, tuple[SearchSettings, int]]:
    """The budgets at which searches are compared, by name: search settings and number of pairs."""
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
            for row in play_searches(task, simulation, loaded, searches, search, budget, drawn[:count])
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


def play_searches(
    task: Task,
    simulation: Simulation,
    checkpoint: Checkpoint,
    searches: Mapping[str, Search],
    settings: SearchSettings,
    budget: str,
    pairs: Sequence[Pair],
) -> list[dict[str, Any]]:
    """One row for each search: success at the strictest tolerance, cost, and comparison with the shipped search."""
    counted = {name: Counted(search) for name, search in searches.items()}
    instrumented = {
        name: InstrumentedPlanner(searching(checkpoint, one), in_budget(settings)) for name, one in counted.items()
    }
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
                # The first query is repeated: see ``play``.
                "cpu_s": summarise(instrumented[method.name].costs[1:])["cpu_s"],
                "against": None if method.name == SHIPPED else compare_methods(result, SHIPPED, method.name),
            }
        )
    return rows


def searching(checkpoint: Checkpoint, counted: Counted) -> WorldModelPlanner:
    """A planner with this search."""
    make = DifferentiablePlanner if counted.search is gradients else WorldModelPlanner
    return make(checkpoint, counted)


def in_budget(settings: SearchSettings) -> Callable[[PlanQuery], PlanQuery]:
    """A transform that sets the search settings of a query."""
    return lambda query: replace(query, search=settings)


def table(result: Result) -> Table:
    """Every search on every task at both budgets, compared with the shipped one on the same pairs."""
    names = tuple(name for name in result.parts if name.startswith("alternatives-"))
    rows = []
    for name in names:
        settings, last = result.parts[name]["settings"], ""
        for row in result.parts[name]["rows"]:
            cells = ["–", "–"]
            if row["against"]:
                cells = [
                    difference(row["against"]["success_end"][settings["criterion"]]),
                    further(row["against"]["further"], settings["unit"]),
                ]
            about = f"`{settings['task']}`, within {settings['criterion']}, {search_size(row['search'])}"
            rows.append(
                [
                    about if about != last else "",
                    "CEM (shipped)" if row["who"] == SHIPPED else row["who"],
                    rate(row["success_end"]),
                    *cells,
                    f"{row['imagined']:.0f}",
                    f"{1e3 * row['cpu_s']:.1f}",
                ]
            )
            last = about
    note = (
        "Success at the end on dev pairs, one thread; imagined steps without those of the policy prior, which all "
        "searches use; a differentiated step counts three times. Comparisons pair by pair (exact McNemar test)."
    )
    head = [
        "",
        "search",
        "success",
        "against the shipped search",
        "final distance, median difference",
        "steps per plan",
        "CPU ms per plan",
    ]
    return Table(head, rows, note, names)
