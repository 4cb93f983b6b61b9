"""The toy robot as a simulated task for the planner's benchmark, and a peer small enough for tests."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.part import Part
from benchmarks.planner.peer import Peer, PeerSize
from benchmarks.table import Parts, Result, Table
from sims.core.language import Placement
from sims.core.task import Action, Controller, State, Task
from sims.core.variation import Variation
from tests import toy

TINY = PeerSize(patch=112, width=8, encoder_depth=1, encoder_heads=2, depth=1, heads=2, head_width=4, hidden=16)


class Square:
    """The toy robot as a simulation: a square that the actions move over the image."""

    def __init__(self) -> None:
        self.position = np.array([toy.WIDTH / 2, toy.HEIGHT / 2])

    def reset(self) -> None:
        """Go to the middle."""
        self.position = np.array([toy.WIDTH / 2, toy.HEIGHT / 2])

    def step(self, action: Action) -> None:
        """Move, but stay inside the image."""
        self.position = np.clip(self.position + np.clip(action[:2], -3, 3), 5, (toy.WIDTH - 5, toy.HEIGHT - 5))

    def frame(self) -> NDArray[np.uint8]:
        """The image."""
        return toy.picture(*self.position)

    def state(self) -> State:
        """Column and row."""
        return self.position.astype(np.float32)

    def save(self) -> NDArray[np.float64]:
        """The position."""
        return self.position.copy()

    def restore(self, saved: NDArray[np.float64]) -> None:
        """Go there."""
        self.position = saved.copy()

    def vary(self, variation: Variation) -> None:
        """Nothing varies."""

    def close(self) -> None:
        """Nothing to release."""


def controller(goal: State) -> Controller:
    """Straight towards the goal, up to 3 pixels along each axis."""
    return lambda state: np.array([*np.clip(goal - state, -3, 3), 0, 0, 0, 0, 0], np.float32)


TASK = Task(
    name="square",
    description="a square in a picture",
    licence="none",
    action=toy.SPEC,
    camera=toy.CAMERA,
    states=("x", "y"),
    open=Square,
    data_policy=lambda rng: lambda state: np.array([*rng.uniform(-3, 3, 2), 0, 0, 0, 0, 0], np.float32),
    sample_goal=lambda rng: rng.uniform((6, 6), (toy.WIDTH - 6, toy.HEIGHT - 6)).astype(np.float32),
    controller=controller,
    distance=lambda state, goal: float(np.linalg.norm(state - goal)),
    place=lambda state: Placement(0.0, 0.0, 0.0),
    unit="px",
    tolerances=(6.0, 4.0, 2.0),
    min_goal_distance=8.0,
    evaluation_steps=3,
)


# The label "left" holds in a band in the middle, so that paths can cross it.
BANDED = replace(TASK, place=lambda state: Placement(-1.0 if 13 < state[0] < 19 else 1.0, 0.0, 0.0), evaluation_steps=8)


def tiny_peer(action_dim: int) -> Peer:
    """A peer with random weights from a fixed seed."""
    torch.manual_seed(0)
    return Peer(action_dim, TINY).eval()


def result_of(**parts: Part) -> Result:
    """Parts as they are read from a result file; in names, ``__`` stands for a hyphen."""
    plain = {
        name.replace("__", "-"): json.loads(json.dumps({"settings": part.settings, **part.behind}))
        for name, part in parts.items()
    }
    return Result(Parts(plain), {})


def check_table(table: Table) -> None:
    """Every row has as many cells as the header, and there is a note."""
    assert table.rows and table.note.endswith(".")
    assert {len(row) for row in table.rows} == {len(table.head)}
