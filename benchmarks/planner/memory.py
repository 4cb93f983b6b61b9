"""Growth of the resident memory over many plans, each with new images."""

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
from benchmarks.table import Result, Table
from hnet_vjepa.checkpoint import read_manifest
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.interface import Planner, PlanQuery, SearchSettings
from hnet_vjepa.planning.planner import load_planner

MARKS = (1_000, 10_000)  # plans
SMALL = SearchSettings(candidates=8, iterations=2, horizon=2, elites=2)
STATM = Path("/proc/self/statm")


def resident_mb() -> float:
    """Resident memory of this process in MiB. Raises UserError on systems other than Linux."""
    if not STATM.is_file():
        raise UserError(f"no {STATM}: resident memory can be measured on Linux only")
    return int(STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def resident_after(planner: Planner, marks: Sequence[int], search: SearchSettings) -> list[float]:
    """Resident memory in MiB after each number of plans (ascending), every plan with other frames, goal and seed."""
    camera, window = planner.card.camera, planner.card.history + 1
    rng, resident, made = np.random.default_rng(0), list[float](), 0
    for mark in marks:
        while made < mark:
            shape = (1 + made % window, camera.height, camera.width, 3)
            frames = rng.integers(0, 256, shape, np.uint8)
            goal = ImageGoal(rng.integers(0, 256, shape[1:], np.uint8))
            planner.plan([PlanQuery(frames, goal, made, search=search)])
            made += 1
        resident.append(resident_mb())
    return resident


def memory(checkpoint: Path, marks: Sequence[int] = MARKS) -> Part:
    """Plan in a process of its own, one thread, and compare its memory at the first mark and at the last."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        resident = pool.submit(_alone, checkpoint, marks).result()
    return Part(
        {"weights": read_manifest(checkpoint).fingerprint, "search": asdict(SMALL), "plans": list(marks)},
        {"rss_growth_mb": resident[-1] - resident[0]},
        {"rss_mb": resident},
    )


def _alone(checkpoint: Path, marks: Sequence[int]) -> list[float]:
    torch.set_num_threads(1)
    return resident_after(load_planner(checkpoint), marks, SMALL)


def table(result: Result) -> Table:
    """Resident memory after each number of plans."""
    part = result.parts["memory"]
    rows = [[str(n), f"{mb:.0f}"] for n, mb in zip(part["settings"]["plans"], part["rss_mb"], strict=True)]
    growth = part["rss_mb"][-1] - part["rss_mb"][0]
    note = f"Every plan has new frames and a new goal image; growth {growth:+.1f} MiB."
    return Table(["plans made", "resident memory, MiB"], rows, note, ("memory",))
