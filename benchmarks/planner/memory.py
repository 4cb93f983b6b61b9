"""Whether memory stays flat over many plans, each with pictures never seen before."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from benchmarks.part import Part
from hnet_vjepa.checkpoint import read_manifest
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.interface import Planner, PlanQuery, SearchSettings
from hnet_vjepa.planning.planner import load_planner

MARKS = (1_000, 10_000)  # plans
SMALL = SearchSettings(candidates=8, iterations=2, horizon=2, elites=2)
STATM = Path("/proc/self/statm")


def resident_mb() -> float:
    """Memory that this process holds now, in MiB. Raises UserError where the system does not say (not Linux)."""
    if not STATM.is_file():
        raise UserError(f"no {STATM}: this system does not say how much memory a process holds")
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def held_after(planner: Planner, marks: Sequence[int], search: SearchSettings) -> list[float]:
    """Memory in MiB after so many plans (rising numbers), every one with another picture, goal and seed."""
    camera, window = planner.card.camera, planner.card.history + 1
    rng, held, made = np.random.default_rng(0), list[float](), 0
    for mark in marks:
        while made < mark:
            shape = (1 + made % window, camera.height, camera.width, 3)
            frames = rng.integers(0, 256, shape, np.uint8)
            goal = ImageGoal(rng.integers(0, 256, shape[1:], np.uint8))
            planner.plan([PlanQuery(frames, goal, made, search=search)])
            made += 1
        held.append(resident_mb())
    return held


def memory(checkpoint: Path, marks: Sequence[int] = MARKS) -> Part:
    """Plan in a process of its own, one thread, and compare what it holds at the first mark and at the last."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        held = pool.submit(_alone, checkpoint, marks).result()
    return Part(
        {"weights": read_manifest(checkpoint).fingerprint, "search": asdict(SMALL), "plans": list(marks)},
        {"rss_growth_mb": held[-1] - held[0]},
        {"rss_mb": held},
    )


def _alone(checkpoint: Path, marks: Sequence[int]) -> list[float]:
    torch.set_num_threads(1)
    return held_after(load_planner(checkpoint), marks, SMALL)
