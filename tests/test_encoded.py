"""Frames that are encoded once: the same loss as with pictures, wherever that is allowed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hnet_vjepa.config import parse_config
from hnet_vjepa.data.batch import ClipSampler
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.pipeline import describe_robot
from hnet_vjepa.trainers import encoded
from hnet_vjepa.trainers.action_posttrain import Action
from hnet_vjepa.trainers.encoded import encode_once
from tests.toy import config


@pytest.fixture
def store(toy_store: Path) -> EpisodeStore:
    return EpisodeStore(toy_store)


@pytest.fixture
def model(store: EpisodeStore) -> HNetVJEPA:
    """One that looks at single frames, not trained."""
    torch.manual_seed(0)
    values = config().model_dump()
    values["model"]["backbone"]["encoder"]["times"] = (1, 1)
    return HNetVJEPA(parse_config(values, "test"), describe_robot(store)).requires_grad_(False)


def clips(model: HNetVJEPA, store: EpisodeStore, shift: int = 0) -> ClipSampler:
    return ClipSampler(store, model.robot.action, "train", 4, seed=3, shift=shift)


def test_tokens_give_the_loss_that_pictures_give(model: HNetVJEPA, store: EpisodeStore) -> None:
    pictures, tokens = clips(model, store), clips(model, store)
    assert encode_once(model, tokens)
    shown, encoded_once = pictures.batch(5, 8), tokens.batch(5, 8)
    assert encoded_once.video.shape == (8, 4, model.config.model.backbone.slots, model.backbone.dim)
    assert torch.equal(shown.actions, encoded_once.actions) and shown.keys == encoded_once.keys
    phase = Action(("language", "probe"))
    expected, found = phase.loss(model, shown), phase.loss(model, encoded_once)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=2e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_pictures_stay_where_tokens_would_not_be_the_same(
    model: HNetVJEPA, store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not encode_once(model, clips(model, store, shift=1))  # every clip shows its frames moved
    model.backbone.norm.weight.requires_grad_(True)
    assert not encode_once(model, clips(model, store))
    model.backbone.norm.weight.requires_grad_(False)
    monkeypatch.setattr(encoded, "LARGEST", 0)
    sampler = clips(model, store)
    assert not encode_once(model, sampler) and sampler.tokens is None
    monkeypatch.undo()
    model.backbone.encoder.history = 1
    assert not encode_once(model, clips(model, store))
