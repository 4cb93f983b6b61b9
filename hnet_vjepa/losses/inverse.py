"""The loss of inverse dynamics."""

from __future__ import annotations

from torch import Tensor

from hnet_vjepa.models.world_model import InverseDynamics


def inverse_loss(inverse: InverseDynamics, states: Tensor, actions: Tensor) -> Tensor:
    """Mean squared error of the actions predicted from three consecutive states (PLDM, eb_jepa).

    States of clips B x T x S x d, normalised actions between them B x (T - 1) x A. The first frame has no past, so its
    action is not predicted.
    """
    prev_state, now, after = (
        x.flatten(0, 1) for x in (states[:, :-2], states[:, 1:-1], states[:, 2:])
    )  # B(T-2) x S x d
    return (inverse(prev_state, now, after) - actions[:, 1:].flatten(0, 1)).square().mean()
