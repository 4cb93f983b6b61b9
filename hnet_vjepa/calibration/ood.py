"""Whether a picture is like those that a model was trained on: plans from or to others are worth nothing.

Each picture is described by the mean, deviation and maximum of its cells' features, and measured against a Gaussian of
the training pictures (a Mahalanobis distance in feature space, Lee et al. 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor


@dataclass(frozen=True)
class OODDetector:
    """A Gaussian of what training pictures look like, and how far from it is too far. F = 3 D numbers a picture."""

    mean: Tensor  # F
    whiten: Tensor  # F x F: what is left of a picture after it has unit covariance
    limit: float  # distance that all but a hundredth of held-out pictures keep

    def distance(self, cells: Tensor) -> Tensor:
        """How far pictures are from those of the training: cells ... x N x D -> ... ."""
        return torch.linalg.vector_norm((describe(cells) - self.mean) @ self.whiten, dim=-1)

    def out_of_distribution(self, cells: Tensor) -> Tensor:
        """Whether pictures are unlike those of the training: cells ... x N x D -> ... bool. NaN is strange."""
        return ~(self.distance(cells) <= self.limit)


def describe(cells: Tensor) -> Tensor:
    """Cells of pictures ... x N x D -> ... x 3D."""
    return torch.cat([cells.mean(-2), cells.std(-2, unbiased=False), cells.amax(-2)], -1).float()


def save_ood(path: Path, known: OODDetector) -> None:
    """Write a safetensors file."""
    limit = torch.tensor([known.limit])
    path.write_bytes(safetensors.torch.save({"mean": known.mean, "whiten": known.whiten.contiguous(), "limit": limit}))


def load_ood(path: Path) -> OODDetector:
    """Read what ``save_familiarity`` wrote."""
    stored = safetensors.torch.load(path.read_bytes())
    return OODDetector(stored["mean"], stored["whiten"], float(stored["limit"][0]))
