"""Far goals: the search as it ships, without its temporal distance, and by way of sub-goals, on the same dev pairs."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.part import Part
from benchmarks.planner.ablation import Variant, build, compared
from benchmarks.planner.instrumented import threads
from hnet_vjepa.checkpoint import Checkpoint, load_checkpoint
from sims.core.task import Simulation, Task
from sims.evaluation.evaluate import evaluate
from sims.evaluation.pairs import GoalKind, budget, make_pairs
from sims.evaluation.policies import check_card, local_planner
from sims.evaluation.results import summary

SUBGOALS = 5  # coarse steps, where the configuration has none


@dataclass(frozen=True)
class Asked:
    """Goals of one kind. ``distance``: in steps of the environment; None: the task's own, far away by construction."""

    kind: GoalKind
    distance: int | None
    pairs: int


ASKED = (Asked("image", 25, 10), Asked("image", 50, 10), Asked("image", 75, 8))
BEHIND_WALLS = (Asked("image", None, 30), Asked("label", None, 30))

FLAT, LATENT = "flat", "flat, latent distance alone"


def methods(checkpoint: Checkpoint, kind: GoalKind) -> list[Variant]:
    """What is compared: sub-goals only for models that have learnt a coarse model."""
    steps = checkpoint.model.config.plan.subgoals or SUBGOALS
    known = checkpoint.model.world_model.macro_dynamics is not None
    if kind != "image":
        return [
            Variant(FLAT, {"subgoals": 0}),
            *([Variant("sub-goals", {"subgoals": steps}, against=FLAT)] if known else []),
        ]
    # When a goal counts as reached is calibrated for the whole energy: without one of its terms it means nothing.
    latent = Variant(LATENT, {"subgoals": 0, "temporal_distance": 0.0}, holds=False, against=FLAT)
    ways = Variant(
        "sub-goals, latent distance alone", {"subgoals": steps, "temporal_distance": 0.0}, holds=False, against=LATENT
    )
    return [Variant(FLAT, {"subgoals": 0}), latent, *([ways] if known else [])]


def far(task: Task, checkpoint: Path, asked: Sequence[Asked]) -> Part:
    """Play every kind of goal that the model takes, one thread. Raises UserError when it was made for another robot."""
    loaded = load_checkpoint(checkpoint)
    rows: list[dict[str, Any]] = []
    with contextlib.closing(task.open()) as simulation:
        for goals in asked:
            if goals.kind != "label" or "probe" in loaded.manifest.trained():
                rows += _played(task, simulation, loaded, goals)
    settings = {"task": task.name, "weights": loaded.fingerprint, "split": "dev", "unit": task.unit, "threads": 1}
    return Part(settings, {}, {"rows": rows})


def _played(task: Task, simulation: Simulation, checkpoint: Checkpoint, goals: Asked) -> list[dict[str, Any]]:
    variants = methods(checkpoint, goals.kind)
    planners = [build(checkpoint, variant) for variant in variants]
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
            "compared": None if method.name == FLAT else compared(result, against[method.name], method.name),
        }
        for method in result.methods
    ]
