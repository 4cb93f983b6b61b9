"""Regularisers of the routing, and the optional saliency loss. All are scalars to be minimised."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from hnet_vjepa.losses.vicregl import wide
from hnet_vjepa.utils.collectives import gather_rows

TINY = 1e-12


def ratio_loss(hard_fraction: Tensor, soft_fraction: Tensor, target_compression: float) -> Tensor:
    """H-Net's load balancing: ``N / (N - 1) ((N - 1) F G + (1 - F) (1 - G))`` (arXiv 2507.07955, eq. 10).

    F is the fraction that was kept, counted, hence without gradient; G is its soft counterpart; N the compression
    wanted. The loss is a saddle with value 1 at F = G = 1/N, not a minimum: it works through its gradient
    ``dL/dG = N / (N - 1) (N F - 1)``, which lowers G while more than 1/N is kept. Log F and G, never this value.

    ``hard_fraction`` and ``soft_fraction`` have the same shape; several values are averaged. Raises ValueError for a
    compression of 1 or less.
    """
    if not target_compression > 1:
        raise ValueError(f"target_compression must be above 1; got {target_compression}")
    n, kept, soft = target_compression, hard_fraction.detach(), soft_fraction
    return (n / (n - 1) * ((n - 1) * kept * soft + (1 - kept) * (1 - soft))).mean()


def _entropy(p: Tensor) -> Tensor:
    """Entropy of the last axis as a fraction of its maximum: ... x K -> ... in [0, 1]; 0 for K = 1."""
    # The clamp keeps 0 log 0 at 0 and its gradient finite.
    entropy = -(p * p.clamp(min=TINY).log()).sum(-1)
    return entropy / math.log(max(2, p.shape[-1]))


def assignment_entropy(assignment: Tensor, mask: Tensor | None = None) -> Tensor:
    """Mean entropy of the tokens' assignment, as a fraction of log K: 0 when every token has one owner, 1 if uniform.

    assignment B x N x K; mask B x N, True = padding. Nothing but padding gives 0.
    """
    entropy = _entropy(wide(assignment))  # B x N
    if mask is None:
        return entropy.mean()
    live = ~mask
    return entropy.masked_fill(mask, 0.0).sum() / live.sum().clamp(min=1)


def usage_entropy(assignment: Tensor, mask: Tensor | None = None) -> Tensor:
    """What the prototypes' mean usage lacks in entropy: ``1 - H(mean_i p_i) / log K``; keeps prototypes alive.

    0 when all prototypes get the same share of the tokens, 1 when one gets everything. The mean is over all samples
    and ranks: one window may well need few prototypes. Every rank must call it (see ``gather_rows``).

    assignment B x N x K; mask B x N, True = padding. Nothing but padding gives 0.
    """
    p = wide(assignment)
    if mask is not None:
        p = p.masked_fill(mask[..., None], 0.0)
    used = gather_rows(p.sum((0, 1))[None]).sum(0)  # K
    total = used.sum()
    share = used / total.clamp(min=TINY)
    return torch.where(total > 0, 1 - _entropy(share), total * 0)


def boundary_loss(
    assignment: Tensor,
    features: Tensor,
    grid: tuple[int, int, int],
    padding: Tensor | None = None,
    temperature: float = 0.1,
) -> Tensor:
    """Neighbours with similar features should belong together: boundaries go where features change.

    ``a_ij = exp((cos(f_i, f_j) - 1) / temperature)``, without gradient: features must not differ to please this loss,
    ``L = mean_{neighbours i, j} a_ij |p_i - p_j|^2 / 2`` over neighbours along time, height and width.

    0 when alike neighbours agree, at most 1. A constant assignment is a minimum too, so use it with ``usage_entropy``.

    assignment B x N x K and features B x N x D over the cells of a ``grid`` of T x H x W = N, padding B x N. Without
    neighbours 0.
    """
    p = torch.unflatten(wide(assignment), 1, grid)  # B x T x H x W x K
    with torch.no_grad():
        directions = F.normalize(torch.unflatten(wide(features), 1, grid), dim=-1)  # B x T x H x W x D
    live = torch.ones(p.shape[:-1], dtype=torch.bool, device=p.device)
    if padding is not None:
        live = ~torch.unflatten(padding, 1, grid)
    total, pairs = p.sum() * 0, live.sum() * 0
    for axis in (1, 2, 3):
        length = p.shape[axis] - 1
        first, second = ((x.narrow(axis, 0, length), x.narrow(axis, 1, length)) for x in (p, directions))
        valid = live.narrow(axis, 0, length) & live.narrow(axis, 1, length)
        alike = (((second[0] * second[1]).sum(-1) - 1) / temperature).exp()  # B x T x H x W, one less along the axis
        apart = (first[0] - first[1]).square().sum(-1) / 2
        total = total + (alike * apart).masked_fill(~valid, 0.0).sum()
        pairs = pairs + valid.sum()
    return total / pairs.clamp(min=1)


def saliency_loss(
    saliency: Tensor,
    assignment: Tensor,
    attention: Tensor,
    chunk_mask: Tensor,
    query_mask: Tensor | None = None,
) -> Tensor:
    """``KL(saliency || attention)`` over chunks, mean over the samples that carry a label.

    ``s_k = sum_i p_ik s_i / sum_i p_ik`` over the grid's cells, normalised over live chunks, without gradient: the
    router must not rewrite the label,
    ``a_k = mean_q attention_qk``, normalised over live chunks,
    ``L = mean_b sum_k s_k log(s_k / a_k)``.

    Args:
        saliency: B x N on the grid, not negative; a sample of zeros has no label.
        assignment: B x N x K.
        attention: B x M' x K, the pooling queries' weights on the chunks.
        chunk_mask: B x K, True = dead.
        query_mask: B x M', True = a slot that is not used and does not count.
    """
    attention = wide(attention).masked_fill(chunk_mask[:, None], 0.0)
    if query_mask is not None:
        attention = attention.masked_fill(query_mask[..., None], 0.0)
    with torch.no_grad():
        p = wide(assignment)
        mean = (wide(saliency)[:, None] @ p).squeeze(1) / p.sum(1).clamp(min=TINY)  # B x K
        mean = mean.masked_fill(chunk_mask, 0.0)
        mass = mean.sum(-1, keepdim=True)
        labelled = mass.squeeze(-1) > 0  # B
        target = mean / mass.clamp(min=TINY)
    weights = attention.sum(1)  # B x K
    weights = weights / weights.sum(-1, keepdim=True).clamp(min=TINY)
    divergence = (target * (target.clamp(min=TINY).log() - weights.clamp(min=TINY).log())).sum(-1)  # B
    return divergence.masked_fill(~labelled, 0.0).sum() / labelled.sum().clamp(min=1)
