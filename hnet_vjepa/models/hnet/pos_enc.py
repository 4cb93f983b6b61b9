"""Adaptive positional encoding: of a chunk's centroid and size, instead of its index."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AdaptivePositionalEncoding(nn.Module):
    """``MLP([centroid (3), log size (1)]) -> D``, added to a chunk, or to the mask token of a hidden one."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(nn.Linear(4, dim), nn.GELU(approximate="tanh"), nn.Linear(dim, dim))

    def forward(self, centroids: Tensor, sizes: Tensor) -> Tensor:
        """Centroids B x M x 3 and sizes B x M -> B x M x D."""
        described = torch.cat([centroids, sizes.clamp(min=1e-3).log()[..., None]], -1)  # B x M x 4
        encoded: Tensor = self.mlp(described)
        return encoded
