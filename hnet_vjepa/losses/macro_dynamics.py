"""The loss of the macro dynamics."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hnet_vjepa.models.macro_dynamics import MacroDynamics

PRIOR = 0.01  # weight of the KL divergence of the latent from N(0, 1), relative to a state's mean squared error


def macro_dynamics_loss(
    macro_dynamics: MacroDynamics, state: Tensor, next_state: Tensor, keys: Sequence[int]
) -> Tensor:
    """Negative evidence lower bound of the later state, weighted: squared error + 0.01 KL(latent | N(0, 1)).

    States B x S x d, K steps apart. ``keys``: one per row; a row's noise depends on its own key alone.
    """
    mean, log_std = macro_dynamics.encode(state, next_state)
    draws = [torch.randn(macro_dynamics.latent_dim, generator=torch.Generator().manual_seed(key)) for key in keys]
    latent = mean + log_std.exp() * torch.stack(draws).to(mean)
    error = (macro_dynamics(state, latent) - next_state).square().mean()
    return error + PRIOR * kl(mean, log_std).mean()


def kl(mean: Tensor, log_std: Tensor) -> Tensor:
    """Divergence of N(mean, std) from N(0, 1), summed over the last axis: ... x C -> ... ."""
    return (0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std).sum(-1)
