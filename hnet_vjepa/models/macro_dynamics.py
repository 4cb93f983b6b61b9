"""A coarse world model: several control steps at once, of whatever a robot may do in them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LOG_STD = (-4.0, 1.0)  # of codes, whose prior has deviation 1


class MacroDynamics(nn.Module):
    """The state K control steps later, given the state now and a code of what happens in between.

    The code is small and, as a conditional variational autoencoder makes it (Sohn et al. 2015), about normally
    distributed: what is drawn from N(0, 1) is what recorded episodes did from here, so a search over codes looks at
    ways that exist. A code stands for K actions, and a sequence of few of them leads far.
    """

    def __init__(self, state_dim: int, slots: int, latent: int, width: int = 192) -> None:
        super().__init__()
        self.latent = latent
        size = slots * state_dim
        self.read = _mlp(2 * size, width, 2 * latent)
        self.change = _mlp(size + latent, width, size)

    def encode(self, state: Tensor, next_state: Tensor) -> tuple[Tensor, Tensor]:
        """What happened between two states ... x S x d, K steps apart: mean and log deviation of its code, ... x C."""
        mean, log_std = self.read(torch.cat([state, next_state - state], -1).flatten(-2)).chunk(2, -1)
        return mean, log_std.clamp(*LOG_STD)

    def forward(self, state: Tensor, latent: Tensor) -> Tensor:
        """States ... x S x d and codes ... x C -> states K steps later, ... x S x d."""
        changed: Tensor = state + self.change(torch.cat([state.flatten(-2), latent], -1)).view_as(state)
        return changed


def macro_rollout(macro_dynamics: MacroDynamics, state: Tensor, latents: Tensor) -> Tensor:
    """States B x S x d and codes B x J x C -> the states after each coarse step, B x J x S x d."""
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
