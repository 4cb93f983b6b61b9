"""Learned attention pooling: a varying number of chunks becomes a few slots in a fixed order."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hnet_vjepa.models.hnet.routing import Routing
from hnet_vjepa.models.ops import anchor_grid


@dataclass(frozen=True)
class Pooled:
    """M' slots of a window, at most min(M, M') of them valid."""

    slots: Tensor  # B x M' x D
    centroids: Tensor  # B x M' x 3 as (t, y, x)
    sizes: Tensor  # B x M'
    mask: Tensor  # B x M', True = holds no chunk
    attention: Tensor  # B x M' x K
    favourite: Tensor  # B x K, the slot with the largest share of each chunk


class LearnedAttentionPooling(nn.Module):
    """M chunks to M' slots by learned queries that attend to the chunks.

    ``attention_jk = softmax_k( q_j . k_k / sqrt(D) + w log size_k - s |anchor_j - centroid_k|^2 )``. With w = 1 a chunk
    weighs as much as its cells, with w = 0 as much as any other. The queries fix the order of the slots, so that slot j
    of one picture can be compared with slot j of another; like the prototypes they start on a grid. A slot is valid
    when it has the largest share of at least one chunk, hence at most min(M, M') are.
    """

    def __init__(
        self, dim: int, rows: int, columns: int, prior_strength: float = 4.0, size_weight: float = 1.0
    ) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.queries = nn.Parameter(torch.randn(rows * columns, dim) * dim**-0.5)
        self.anchors = nn.Parameter(anchor_grid(rows, columns))
        self.key = nn.Linear(dim, dim, bias=False)
        self.value = nn.Linear(dim, dim)
        self.prior_strength, self.size_weight = prior_strength, size_weight

    def forward(self, routing: Routing) -> Pooled:
        """Pool B x K chunks (dead ones masked) to B x M' slots."""
        normed = self.norm(routing.chunks)
        keys, values = self.key(normed), self.value(normed)  # B x K x D
        with torch.autocast(normed.device.type, enabled=False):
            return self._pool(keys.float(), values.float(), routing)

    def _pool(self, keys: Tensor, values: Tensor, routing: Routing) -> Pooled:
        match = self.queries @ keys.transpose(1, 2) * keys.shape[-1] ** -0.5  # B x M' x K
        distance = (self.anchors[:, None] - routing.centroids[:, None, :, 1:]).square().sum(-1)  # B x M' x K
        logits = match - self.prior_strength * distance
        gate = routing.gate[:, None]  # B x 1 x K; 0 for dead chunks, which get a gradient through it
        log_sizes = routing.sizes.clamp(min=1e-6).log()[:, None]  # B x 1 x K
        weights = torch.add(logits, log_sizes, alpha=self.size_weight).softmax(-1) * gate
        attention = weights / weights.sum(-1, keepdim=True).clamp(min=1e-9)  # B x M' x K
        slots = attention @ values  # B x M' x D
        centroids = attention @ routing.centroids  # B x M' x 3
        share = logits.softmax(1) * gate  # B x M' x K, every live chunk shared out among the slots
        sizes = (share * routing.sizes[:, None]).sum(-1)  # B x M'
        favourite = share.detach().argmax(1)  # B x K
        holds = torch.zeros_like(share).scatter(1, favourite[:, None], 1.0) * ~routing.mask[:, None]  # B x M' x K
        return Pooled(slots, centroids, sizes, ~holds.bool().any(-1), attention, favourite)
