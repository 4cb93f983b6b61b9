"""What the model reads of states, and how its target follows the backbone."""

from __future__ import annotations

import torch

from hnet_vjepa.models.model import HNetVJEPA, Robot
from hnet_vjepa.models.world_model import with_motion
from tests import toy


def model() -> HNetVJEPA:
    torch.manual_seed(0)
    return HNetVJEPA(toy.config(), Robot(camera=toy.CAMERA, action=toy.SPEC, labels=toy.LABELS))


def test_motion_is_the_difference_from_the_state_before() -> None:
    now, before = torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[1.0, 4.0]]])
    assert with_motion(now, before).tolist() == [[[3.0, 1.0, 2.0, -3.0]]]


def test_heads_read_the_last_state_and_its_motion() -> None:
    states = torch.arange(24.0).view(1, 3, 2, 4) ** 2
    read = model().read(states)
    torch.testing.assert_close(read, torch.cat([states[:, 2], states[:, 2] - states[:, 1]], -1))
    alone = model().read(states[:, 1:2])
    torch.testing.assert_close(alone, torch.cat([states[:, 1], torch.zeros(1, 2, 4)], -1))


def test_the_target_keeps_the_share_of_the_momentum() -> None:
    made = model()
    for target, student in zip(made.target.parameters(), made.backbone.parameters(), strict=True):
        target.data.fill_(1.0)
        student.data.fill_(3.0)
    made.update_target(0.75)
    assert all(bool((p == 1.5).all()) for p in made.target.parameters())
    assert all(bool((p == 3.0).all()) for p in made.backbone.parameters())
