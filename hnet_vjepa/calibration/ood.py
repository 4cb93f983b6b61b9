"""Out-of-distribution detection: whether a picture is far from the training distribution.

Each picture is described by the mean, standard deviation and maximum of its cells' features, and compared with a
Gaussian of the training pictures (Mahalanobis distance in feature space; Lee et al. 2018).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor


@dataclass(frozen=True)
class OODDetector:
    """A Gaussian of the training pictures' F = 3 D features, and the largest distance in distribution."""

    mean: Tensor  # F
    whiten: Tensor  # F x F; features minus mean, times this, have unit covariance
    limit: float  # 99th percentile of the distances of held-out pictures

    def distance(self, cells: Tensor) -> Tensor:
        """Mahalanobis distance of pictures from the training: cells ... x N x D -> ... ."""
        return torch.linalg.vector_norm((describe(cells) - self.mean) @ self.whiten, dim=-1)

    def out_of_distribution(self, cells: Tensor) -> Tensor:
        """Whether pictures are beyond the limit: cells ... x N x D -> ... bool. NaN is out of distribution."""
        return ~(self.distance(cells) <= self.limit)


def describe(cells: Tensor) -> Tensor:
    """Features of pictures: cells ... x N x D -> ... x 3D."""
    return torch.cat([cells.mean(-2), cells.std(-2, unbiased=False), cells.amax(-2)], -1).float()


def save_ood(path: Path, detector: OODDetector) -> None:
    """Write a safetensors file."""
    limit = torch.tensor([detector.limit])
    content = {"mean": detector.mean, "whiten": detector.whiten.contiguous(), "limit": limit}
    path.write_bytes(safetensors.torch.save(content))


def load_ood(path: Path) -> OODDetector:
    """Read what ``save_ood`` wrote."""
    stored = safetensors.torch.load(path.read_bytes())
    return OODDetector(stored["mean"], stored["whiten"], float(stored["limit"][0]))
