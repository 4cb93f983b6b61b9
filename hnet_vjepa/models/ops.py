"""Small tensor operations on masks, grids and gradients that several modules share. Masks are True = padding."""

from __future__ import annotations

import torch
from torch import Tensor


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of ``hard`` with the gradient of ``soft`` (same shape)."""
    return hard.detach() + soft - soft.detach()


def masked_mean(x: Tensor, mask: Tensor) -> Tensor:
    """Mean of ``x`` (B x N x D) over the rows that are not padding (mask B x N): B x D. All padding gives zero."""
    keep = (~mask).to(x.dtype).unsqueeze(-1)  # B x N x 1
    return (x * keep).sum(-2) / keep.sum(-2).clamp(min=1.0)


def grid_positions(frames: int, height: int, width: int, device: torch.device | None = None) -> Tensor:
    """Centres of the cells of a T x H x W grid: (T*H*W) x 3 as (t, y, x).

    y and x run from -1 (first row, left column) to 1; t counts frames from 0, so that a window of any length
    keeps the same scale.
    """
    t = torch.arange(frames, dtype=torch.float32, device=device)
    y = (torch.arange(height, dtype=torch.float32, device=device) + 0.5) / height * 2 - 1
    x = (torch.arange(width, dtype=torch.float32, device=device) + 0.5) / width * 2 - 1
    return torch.stack(torch.meshgrid(t, y, x, indexing="ij"), -1).flatten(0, 2)


def anchor_grid(rows: int, columns: int) -> Tensor:
    """Centres of a rows x columns grid over the picture: (rows*columns) x 2 as (y, x) in [-1, 1]."""
    return grid_positions(1, rows, columns)[:, 1:]
