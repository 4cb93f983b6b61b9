"""Temporal distance: the learnt number of control steps between two planning states."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hnet_vjepa.models.whitening import Whitening

RIDGE = 0.05  # see Whitening: folded arms differ in what has a deviation of 0.1


class TemporalDistance(nn.Module):
    """d(x, y) = |phi(x) - phi(y)|, in control steps.

    The latent distance measures how different two pictures look, not how many steps lie between them. ``phi`` is
    trained (losses.temporal) to push all states apart while consecutive states stay within one step, which approximates
    the shortest path in the data (Wang et al. 2023, quasimetric RL, with a Euclidean embedding in place of a
    quasimetric, so every path counts as long back as forth).

    Input states are whitened (``whitening`` is fitted before training), since states that differ little may be many
    steps apart.
    """

    def __init__(self, state_dim: int, slots: int, width: int = 256, embedding: int = 32) -> None:
        super().__init__()
        self.whitening = Whitening(slots * state_dim, RIDGE)
        self.mlp = nn.Sequential(
            nn.Linear(slots * state_dim, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, embedding),
        )

    def embed(self, state: Tensor) -> Tensor:
        """phi: states ... x S x d -> ... x E."""
        embedded: Tensor = self.mlp(self.whitening(state.flatten(-2)))
        return embedded

    def fold(self) -> None:
        """Fold the whitening into the first layer: equal distances at less cost; training is over then."""
        first = self.mlp[0]
        assert isinstance(first, nn.Linear)
        self.whitening.fold(first)

    def forward(self, state: Tensor, other: Tensor) -> Tensor:
        """Control steps between states ... x S x d and ... x S x d: ... ."""
        return torch.linalg.vector_norm(self.embed(state) - self.embed(other), dim=-1)
