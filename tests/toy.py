"""A toy robot for tests: a bright square that the actions move over a dark picture, and a model small enough for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from hnet_vjepa.checkpoint import Checkpoint
from hnet_vjepa.config import Config, parse_config
from hnet_vjepa.data.store import Episode, StoreInfo, create_store, write_shard
from hnet_vjepa.specs import ActionSpec, CameraSpec

HEIGHT, WIDTH = 32, 40  # not square, so that height and width cannot be confused unnoticed
SHAPE = (HEIGHT, WIDTH, 3)
SPEC = ActionSpec(low=(-3.0, -3.0, 0, 0, 0, 0, 0), high=(3.0, 3.0, 0, 0, 0, 0, 0), active=(0, 1))
CAMERA = CameraSpec(height=HEIGHT, width=WIDTH, dt=0.1)
LABELS = ("left", "right")


def picture(x: float, y: float) -> np.ndarray:
    """A square of 8 pixels centred at column x, row y."""
    frame = np.full(SHAPE, 30, np.uint8)
    column, row = round(x), round(y)
    frame[max(0, row - 4) : row + 4, max(0, column - 4) : column + 4] = (250, 200, 60)
    return frame


def episode(index: int, frames: int = 12) -> Episode:
    rng = np.random.default_rng(index)
    position = rng.uniform((6, 6), (WIDTH - 6, HEIGHT - 6))
    places, actions = [position.copy()], []
    for _ in range(frames - 1):
        move = rng.uniform(-3, 3, 2)
        after = np.clip(position + move, 5, (WIDTH - 5, HEIGHT - 5))
        actions.append([*(after - position), 0, 0, 0, 0, 0])
        position = after
        places.append(position.copy())
    sides = ["left" if x < WIDTH / 2 else "right" for x, _ in places]
    return Episode(
        index=index,
        seed=index,
        frames=np.stack([picture(x, y) for x, y in places]),
        actions=np.array(actions, np.float32),
        captions=tuple((f"the square is at the {side}", f"go {side}") for side in sides),
        states=(np.array(places) / 100).astype(np.float32),
        labels=np.array([[side == name for name in LABELS] for side in sides], np.uint8),
    )


def make_store(path: Path, episodes: int = 20, frames: int = 12) -> Path:
    info = StoreInfo(
        source="toy",
        camera=CAMERA,
        action=SPEC,
        shards=1,
        states=("x [m]", "y [m]"),
        labels=LABELS,
        settings={"seed": 0},
    )
    create_store(path, info)
    write_shard(path, 0, info, [episode(i, frames) for i in range(episodes)])
    return path


def config(**changes: Any) -> Config:
    """A configuration that trains in seconds. Sections are given as dicts and are merged over the small ones."""
    steps = {"steps": 4, "batch_size": 8, "clip_frames": 3, "save_every": 2, "log_every": 1}
    values: dict[str, Any] = {
        "name": "toy",
        "precision": "fp32",
        "model": {
            "backbone": {
                "encoder": {"stem_width": 8, "widths": [8, 16], "depths": [1, 1], "times": [1, 2]},
                "attention": {"heads": 2},
                "routing": {"grid": [3, 3]},
                "pooling": {"grid": [2, 2]},
                "vit": {"depth": 1, "heads": 2},
            },
            "predictor": {"width": 16, "depth": 1, "heads": 2},
            "world_model": {"state_dim": 8, "width": 16, "depth": 1, "heads": 2, "inverse_width": 32},
            "text": {"width": 16, "heads": 2, "embedding": 16, "buckets": 256},
        },
        **{phase: dict(steps) for phase in ("pretrain", "language", "probe", "action", "heads")},
        "plan": {"candidates": 16, "iterations": 3, "elites": 4},
    }
    for section, change in changes.items():
        values[section] = {**values.get(section, steps), **change} if isinstance(change, dict) else change
    return parse_config(values, "toy")


def with_plan(checkpoint: Checkpoint, **changes: Any) -> Checkpoint:
    """The same checkpoint with other fields in its configuration's section ``plan``."""
    config = checkpoint.model.config
    checkpoint.model.config = config.model_copy(update={"plan": config.plan.model_copy(update=changes)})
    return checkpoint
