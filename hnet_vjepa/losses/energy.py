"""Energy E(x, y): how far two sets of chunks are from each other, slot by slot. Masks are True = padding."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

Distance = Literal["l1", "smooth_l1", "l2", "cosine"]


def distance(x: Tensor, y: Tensor, kind: Distance) -> Tensor:
    """Distance of the vectors in the last axis: ... x D and ... x D -> ... ; a mean over D, whatever D is."""
    if kind == "l1":
        return (x - y).abs().mean(-1)
    if kind == "smooth_l1":
        x, y = torch.broadcast_tensors(x, y)
        return F.smooth_l1_loss(x, y, reduction="none").mean(-1)
    if kind == "l2":
        return (x - y).square().mean(-1)
    return 1 - F.cosine_similarity(x, y, dim=-1)


def energy(
    x: Tensor,
    y: Tensor,
    kind: Distance,
    x_mask: Tensor | None = None,
    y_mask: Tensor | None = None,
    weights: Tensor | None = None,
    unmatched: float = 1.0,
) -> Tensor:
    """Weighted mean distance of equal slots: ... x M x D and ... x M x D -> ... .

    Args:
        x_mask, y_mask: ... x M. A slot that is valid on one side only costs ``unmatched``; on neither side, nothing.
        weights: ... x M, for instance chunk sizes, or what matters about a goal; broadcast.
    """
    cost = distance(x, y, kind)  # ... x M
    weight = cost.new_ones(cost.shape[-1]) if weights is None else weights
    if x_mask is not None and y_mask is not None:
        cost = cost.masked_fill(x_mask ^ y_mask, unmatched)
        weight = weight * ~(x_mask & y_mask)
    return (cost * weight).sum(-1) / weight.sum(-1).clamp(min=1e-6)


def text_energy(video: Tensor, text: Tensor) -> Tensor:
    """Energy between unit vectors of video and of text (... x E): half the squared distance, ``1 - cos``, in 0..2."""
    return 1 - (video * text).sum(-1)
