"""Whether chunks follow content: the counts, and that a model with a budget has few chunks for an empty scene."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.chunking.counts import (
    NOISE,
    PLAIN,
    Counts,
    Row,
    checkpoints,
    controls,
    detail,
    hold,
    live_chunks,
    measure,
    metrics,
    motion,
    robot_clip,
)
from hnet_vjepa.checkpoint import load_checkpoint
from hnet_vjepa.config import Config, parse_config
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.errors import UserError
from hnet_vjepa.models.vjepa.vit import HNetViT
from hnet_vjepa.pipeline import run_pipeline
from hnet_vjepa.viz.tracking import track_chunks
from tests import toy


def test_detail_and_motion_by_hand() -> None:
    stripes = np.zeros((3, 4, 8, 3), np.uint8)
    stripes[:, :, ::2] = 255  # every step to the right is a full one, every step down none
    assert detail(stripes).tolist() == pytest.approx([0.5, 0.5, 0.5])
    assert motion(stripes) == 0 and motion(stripes[:1]) == 0
    blinking = np.zeros((4, 4, 4, 3), np.uint8)
    blinking[1::2] = 51
    assert motion(blinking) == pytest.approx(0.2)
    assert detail(blinking).max() == 0


def test_a_held_clip_repeats_each_window_s_first_frame() -> None:
    frames = np.arange(10, dtype=np.uint8)[:, None, None, None] * np.ones((1, 2, 2, 3), np.uint8)
    assert hold(frames, 4)[:, 0, 0, 0].tolist() == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]


def test_windows_of_one_frame_have_the_counts_of_the_video() -> None:
    torch.manual_seed(0)
    backbone = HNetViT(toy.config().model.backbone).eval()
    frames = np.stack([toy.picture(6 + t, 12) for t in range(11)])
    assert live_chunks(backbone, frames, 1).tolist() == track_chunks(backbone, iter(frames)).counts.tolist()
    with torch.no_grad():
        whole = backbone(torch.from_numpy(frames[:8]).float()[None] / 127.5 - 1, window=4)
    winners = [len(set(window.argmax(-1).tolist())) for window in whole.assignment[0]]
    assert live_chunks(backbone, frames, 4).tolist() == winners


def test_episodes_are_cut_to_whole_windows(toy_store: Path) -> None:
    store = EpisodeStore(toy_store)  # twenty episodes of 12 frames
    frames = robot_clip(store, toy.SHAPE[:2])
    assert len(frames) == 20 * 8
    assert np.array_equal(frames[8:16], store.episodes[1].frames[:8])


def row(model: str, clip: str, see: float, chunks: float, moving: float, held: float, budgeted: bool = False) -> Row:
    return Row(model, budgeted, clip, see, 0.0, Counts(0, chunks, 9, chunks), moving, held)


def test_metrics_by_hand() -> None:
    rows = [
        row("a", "real", 0.5, 10, 20, 5),
        row("a", "other", 0.4, 20, 20, 15),
        row("a", PLAIN, 0.0, 3, 1, 1),
        row("b", "real", 0.5, 8, 10, 10),
        row("b", "other", 0.4, 8, 10, 10),
        row("b", PLAIN, 0.0, 8, 1, 1),
        row("c", "real", 0.5, 8, 10, 2, budgeted=True),
        row("c", "other", 0.4, 4, 10, 2, budgeted=True),
        row("c", PLAIN, 0.0, 1, 1, 1, budgeted=True),
    ]
    found = metrics(rows, ["real", "other"])
    assert found == {
        "still_over_busy_chunks": pytest.approx((20 / 40 + 1) / 2),
        "plain_over_busy_chunks": pytest.approx((3 / 15 + 1) / 2),
        "chunks_follow_detail": pytest.approx((0.5 + 0) / 2),
        "still_over_busy_chunks_budgeted": pytest.approx(0.2),
        "plain_over_busy_chunks_budgeted": pytest.approx(1 / 6),
        "chunks_follow_detail_budgeted": pytest.approx(1.0),
    }


def budget() -> Config:
    pretrain = {"steps": 30, "batch_size": 4, "learning_rate": 0.006, "ratio": 0.0}
    values = toy.config(pretrain=pretrain).model_dump(mode="json")
    values["model"]["backbone"]["routing"] |= {"grid": [4, 5], "tokens": 6.0}
    values["model"]["backbone"]["encoder"] |= {"stem_stride": 2}  # 8 x 10 cells
    return parse_config(values, "toy")


def test_an_empty_scene_has_fewer_chunks_than_a_busy_one(toy_store: Path, toy_run: Path, tmp_path: Path) -> None:
    """For a model with a budget: the background of all training frames needs few chunks."""
    path = run_pipeline(budget(), toy_store, tmp_path / "budget", ["pretrain"], progress=False)
    size = toy.SHAPE[:2]
    own = robot_clip(EpisodeStore(toy_store), size)
    clips = {"toy": own, "empty": np.full_like(own, own[0].min()), **controls(size)}
    rows = measure("toy", True, load_checkpoint(path).model.backbone, clips)
    mean = {row.clip: row.counts.mean for row in rows}
    assert mean["empty"] < 0.7 * mean["toy"]
    assert mean["empty"] < mean[NOISE]
    assert checkpoints([path])["/".join(path.parts[-3:])] == path
    with pytest.raises(UserError, match="was trained without model"):
        checkpoints([toy_run / "pretrain"])
