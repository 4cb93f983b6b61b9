"""Sparse routing: soft assignment of a window's tokens to learned prototypes; those that win a token are the chunks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hnet_vjepa.models.ops import anchor_grid, straight_through


@dataclass(frozen=True)
class Routing:
    """Chunks of a window. K prototypes, of which M win at least one token; the others are marked in ``mask``."""

    chunks: Tensor  # B x K x D, also of prototypes that won nothing (see gate)
    assignment: Tensor  # B x N x K, rows sum to 1 (0 for padding)
    centroids: Tensor  # B x K x 3 as (t, y, x)
    sizes: Tensor  # B x K, tokens' worth of assignment
    mask: Tensor  # B x K, True = wins no token
    gate: Tensor  # B x K, 1 for winners and 0 for the others, with the gradient of their largest share

    @property
    def count(self) -> Tensor:
        """M, the number of live chunks of every sample: B."""
        return (~self.mask).sum(-1)


class SparseRouting(nn.Module):
    """Assign tokens to prototypes by cosine similarity and a spatial prior.

    ``p_ik = softmax_k( a cos(W x_i, c_k) - s |pos_i - anchor_k|^2 )`` over prototypes k,
    ``z_k = sum_i p_ik V x_i / sum_i p_ik``.

    Anchors start on a grid, so that the first assignment is a soft grid (a random start assigns nearly uniformly, and
    chunks then have no reason to differ: the analogue of H-Net's identity-initialised router). The scale ``a`` is
    learnt and bounded. A prototype that wins no token is masked; pooling multiplies the chunks' weights by the
    straight-through gate, through which a masked one still gets a gradient.
    """

    MAX_SCALE = 20.0

    def __init__(self, dim: int, rows: int, columns: int, prior_strength: float = 6.0, scale: float = 2.0) -> None:
        super().__init__()
        prototypes = rows * columns
        self.norm = nn.LayerNorm(dim)
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.prototypes = nn.Parameter(torch.randn(prototypes, dim) * dim**-0.5)
        self.anchors = nn.Parameter(anchor_grid(rows, columns))
        self.log_scale = nn.Parameter(torch.tensor(scale).log())
        self.prior_strength = prior_strength

    def forward(self, tokens: Tensor, positions: Tensor, padding: Tensor | None = None) -> Routing:
        """Route tokens B x N x D at positions N x 3 (t, y, x); ``padding`` B x N marks tokens that are not there."""
        normed = self.norm(tokens)
        keys = self.key(normed)  # B x N x D
        with torch.autocast(tokens.device.type, enabled=False):  # shares and centroids need more than bf16's 8 bits
            return self._share_out(keys.float(), normed.float(), positions, padding)

    def _share_out(self, keys: Tensor, normed: Tensor, positions: Tensor, padding: Tensor | None) -> Routing:
        scale = self.log_scale.exp().clamp(max=self.MAX_SCALE)
        # Blank pixels give a fresh network keys of no length: to make them unit vectors would blow up the gradient.
        lengths = keys.norm(dim=-1, keepdim=True).clamp(min=1e-2)  # B x N x 1
        logits = keys @ (scale * F.normalize(self.prototypes, dim=-1)).T / lengths  # B x N x K
        prior = (positions[:, None, 1:] - self.anchors).square().sum(-1)  # N x K
        assignment = torch.sub(logits, prior, alpha=self.prior_strength).softmax(-1)
        if padding is not None:
            assignment = assignment.masked_fill(padding[..., None], 0.0)
        sizes = assignment.sum(1)  # B x K
        given, weight = assignment.transpose(1, 2), sizes.clamp(min=1e-6)[..., None]  # B x K x N, B x K x 1
        # The value map is linear, so the mean of the values is the value of the mean: K products instead of N.
        chunks = F.linear(given @ normed / weight, self.value.weight)  # B x K x D
        chunks = chunks + self.value.bias * (sizes[..., None] / weight)  # zero where a prototype has no share at all
        centroids = given @ positions / weight  # B x K x 3
        best = assignment.detach().max(-1, keepdim=True).values
        wins = ((assignment.detach() == best) & (best > 0)).any(1)  # B x K
        gate = straight_through(wins.float(), assignment.amax(1))  # B x K
        return Routing(chunks, assignment, centroids, sizes, ~wins, gate)
