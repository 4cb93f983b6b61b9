"""Dechunking: chunk features go back to the cells of the grid that the chunks were made of."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

TINY = 1e-6


def straight_through_one(confidence: Tensor) -> Tensor:
    """Exactly 1, with the gradient of ``confidence`` (H-Net's STE). ``1 + c - c`` in another order would round."""
    return confidence - confidence.detach() + 1.0


def smooth_chunks(chunks: Tensor, centroids: Tensor, confidence: Tensor, dead: Tensor, sigma: float) -> Tensor:
    """Blend every chunk with its neighbours, the less confident the more.

    ``w_kj = c_j exp(-|r_k - r_j|^2 / (2 sigma^2)) / sum_l c_l exp(-|r_k - r_l|^2 / (2 sigma^2))`` over live chunks,
    ``s_k = sum_j w_kj z_j``,
    ``z^_k = c_k z_k + (1 - c_k) s_k``.

    The two-dimensional stand-in for H-Net's moving average along the sequence, after DC-DiT (arXiv 2603.06351): in
    raster order a moving average would mix cells that are not neighbours.

    chunks B x K x D, centroids B x K x 3 (same unit as ``sigma``), confidence B x K in [0, 1], dead B x K; returns
    B x K x D, zero for dead chunks.
    """
    squared = (centroids[:, :, None] - centroids[:, None]).square().sum(-1)  # B x K x K
    logits = confidence.clamp(min=TINY).log()[:, None] - squared / (2 * sigma**2)
    # A dead chunk, which no live one may see, sees itself: no empty softmax.
    unseen = dead[:, None] & ~torch.eye(dead.shape[1], dtype=torch.bool, device=dead.device)
    weights = logits.masked_fill(unseen, -math.inf).softmax(-1)  # B x K x K
    own = confidence[..., None]
    blended = own * chunks + (1 - own) * (weights @ chunks)
    return blended.masked_fill(dead[..., None], 0.0)


class Dechunker(nn.Module):
    """Chunks back to cells: smoothing, plug-back through the assignment, straight-through gate, residual.

    ``p`` is the assignment with the dead chunks' share handed to the live ones,
    ``c_k = sum_i p_ik^2 / sum_i p_ik`` is the confidence of a chunk: 1 when its cells are its own, 1/K when all share,
    ``z^ = smooth(z, c)``,
    ``y_i = STE(max_k p_ik) sum_k p_ik z^_k + W_res x_i``,

    the last line H-Net's eq. 9 (arXiv 2507.07955) with a soft plug-back: the gate is 1 in the forward pass, and its
    gradient sharpens the assignment of cells that the chunks reconstruct well. ``W_res`` starts at zero. Everything is
    computed in single precision at least: small differences of centroids and confidences matter.

    ``sigma`` is in the unit of the centroids. Raises ValueError when it is not positive.
    """

    def __init__(self, dim: int, sigma: float = 1.0) -> None:
        super().__init__()
        if not sigma > 0:
            raise ValueError(f"sigma must be positive; got {sigma}")
        self.sigma = sigma
        self.residual = nn.Linear(dim, dim)
        nn.init.zeros_(self.residual.weight)
        nn.init.zeros_(self.residual.bias)

    def forward(
        self,
        chunks: Tensor,
        assignment: Tensor,
        centroids: Tensor,
        chunk_mask: Tensor,
        residual: Tensor | None = None,
    ) -> Tensor:
        """Return B x N x D from chunks B x K x D, assignment B x N x K, centroids B x K x 3, chunk_mask B x K (dead).

        ``assignment`` rows sum to 1 for live cells; rows of zeros (padding) give zeros, plus what ``residual``
        (B x N x D, the cells before chunking) adds.
        """
        with torch.autocast(chunks.device.type, enabled=False):
            wide = torch.promote_types(chunks.dtype, torch.float32)
            live = chunk_mask[..., None]
            # Values of dead chunks must not reach the others, not even as NaN.
            chunks = chunks.to(wide).masked_fill(live, 0.0)
            centroids = centroids.to(wide).masked_fill(live, 0.0)
            share = assignment.to(wide).masked_fill(chunk_mask[:, None], 0.0)  # B x N x K
            sureness = share.amax(-1, keepdim=True)  # B x N x 1
            p = share / share.sum(-1, keepdim=True).clamp(min=TINY)
            confidence = p.square().sum(1) / p.sum(1).clamp(min=TINY)  # B x K
            smoothed = smooth_chunks(chunks, centroids, confidence, chunk_mask, self.sigma)
            cells = straight_through_one(sureness) * (p @ smoothed)  # B x N x D
            if residual is not None:
                cells = cells + self.residual(residual.to(self.residual.weight.dtype))
            return cells
