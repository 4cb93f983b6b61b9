"""Small tensor operations on masks, grids and gradients that several modules share. Masks are True = padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """The value of ``hard`` with the gradient of ``soft`` (same shape)."""
    return hard.detach() + soft - soft.detach()


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
    return grid_positions(1, rows, columns)[:, 1:].contiguous()  # AdamW's fused step needs weights without gaps


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Scaled dot-product attention, ... x N x d from queries ... x N x d and keys and values ... x M x d.

    On a CPU in fp32 whatever the precision around it, where gradients are wanted or heads are small: the bf16 backward
    pass is several times slower (torch 2.13), while bf16 pays in convolutions, linear layers and, forwards, wide heads.
    """
    exact = q.dtype == torch.float32 and not torch.is_autocast_enabled(q.device.type)  # nothing to convert
    if q.device.type == "cpu" and not exact and (torch.is_grad_enabled() or q.shape[-1] < 32):
        wide = torch.promote_types(q.dtype, torch.float32)
        mask = mask.to(wide) if mask is not None and mask.is_floating_point() else mask
        with torch.autocast("cpu", enabled=False):  # which would turn the arguments back into bf16
            return F.scaled_dot_product_attention(q.to(wide), k.to(wide), v.to(wide), attn_mask=mask).to(v.dtype)
    mask = mask.to(q.dtype) if mask is not None and mask.is_floating_point() else mask
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
