"""Whitening of planning states: every direction gets about unit variance."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Whitening(nn.Module):
    """``L^-1 (x - mean)`` with ``L L^T = covariance + ridge^2 I`` (Cholesky whitening; Kessy et al. 2018).

    Three of the 288 directions of a planning state can hold nine tenths of the variance; networks then learn slowly or
    not at all what the others encode, for instance to which side an arm is folded. Before ``fit`` it is the identity.

    ``ridge``: standard deviation below which a direction counts as noise; a number of a planning state has about 1.
    """

    mean: Tensor
    matrix: Tensor
    fitted: Tensor

    def __init__(self, size: int, ridge: float) -> None:
        super().__init__()
        self.ridge = ridge
        self.register_buffer("mean", torch.zeros(size))
        self.register_buffer("matrix", torch.zeros(size, size))  # L^-1
        self.register_buffer("fitted", torch.tensor(False))

    @torch.no_grad()
    def fit(self, rows: Tensor) -> None:
        """Learn mean and covariance from N x size rows."""
        rows = rows.double()
        centred = rows - rows.mean(0)
        unit = torch.eye(rows.shape[1], dtype=rows.dtype, device=rows.device)
        lower = torch.linalg.cholesky(centred.T @ centred / len(rows) + self.ridge**2 * unit)
        self.mean.copy_(rows.mean(0))
        self.matrix.copy_(torch.linalg.solve_triangular(lower, unit, upper=False))
        self.fitted.fill_(True)

    def forward(self, x: Tensor) -> Tensor:
        """... x size -> ... x size, in single precision: what is small next to the rest does not survive in half."""
        if not self.fitted:
            return x
        with torch.autocast(x.device.type, enabled=False):
            return F.linear(x.float() - self.mean, self.matrix)

    @torch.no_grad()
    def fold(self, layer: nn.Linear, places: int = 1, motions: Sequence[int] = ()) -> None:
        """Fold the whitening into the ``layer`` that follows; afterwards this module is the identity.

        The layer's first inputs are ``places`` whitened states, of which those numbered in ``motions`` are differences
        of two, which have no mean; whatever comes after them is left as it is.
        """
        if not self.fitted:
            return
        assert layer.bias is not None
        for place, weight in enumerate(layer.weight[:, : places * len(self.mean)].split(len(self.mean), 1)):
            weight.copy_(weight @ self.matrix)
            if place not in motions:
                layer.bias.sub_(weight @ self.mean)
        for buffer in self.buffers():
            buffer.zero_()
