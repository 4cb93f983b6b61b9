"""Distant goals: the shipped search, without its temporal distance, and with subgoals, on the same dev pairs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.part import Part
from benchmarks.planner.cells import difference, milliseconds
from benchmarks.planner.comparison import compare_methods
from benchmarks.planner.instrumented import threads
from benchmarks.planner.variants import Variant, build_planner
from benchmarks.table import Result, Table, rate
from hnet_vjepa.checkpoint import Checkpoint, load_checkpoint
from sims.core.task import Simulation, Task
from sims.evaluation.evaluate import evaluate
from sims.evaluation.pairs import GoalKind, budget, make_pairs
from sims.evaluation.policies import check_card, local_planner
from sims.evaluation.results import summary

SUBGOALS = 5  # steps of the macro dynamics, where the configuration has none


@dataclass(frozen=True)
class GoalSet:
    """Goals of one kind. ``distance``: in steps of the environment; None: the task's own goals."""

    kind: GoalKind
    distance: int | None
    pairs: int


IMAGES = (GoalSet("image", 25, 10), GoalSet("image", 50, 10), GoalSet("image", 75, 8))
BEHIND_WALLS = (GoalSet("image", None, 30), GoalSet("label", None, 30))

FLAT, LATENT = "flat", "flat, latent distance only"


def methods(checkpoint: Checkpoint, kind: GoalKind) -> list[Variant]:
    """The methods that are compared; those with subgoals only for models that have macro dynamics."""
    steps = checkpoint.model.config.plan.subgoals or SUBGOALS
    hierarchical = checkpoint.model.world_model.macro_dynamics is not None
    if kind != "image":
        return [
            Variant(FLAT, {"subgoals": 0}),
            *([Variant("subgoals", {"subgoals": steps}, against=FLAT)] if hierarchical else []),
        ]
    # The threshold below which a goal counts as reached is calibrated for the whole energy, not for one of its terms.
    latent = Variant(LATENT, {"subgoals": 0, "temporal_distance": 0.0}, holds=False, against=FLAT)
    subgoals = Variant(
        "subgoals, latent distance only", {"subgoals": steps, "temporal_distance": 0.0}, holds=False, against=LATENT
    )
    return [Variant(FLAT, {"subgoals": 0}), latent, *([subgoals] if hierarchical else [])]


def long_horizon(task: Task, checkpoint: Path, goal_sets: Sequence[GoalSet]) -> Part:
    """Play all goals that the model supports, one thread. Raises UserError when it is for another robot."""
    loaded = load_checkpoint(checkpoint)
    rows: list[dict[str, Any]] = []
    with contextlib.closing(task.open()) as simulation:
        for goals in goal_sets:
            if goals.kind != "label" or "probe" in loaded.manifest.trained():
                rows += _play(task, simulation, loaded, goals)
    settings = {"task": task.name, "weights": loaded.fingerprint, "split": "dev", "unit": task.unit, "threads": 1}
    return Part(settings, {}, {"rows": rows})


def _play(task: Task, simulation: Simulation, checkpoint: Checkpoint, goals: GoalSet) -> list[dict[str, Any]]:
    variants = methods(checkpoint, goals.kind)
    planners = [build_planner(checkpoint, variant) for variant in variants]
    check_card(task, planners[0].card, goals.kind)
    policies = [replace(local_planner(p), name=v.name) for p, v in zip(planners, variants, strict=True)]
    pairs = make_pairs(task, simulation, "dev", 0, goals.pairs, goals.kind, goals.distance)
    steps = budget(task, goals.distance)
    with threads(1):
        result = evaluate(
            task,
            simulation,
            policies,
            pairs,
            "dev",
            0,
            goals.kind,
            steps=steps,
            distance=goals.distance,
            progress=False,
        )
    against = {variant.name: variant.against for variant in variants}
    return [
        {
            **asdict(goals),
            "actions": steps,
            "method": method.name,
            **summary(result, method),
            "compared": None if method.name == FLAT else compare_methods(result, against[method.name], method.name),
        }
        for method in result.methods
    ]


def table(result: Result) -> Table:
    """Every method at the loosest criterion, compared on the same pairs."""
    names = tuple(name for name in result.parts if name.startswith("long-horizon-"))
    rows = []
    for name in names:
        last = None
        for row in result.parts[name]["rows"]:
            criterion, found = next(iter(row["success"].items()))
            away = "the task's own" if row["distance"] is None else f"{row['distance']} steps away"
            task = result.parts[name]["settings"]["task"]
            goals = f"`{task}`, {row['kind']}s, {away}; {criterion}, {row['pairs']} pairs"
            compared = row["compared"]
            against = difference(compared["success_end"][criterion], compared["against"]) if compared else "–"
            rates = [rate(found[when]) for when in ("ever", "end")]
            shown = "" if goals == last else goals
            rows.append([shown, row["method"], *rates, against, milliseconds(row["plan_ms"]["p50"])])
            last = goals
    note = (
        "Dev pairs, one thread; the budget is twice the distance in steps, or the task's own number of actions; "
        "comparisons pair by pair (exact McNemar test)."
    )
    return Table(["goals", "method", "success ever", "at the end", "end, compared", "ms p50"], rows, note, names)
