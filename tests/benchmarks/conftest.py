"""What several tests of the planner's benchmark share: the toy checkpoint and the queries of its closed loop."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.planner.instrumented import closed_loop_queries
from hnet_vjepa.checkpoint import Checkpoint, load_checkpoint
from hnet_vjepa.planning.interface import PlanQuery
from hnet_vjepa.planning.planner import load_planner
from sims.evaluation.pairs import make_pairs
from tests.benchmarks.square import TASK, Square


@pytest.fixture(scope="session")
def checkpoint_path(toy_run: Path) -> Path:
    return toy_run / "action"


@pytest.fixture(scope="session")
def checkpoint(checkpoint_path: Path) -> Checkpoint:
    return load_checkpoint(checkpoint_path)


@pytest.fixture(scope="session")
def queries(checkpoint_path: Path) -> list[PlanQuery]:
    """The queries of two closed-loop episodes of three actions each."""
    simulation, planner = Square(), load_planner(checkpoint_path)
    return closed_loop_queries(TASK, simulation, planner, make_pairs(TASK, simulation, "dev", 0, 2, "image"))
