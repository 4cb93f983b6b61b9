"""How many steps lie between two planning states: a metric that is learnt from which states follow each other."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hnet_vjepa.models.whitening import Whitening

RIDGE = 0.05  # see Whitening: folded arms differ in what has a deviation of 0.1


class TemporalDistance(nn.Module):
    """d(x, y) = |phi(x) - phi(y)|, in control steps.

    A picture's latent distance says how different two places look; a robot in a maze needs to know how far apart they
    are. ``phi`` is trained (losses.temporal) to push all states apart as far as it can while states that follow each
    other stay within one step, which leaves the shortest way between them (Wang et al. 2023, quasimetric RL, with a
    Euclidean embedding in place of a quasimetric: what a robot can do it is taken to be able to undo).

    ``phi`` sees states whitened, with ``whitening`` fitted to them first: places may be far apart in time that differ
    in little.
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
        """Make the whitening part of the first layer: the same distances, at less cost, and no learning any more."""
        first = self.mlp[0]
        assert isinstance(first, nn.Linear)
        self.whitening.fold(first)

    def forward(self, state: Tensor, other: Tensor) -> Tensor:
        """Steps between states ... x S x d and ... x S x d: ... ."""
        return torch.linalg.vector_norm(self.embed(state) - self.embed(other), dim=-1)
