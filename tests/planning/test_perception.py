"""Perception: which of a clip's frames say where a robot is now, and which where it was before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hnet_vjepa.checkpoint import load_checkpoint
from hnet_vjepa.planning.perception import Perception, Seen
from tests import toy


def test_state_and_mask_are_those_of_the_last_frame(toy_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    perception = Perception(load_checkpoint(toy_run / "action").model, None)
    monkeypatch.setattr(perception, "_cache", None)  # a state of its own frame alone
    states = torch.arange(4.0).reshape(4, 1, 1)
    masks, ood = torch.tensor([[True], [False], [False], [True]]), torch.tensor([True, False, False, True])
    monkeypatch.setattr(perception, "pictures", lambda frames: Seen(states, masks, ood))
    clip = np.zeros((3, *toy.SHAPE), np.uint8)
    found = perception.present([clip, clip], torch.zeros(2, 2))
    assert found.state.flatten().tolist() == [1, 3] and found.prev_state.flatten().tolist() == [0, 2]
    assert found.mask.flatten().tolist() == [False, True] and found.ood.tolist() == [False, True]
