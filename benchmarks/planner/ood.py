"""Error rates of the out-of-distribution (OOD) detector, on the task's goal images and on corrupted or foreign ones."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.part import Part
from benchmarks.planner.instrumented import threads
from benchmarks.table import Result, Table
from hnet_vjepa.checkpoint import read_manifest
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.interface import Planner, PlanQuery, SearchSettings
from hnet_vjepa.planning.planner import load_planner
from sims.core.registry import get_task
from sims.core.task import Task
from sims.core.variation import Variation
from sims.evaluation.pairs import make_pairs
from sims.evaluation.robustness import under_variation
from sims.evaluation.statistics import wilson

PAIRS = 300  # whose goal images are in distribution
OOD_IMAGES = 100  # images of each kind that are not
BLOCK = 20  # side of the block that occludes a part of the image, in pixels
STRENGTHS = (0.5, 1.0)  # of the factors of variation
OTHERS = ("reacher", "point-maze")  # whose images show another robot
CHEAP = SearchSettings(candidates=1, iterations=1, horizon=1, elites=1)  # only the flag of the answer is used

Images = NDArray[np.uint8]  # N x H x W x 3


def ood(task: Task, checkpoint: Path, pairs: int = PAIRS, ood_images: int = OOD_IMAGES) -> Part:
    """How often goal images are flagged: those of test pairs, and several kinds of out-of-distribution images.

    Raises UserError when the checkpoint has no detector.
    """
    with threads(1), contextlib.closing(task.open()) as simulation:
        planner = load_planner(checkpoint)
        drawn = make_pairs(task, simulation, "test", 0, pairs, "image")
        usual = np.stack([pair.goal_frame for pair in drawn])
        kinds = corrupted(usual[:ood_images])
        for factor in task.factors:
            for strength in STRENGTHS if factor != "friction" else ():  # which no image shows
                simulation.vary(Variation(factor, strength))
                varied = under_variation(simulation, drawn[:ood_images])
                kinds[f"{factor}, strength {strength:g}"] = np.stack([pair.goal_frame for pair in varied])
        simulation.vary(Variation())
        for name in OTHERS:
            kinds[f"another robot: {name}"] = goals_of(get_task(name), ood_images)
        false = flagged(planner, usual, usual[0])
        found = {kind: flagged(planner, images, usual[0]) for kind, images in kinds.items()}
    rows = [{"kind": "goals of test pairs", "out_of_distribution": False, **_rate(false)}]
    rows += [{"kind": kind, "out_of_distribution": True, **_rate(flags)} for kind, flags in found.items()]
    return Part(
        settings={"weights": read_manifest(checkpoint).fingerprint, "task": task.name, "split": "test"},
        metrics={
            "unfamiliar_false_rate": float(np.mean(false)),
            "unfamiliar_true_rate": float(np.mean([np.mean(flags) for flags in found.values()])),
        },
        behind={"rows": rows},
    )


def flagged(planner: Planner, images: Images, frame: NDArray[np.uint8]) -> list[bool]:
    """For each goal image, whether the planner flags it as out of distribution; the present frame is ``frame``.

    Raises UserError for a checkpoint without a detector.
    """
    flags = []
    for image in images:
        [plan] = planner.plan([PlanQuery(frame[None], ImageGoal(image), search=CHEAP)])
        if plan.ood is None:
            raise UserError(f"{planner.card.name} has no out-of-distribution detector; train it again")
        flags.append("goal" in plan.ood)
    return flags


def corrupted(images: Images) -> dict[str, Images]:
    """Images (N x H x W x 3) corrupted in several ways, by kind."""
    random = np.random.default_rng(0)
    covered = images.copy()
    for image in covered:
        row, column = (int(random.integers(size - BLOCK)) for size in image.shape[:2])
        image[row : row + BLOCK, column : column + BLOCK] = random.integers(0, 256, 3)
    ways: dict[str, Callable[[], Images]] = {
        "noise": lambda: random.integers(0, 256, images.shape).astype(np.uint8),
        "upside down": lambda: np.ascontiguousarray(images[:, ::-1]),
        f"a {BLOCK} x {BLOCK} block occludes a part": lambda: covered,
    }
    return {kind: make() for kind, make in ways.items()}


def goals_of(task: Task, count: int) -> Images:
    """Goal images of another task's dev pairs: N x H x W x 3."""
    with contextlib.closing(task.open()) as simulation:
        return np.stack([pair.goal_frame for pair in make_pairs(task, simulation, "dev", 0, count, "image")])


def _rate(flags: list[bool]) -> dict[str, float]:
    rate = wilson(sum(flags), len(flags))
    return {"images": len(flags), "rate": rate.value, "low": rate.low, "high": rate.high}


def table(result: Result) -> Table:
    """How often images are flagged, of those in distribution and of those that are not."""
    rows = [
        [
            row["kind"],
            "yes" if row["out_of_distribution"] else "no",
            f"{100 * row['rate']:.0f} % ({100 * row['low']:.0f}–{100 * row['high']:.0f})",
            str(row["images"]),
        ]
        for row in result.parts["ood"]["rows"]
    ]
    note = "Goal images of test pairs, original and modified; 95 % Wilson intervals in brackets."
    return Table(["goal images", "out of distribution", "flagged", "images"], rows, note, ("ood",))
