"""Macro dynamics: the state several control steps ahead, given a macro latent of the motion in between."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LOG_STD = (-4.0, 1.0)  # of latents, whose prior has standard deviation 1


class MacroDynamics(nn.Module):
    """A conditional variational autoencoder (Sohn et al. 2015) of the state K control steps later.

    The macro latent describes the motion in between. Its prior is N(0, 1), and samples of it stand for motions that
    recorded episodes contain, so a search over latents stays among feasible ones. One latent stands for K actions.
    """

    def __init__(self, state_dim: int, slots: int, latent_dim: int, width: int = 192) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        size = slots * state_dim
        self.read = _mlp(2 * size, width, 2 * latent_dim)
        self.change = _mlp(size + latent_dim, width, size)

    def encode(self, state: Tensor, next_state: Tensor) -> tuple[Tensor, Tensor]:
        """Posterior of the latent between two states ... x S x d, K steps apart: mean and log std, ... x C."""
        mean, log_std = self.read(torch.cat([state, next_state - state], -1).flatten(-2)).chunk(2, -1)
        return mean, log_std.clamp(*LOG_STD)

    def forward(self, state: Tensor, latent: Tensor) -> Tensor:
        """States ... x S x d and latents ... x C -> states K steps later, ... x S x d."""
        changed: Tensor = state + self.change(torch.cat([state.flatten(-2), latent], -1)).view_as(state)
        return changed


def macro_rollout(macro_dynamics: MacroDynamics, state: Tensor, latents: Tensor) -> Tensor:
    """States B x S x d and latents B x J x C -> the states after each macro step, B x J x S x d."""
    states = []
    for latent in latents.unbind(1):
        state = macro_dynamics(state, latent)
        states.append(state)
    return torch.stack(states, 1)


def _mlp(inputs: int, width: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, width),
        nn.GELU(),
        nn.LayerNorm(width),
        nn.Linear(width, width),
        nn.GELU(),
        nn.LayerNorm(width),
        nn.Linear(width, outputs),
    )
