"""Frames that are encoded once: the same loss as with pictures, wherever that is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from hnet_vjepa.config import parse_config
from hnet_vjepa.data.batch import ClipSampler
from hnet_vjepa.data.store import Episode, EpisodeStore
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.pipeline import describe_robot, run_pipeline
from hnet_vjepa.trainers import encoded
from hnet_vjepa.trainers.action_posttrain import Action
from hnet_vjepa.trainers.encoded import Encoded, encode_once
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
    assert encode_once(model, tokens, Encoded())
    shown, encoded_once = pictures.batch(5, 8), tokens.batch(5, 8)
    assert encoded_once.features.shape == (8, 4, model.config.model.backbone.slots, model.backbone.dim)
    assert torch.equal(shown.actions, encoded_once.actions) and shown.keys == encoded_once.keys
    phase = Action(("language", "probe"))
    expected, found = phase.loss(model, shown), phase.loss(model, encoded_once)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=2e-3, atol=2e-4, msg=lambda m, n=name: f"{n}: {m}")


def test_pictures_stay_where_tokens_would_not_be_the_same(
    model: HNetVJEPA, store: EpisodeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not encode_once(model, clips(model, store, shift=1), Encoded())  # every clip shows its frames moved
    model.backbone.norm.weight.requires_grad_(True)
    assert not encode_once(model, clips(model, store), Encoded())
    model.backbone.norm.weight.requires_grad_(False)
    monkeypatch.setattr(encoded, "LARGEST", 0)
    sampler = clips(model, store)
    assert not encode_once(model, sampler, Encoded()) and sampler.features is None
    monkeypatch.undo()
    model.backbone.encoder.history = 1
    assert not encode_once(model, clips(model, store), Encoded())


def test_phases_share_tokens_until_the_backbone_is_another(model: HNetVJEPA, store: EpisodeStore) -> None:
    looked: list[int] = []
    model.backbone.register_forward_pre_hook(lambda _, given: looked.append(len(given[0])))
    encoded, episodes = Encoded(), store.split("train")
    first = encoded.by(model, episodes[:3])
    assert looked == [len(e) for e in episodes[:3]]
    tokens = first[episodes[0].index]
    both = encoded.by(model, episodes[:5])
    assert looked == [len(e) for e in episodes[:5]] and both[episodes[0].index] is tokens
    with torch.no_grad():
        model.backbone.norm.weight.mul_(2)
    moved = encoded.by(model, episodes[:1])
    assert len(looked) == 6 and set(moved) == {episodes[0].index}
    assert not torch.equal(moved[episodes[0].index], tokens)


def test_a_run_encodes_as_often_as_its_backbone_changes(toy_store: Path, tmp_path: Path) -> None:
    """Twice, not four times: for language and probe after pretraining, for dynamics and heads after the adaptation."""
    values = config(encoder_adaptation={"steps": 2}, action={"frozen_encoder": True}).model_dump()
    values["model"]["backbone"]["encoder"]["times"] = (1, 1)
    seen: list[str] = []
    made = Encoded.by

    def counted(self: Encoded, model: HNetVJEPA, episodes: Sequence[Episode]) -> dict[int, torch.Tensor]:
        before = self._weights
        found = made(self, model, episodes)
        seen.append("again" if self._weights == before else "new")
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Encoded, "by", counted)
        run_pipeline(parse_config(values, "toy"), toy_store, tmp_path, progress=False)
    assert seen == ["new", "again", "new", "again"]
