"""Grounding: what of the encoder's chunks it holds on to, and that actions are read through them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hnet_vjepa.config import PhaseName
from hnet_vjepa.data.batch import Batch, ClipSampler
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.pipeline import describe_robot, run_pipeline
from hnet_vjepa.trainers.engine import train
from hnet_vjepa.trainers.grounding import Grounding, standardised
from tests import toy


def started(store: EpisodeStore, **settings: float) -> tuple[HNetVJEPA, Batch]:
    config = toy.config(grounding=settings, model={"predictor": {"width": 64, "depth": 2, "heads": 4}})
    torch.manual_seed(0)
    model = HNetVJEPA(config, describe_robot(store))
    return model, ClipSampler(store, model.robot.action, "train", 3, seed=0).batch(0, 8)


def test_targets_are_standardised_slot_by_slot_and_constants_stay_finite() -> None:
    tokens = torch.randn(50, 4, 6, generator=torch.Generator().manual_seed(0)) * 3 + torch.arange(4.0)[:, None]
    tokens[:, 0, 0] = 7.0
    found = standardised(tokens).numpy()
    rows = tokens.numpy().reshape(50, -1)
    expected = (rows - rows.mean(0)) / np.maximum(rows.std(0), 1e-3)
    np.testing.assert_allclose(found, expected.reshape(found.shape), atol=1e-5)


def test_the_error_of_actions_is_that_of_the_inverse_dynamics(toy_store: Path) -> None:
    model, batch = started(EpisodeStore(toy_store))
    losses = Grounding().loss(model, batch)
    states = model.states(batch.video)[0]
    total = [
        model.world_model.inverse(states[:, t - 1], states[:, t], states[:, t + 1]) - batch.actions[:, t]
        for t in range(1, states.shape[1] - 1)
    ]
    torch.testing.assert_close(losses["inverse"], torch.stack(total).square().mean())


def test_what_is_recalled_of_a_frame_comes_of_that_frame_alone(toy_store: Path) -> None:
    """Otherwise a frame could forget what its neighbours show."""
    model, batch = started(EpisodeStore(toy_store))
    recalled = Grounding._recall(model, model.backbone(batch.video)).unflatten(0, batch.video.shape[:2])
    changed = batch.video.clone()
    changed[:, -1] = 0
    after = Grounding._recall(model, model.backbone(changed)).unflatten(0, batch.video.shape[:2])
    torch.testing.assert_close(after[:, 0], recalled[:, 0])
    assert not torch.allclose(after[:, -1], recalled[:, -1], atol=1e-3)


def test_the_target_stands_still(toy_store: Path, tmp_path: Path) -> None:
    store = EpisodeStore(toy_store)
    model, _ = started(store, steps=6, learning_rate=0.003)
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    train(Grounding(), model, store, tmp_path, progress=False)
    for name, tensor in model.target.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert any(not torch.equal(tensor, before[name]) for name, tensor in model.backbone.state_dict().items())


@pytest.mark.parametrize("keep", [0.0, 4.0])
def test_what_was_shown_before_is_kept_where_that_is_asked(keep: float, toy_store: Path, tmp_path: Path) -> None:
    """The predictor finds the old chunks in the new ones, of clips it was not trained on, better than their mean."""
    store = EpisodeStore(toy_store)
    model, _ = started(store, keep=keep, steps=300, learning_rate=0.003, clip_frames=3)
    train(Grounding(), model, store, tmp_path, progress=False)
    sampler = ClipSampler(store, model.robot.action, "held_out", 3, seed=0)
    video = sampler.clips(range(len(sampler))).video
    with torch.no_grad():
        wanted = standardised(model.target(video).tokens.flatten(0, 1))
        error = float((Grounding._recall(model, model.backbone(video)) - wanted).square().mean())
    assert error < 0.9 if keep else error > 1


def test_the_action_phase_begins_with_it_and_says_what_it_came_to(toy_store: Path, tmp_path: Path) -> None:
    phases: tuple[PhaseName, ...] = ("pretrain", "action")
    checkpoint = run_pipeline(toy.config(grounding={}), toy_store, tmp_path, phases, progress=False)
    assert (tmp_path / "grounding.run" / "log.jsonl").is_file()
    assert not (tmp_path / "grounding.run" / "resume").exists()
    assert '"grounded_readout_r2"' in (checkpoint / "manifest.json").read_text()
