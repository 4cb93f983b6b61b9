"""Whether a checkpoint notices pictures that it knows nothing of, and leaves those alone that it knows."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.part import Part
from benchmarks.planner.instrumented import threads
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

PAIRS = 300  # whose goal pictures are familiar
OOD_WARNINGS = 100  # pictures of each kind that are not
BLOCK = 20  # pixels on a side of what covers a part of the picture
STRENGTHS = (0.5, 1.0)  # of the factors of variation
OTHERS = ("reacher", "point-maze")  # whose pictures show another robot
CHEAP = SearchSettings(candidates=1, iterations=1, horizon=1, elites=1)  # only the flag is asked for

Pictures = NDArray[np.uint8]  # N x H x W x 3


def ood(task: Task, checkpoint: Path, pairs: int = PAIRS, out_of_distribution: int = OOD_WARNINGS) -> Part:
    """How often goal pictures are called unfamiliar: those of test pairs, and several kinds of strange ones.

    Raises UserError when the checkpoint does not say.
    """
    with threads(1), contextlib.closing(task.open()) as simulation:
        planner = load_planner(checkpoint)
        drawn = make_pairs(task, simulation, "test", 0, pairs, "image")
        usual = np.stack([pair.goal_frame for pair in drawn])
        kinds = spoilt(usual[:out_of_distribution])
        for factor in task.factors:
            for strength in STRENGTHS if factor != "friction" else ():  # which no picture shows
                simulation.vary(Variation(factor, strength))
                varied = under_variation(simulation, drawn[:out_of_distribution])
                kinds[f"{factor}, strength {strength:g}"] = np.stack([pair.goal_frame for pair in varied])
        simulation.vary(Variation())
        for name in OTHERS:
            kinds[f"another robot: {name}"] = goals_of(get_task(name), out_of_distribution)
        known = called_strange(planner, usual, usual[0])
        found = {kind: called_strange(planner, pictures, usual[0]) for kind, pictures in kinds.items()}
    rows = [{"kind": "goals of test pairs", "strange": False, **_rate(known)}]
    rows += [{"kind": kind, "strange": True, **_rate(flags)} for kind, flags in found.items()]
    return Part(
        settings={"weights": read_manifest(checkpoint).fingerprint, "task": task.name, "split": "test"},
        metrics={
            "unfamiliar_false_rate": float(np.mean(known)),
            "unfamiliar_true_rate": float(np.mean([np.mean(flags) for flags in found.values()])),
        },
        behind={"rows": rows},
    )


def called_strange(planner: Planner, pictures: Pictures, frame: NDArray[np.uint8]) -> list[bool]:
    """Of each picture, whether the planner calls it unfamiliar as a goal, asked from ``frame``."""
    flags = []
    for picture in pictures:
        [plan] = planner.plan([PlanQuery(frame[None], ImageGoal(picture), search=CHEAP)])
        if plan.ood is None:
            raise UserError(f"{planner.card.name} does not say which pictures are familiar; train it again")
        flags.append("goal" in plan.ood)
    return flags


def spoilt(pictures: Pictures) -> dict[str, Pictures]:
    """Pictures (N x H x W x 3) that were made strange in several ways, by kind."""
    random = np.random.default_rng(0)
    covered = pictures.copy()
    for picture in covered:
        row, column = (int(random.integers(size - BLOCK)) for size in picture.shape[:2])
        picture[row : row + BLOCK, column : column + BLOCK] = random.integers(0, 256, 3)
    ways: dict[str, Callable[[], Pictures]] = {
        "noise": lambda: random.integers(0, 256, pictures.shape).astype(np.uint8),
        "upside down": lambda: np.ascontiguousarray(pictures[:, ::-1]),
        f"a {BLOCK} x {BLOCK} block covers a part": lambda: covered,
    }
    return {kind: make() for kind, make in ways.items()}


def goals_of(task: Task, count: int) -> Pictures:
    """Goal pictures of another task's dev pairs: N x H x W x 3."""
    with contextlib.closing(task.open()) as simulation:
        return np.stack([pair.goal_frame for pair in make_pairs(task, simulation, "dev", 0, count, "image")])


def _rate(flags: list[bool]) -> dict[str, float]:
    rate = wilson(sum(flags), len(flags))
    return {"pictures": len(flags), "rate": rate.value, "low": rate.low, "high": rate.high}
