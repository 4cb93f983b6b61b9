"""VICRegL on chunks: invariance of whole windows and of matched chunks, variance and covariance of all chunks."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from hnet_vjepa.utils.collectives import gather_rows


@dataclass(frozen=True)
class VICRegLTerms:
    """The weighted sum and what it is made of (scalars, unweighted)."""

    total: Tensor
    invariance: Tensor
    variance: Tensor
    covariance: Tensor
    local: Tensor


def wide(x: Tensor) -> Tensor:
    """``x`` in single precision at least: sums of squares do not survive in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def variance_loss(x: Tensor, target_std: float = 1.0, eps: float = 1e-4) -> Tensor:
    """``mean_d max(0, target - sqrt(Var(x_d) + eps))`` for x: N x D (VICReg, eq. 1 and 2).

    0 when every dimension spreads by ``target_std``, about ``target_std`` after a collapse. Fewer than two rows
    have no variance and give 0.
    """
    x = wide(x)
    if x.shape[0] < 2:
        return x.sum() * 0
    std = (x.var(0) + eps).sqrt()  # D
    return (target_std - std).relu().mean()


def covariance_loss(x: Tensor) -> Tensor:
    """``sum_{d != e} C_de^2 / D`` with ``C`` the covariance matrix of x: N x D (VICReg, eq. 3 and 4).

    Fewer than two rows give 0.
    """
    x = wide(x)
    rows, dim = x.shape
    if rows < 2:
        return x.sum() * 0
    with torch.autocast(x.device.type, enabled=False):
        centred = x - x.mean(0)
        covariance = centred.T @ centred / (rows - 1)  # D x D
    return (covariance.square().sum() - covariance.diagonal().square().sum()) / dim


def _matched(x: Tensor, y: Tensor, distance: Tensor, matches: int) -> Tensor:
    """Mean squared difference of the ``matches`` closest pairs of every sample: B.

    x B x M x D, y B x L x D, distance B x M x L, infinite where a pair may not be formed. Every chunk of x is paired
    with the nearest of y, and the closest pairs count.
    """
    nearest, partner = distance.min(-1)  # B x M
    closest, chosen = nearest.topk(min(matches, nearest.shape[1]), largest=False)  # B x matches
    partner = partner.gather(1, chosen)
    dim = x.shape[-1]
    ours = x.gather(1, chosen[..., None].expand(-1, -1, dim))  # B x matches x D
    theirs = y.gather(1, partner[..., None].expand(-1, -1, dim))
    valid = closest.isfinite()
    error = (ours - theirs).square().mean(-1).masked_fill(~valid, 0.0)
    return error.sum(-1) / valid.sum(-1).clamp(min=1)


def vicregl_loss(
    x: Tensor,
    y: Tensor,
    x_mask: Tensor,
    y_mask: Tensor,
    x_centroids: Tensor,
    y_centroids: Tensor,
    alpha: float = 0.75,
    matches: int = 4,
    weights: tuple[float, float, float] = (25.0, 25.0, 1.0),
) -> VICRegLTerms:
    """VICRegL (arXiv 2210.01571) for chunks, which have no common grid and come in varying numbers.

    ``invariance = mean_b |mean_m x_bm - mean_m y_bm|^2 / D``,
    ``local = mean_b`` of the squared difference of matched chunks: nearest by centroid and nearest by feature, from x
    to y and from y to x, the ``matches`` closest pairs of each, the four averaged,
    ``variance = (v(X) + v(Y)) / 2``, ``covariance = c(X) + c(Y)``, X and Y all valid chunks of all samples and ranks,
    ``total = w_0 (alpha invariance + (1 - alpha) local) + w_1 variance + w_2 covariance``.

    Unlike the paper, variance and covariance are never taken per slot: the noise of a covariance from n rows is about
    (D - 1) / (n - 1), which at a batch of 32 hides what it measures.

    Args:
        x, y: B x M x D; the M of y may differ.
        x_mask, y_mask: B x M, True = padding. A sample without a chunk on either side has no invariance.
        x_centroids, y_centroids: B x M x 3.
        weights: of invariance, variance and covariance.

    With several ranks, every rank must call it (see ``gather_rows``); the terms are equal on all of them.

    Raises ValueError for an ``alpha`` outside [0, 1] or ``matches`` below 1.
    """
    if not 0 <= alpha <= 1 or matches < 1:
        raise ValueError(f"alpha lies in [0, 1] and matches starts at 1; got {alpha}, {matches}")
    # Values in padding must have no influence, not even as NaN times zero in a gradient.
    x = wide(x).masked_fill(x_mask[..., None], 0.0)
    y = wide(y).masked_fill(y_mask[..., None], 0.0)
    x_live, y_live = ~x_mask, ~y_mask

    x_mean = x.sum(1) / x_live.sum(1, keepdim=True).clamp(min=1)  # B x D
    y_mean = y.sum(1) / y_live.sum(1, keepdim=True).clamp(min=1)
    invariance = (x_mean - y_mean).square().mean(-1)  # B

    with torch.no_grad():
        impossible = x_mask[:, :, None] | y_mask[:, None]  # B x M x L
        exact = "donot_use_mm_for_euclid_dist"  # the quick way is wrong for close points
        places = torch.cdist(wide(x_centroids), wide(y_centroids), compute_mode=exact)
        places = places.masked_fill(impossible, math.inf)
        features = torch.cdist(x, y, compute_mode=exact).masked_fill(impossible, math.inf)
    local = torch.stack(
        [
            _matched(x, y, places, matches),
            _matched(y, x, places.transpose(1, 2), matches),
            _matched(x, y, features, matches),
            _matched(y, x, features.transpose(1, 2), matches),
        ]
    ).mean(0)  # B

    # Gathered per sample as well: a mean of the ranks' means would weigh samples by how many their rank has.
    both = x_live.any(1) & y_live.any(1)
    per_sample = gather_rows(torch.stack([invariance, local], -1)[both])  # samples x 2
    invariance, local = (per_sample.sum(0) / max(1, len(per_sample))).unbind()
    all_x, all_y = gather_rows(x[x_live]), gather_rows(y[y_live])  # chunks x D
    variance = (variance_loss(all_x) + variance_loss(all_y)) / 2
    covariance = covariance_loss(all_x) + covariance_loss(all_y)
    total = weights[0] * (alpha * invariance + (1 - alpha) * local) + weights[1] * variance + weights[2] * covariance
    return VICRegLTerms(total, invariance, variance, covariance, local)
