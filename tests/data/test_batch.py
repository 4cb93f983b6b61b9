"""Pixels and actions in the model's units."""

from __future__ import annotations

import numpy as np
import torch

from hnet_vjepa.data.batch import normalise_actions, normalise_frames
from tests import toy


def test_pixels_go_from_minus_one_to_one_and_the_frame_stays_as_it_was() -> None:
    frame = np.array([[[0, 51, 255]]], np.uint8)
    for pixels in (frame, torch.from_numpy(frame)):
        torch.testing.assert_close(normalise_frames(pixels), torch.tensor([[[-1.0, -0.6, 1.0]]]))
    normalise_frames(frame).zero_()
    assert frame.tolist() == [[[0, 51, 255]]]


def test_actions_are_the_active_dimensions_in_deviations_from_their_mean() -> None:
    spec = toy.SPEC.model_copy(update={"mean": (1.0, -1.0), "std": (2.0, 0.5)})
    actions = np.array([[3.0, 0.0, 9, 9, 9, 9, 9]], np.float32)
    assert normalise_actions(actions, spec).tolist() == [[1.0, 2.0]]
