"""Graph pooling: chunks exchange messages with their neighbours, and those that score best become the slots."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hnet_vjepa.config import PoolingConfig
from hnet_vjepa.models.hnet.downsampler import LearnedAttentionPooling, Pooled
from hnet_vjepa.models.hnet.routing import Routing
from hnet_vjepa.models.ops import anchor_grid


def make_pooling(dim: int, config: PoolingConfig) -> LearnedAttentionPooling | GraphPooling:
    """The pooling that a configuration names, for chunks of ``dim`` numbers: a ``Routing`` becomes a ``Pooled``."""
    if config.kind == "graph":
        return GraphPooling(dim, *config.grid, config.neighbours, config.prior_strength)
    return LearnedAttentionPooling(dim, *config.grid, config.prior_strength, config.size_weight)


def chunk_distances(features: Tensor, centroids: Tensor, place: float) -> Tensor:
    """How different chunks are: ``place |r_k - r_l|^2 + |f_k / |f_k| - f_l / |f_l||^2``, B x K x K.

    features B x K x D, centroids B x K x 2 (y, x). The second part lies between 0 (alike) and 4.
    """
    directions = F.normalize(features, dim=-1)
    apart = (centroids[:, :, None] - centroids[:, None]).square().sum(-1)  # B x K x K
    return place * apart + 2 - 2 * directions @ directions.transpose(1, 2)


def nearest_neighbours(distances: Tensor, live: Tensor, count: int) -> Tensor:
    """Edges from every live chunk's ``count`` nearest other live chunks of its sample to itself: 2 x E.

    distances B x K x K, live B x K. Row 0 holds the neighbours, row 1 the chunks they are neighbours of; chunks are
    numbered through all samples, dead ones left out. A chunk with fewer others has fewer neighbours.
    """
    size = live.shape[1]
    itself = torch.eye(size, dtype=torch.bool, device=live.device)
    allowed = live[:, None] & live[:, :, None] & ~itself  # B x K x K
    near = distances.masked_fill(~allowed, torch.inf).topk(min(count, size), -1, largest=False)  # B x K x n
    sample, centre, place = torch.nonzero(torch.isfinite(near.values), as_tuple=True)
    number = live.flatten().cumsum(0).view_as(live) - 1  # B x K
    neighbour = near.indices[sample, centre, place]
    return torch.stack([number[sample, neighbour], number[sample, centre]])


def match_anchors(centroids: Tensor, kept: Tensor, anchors: Tensor) -> Tensor:
    """A different anchor for each kept chunk, of the pairs still open always the nearest: B x K, any for the others.

    centroids B x K x 2, kept B x K with no more than M' kept in any sample, anchors M' x 2.
    """
    slots = len(anchors)
    cost = torch.cdist(centroids, anchors.expand(len(centroids), -1, -1))  # B x K x M'
    cost = cost.masked_fill(~kept[..., None], torch.inf)
    matched = torch.zeros_like(kept, dtype=torch.long)
    samples = torch.arange(len(cost), device=cost.device)
    for _ in range(slots):
        best = cost.flatten(1).argmin(1)  # B
        chunk, slot = best // slots, best % slots
        open_pair = torch.isfinite(cost[samples, chunk, slot])
        matched[samples, chunk] = torch.where(open_pair, slot, matched[samples, chunk])
        cost[samples, chunk] = torch.inf
        cost[samples, :, slot] = torch.inf
    return matched


class GraphPooling(nn.Module):
    """M chunks to min(M, M') slots: messages along a k-NN graph of the chunks (GATv2), then the best are kept (top-k).

    ``x_k = sum_l a_kl W f_l + b`` over chunk k and its neighbours l, ``a`` by GATv2 (Brody et al. 2022),
    ``s_k = tanh(x_k . p / |p|)``, the M' chunks of largest s become slots ``s_k x_k`` (Gao and Ji 2019).

    Neighbours are near in place and alike in features (``chunk_distances``). What top-k keeps has no order of its own;
    slots are ordered by place: each kept chunk goes to one of a grid of anchors (``match_anchors``), so that slot j of
    one picture can be compared with slot j of another, as long as the chunks keep their places. A chunk that is not
    kept counts for the size of the kept one that it is least different from.
    """

    anchors: Tensor

    def __init__(self, dim: int, rows: int, columns: int, neighbours: int = 4, place: float = 4.0) -> None:
        super().__init__()
        from torch_geometric.nn import GATv2Conv, TopKPooling  # takes seconds, and most models do without

        self.norm = nn.LayerNorm(dim)
        self.mix = GATv2Conv(dim, dim)
        self.keep = TopKPooling(dim, ratio=rows * columns)  # a whole number keeps that many of every graph
        self.register_buffer("anchors", anchor_grid(rows, columns))
        self.neighbours, self.place = neighbours, place

    def forward(self, routing: Routing) -> Pooled:
        """Pool B x K chunks (dead ones masked) to B x M' slots."""
        with torch.autocast(routing.chunks.device.type, enabled=False):
            return self._pool(self.norm(routing.chunks.float()), routing)

    def _pool(self, features: Tensor, routing: Routing) -> Pooled:
        live = ~routing.mask
        batch, chunks = live.shape
        places = routing.centroids[..., 1:]  # B x K x 2
        with torch.no_grad():
            distances = chunk_distances(features, places, self.place)  # B x K x K
            edges = nearest_neighbours(distances, live, self.neighbours)
        sample, chunk = torch.nonzero(live, as_tuple=True)  # of every live chunk: n
        mixed, (ends, weights) = self.mix(features[live], edges, return_attention_weights=True)  # n x D, edges + n
        among = features.new_zeros(batch, chunks, chunks)
        among = among.index_put((sample[ends[1]], chunk[ends[1]], chunk[ends[0]]), weights.squeeze(-1))
        kept_slots, _, _, _, chosen, score = self.keep(mixed, edges, batch=sample)

        with torch.no_grad():
            kept = torch.zeros_like(live).index_put((sample[chosen], chunk[chosen]), live.new_ones(()))
            slot = match_anchors(places, kept, self.anchors)  # B x K
            nearest = distances.masked_fill(~kept[:, None], torch.inf)
            nearest.diagonal(dim1=1, dim2=2).masked_fill_(kept, -torch.inf)
            favourite = slot.gather(1, nearest.argmin(-1))  # B x K
        where = (sample[chosen], slot[sample[chosen], chunk[chosen]])
        shape = (batch, len(self.anchors))
        mask = torch.ones(shape, dtype=torch.bool, device=live.device).index_put(where, live.new_zeros(()))
        slots = features.new_zeros(*shape, features.shape[-1]).index_put(where, kept_slots)
        scores = features.new_zeros(shape).index_put(where, score)
        attention = features.new_zeros(*shape, chunks).index_put(where, among[sample[chosen], chunk[chosen]])
        sizes = features.new_zeros(shape).scatter_add(1, favourite, routing.sizes * routing.gate)
        slots = slots + self._losers(features, routing, slots, sizes, scores, favourite)
        return Pooled(slots, attention @ routing.centroids, sizes, mask, attention, favourite)

    def _losers(
        self, features: Tensor, routing: Routing, slots: Tensor, sizes: Tensor, scores: Tensor, favourite: Tensor
    ) -> Tensor:
        """Zero, with the gradient of the dead chunks' gates: how the slots B x M' x D would change with them.

        A dead chunk would enter its favourite slot with the weight of its size.
        """
        at = favourite[..., None].expand(-1, -1, slots.shape[-1])  # B x K x D
        value = (self.mix.lin_l(features) + self.mix.bias) * scores.gather(1, favourite)[..., None]
        share = routing.sizes / sizes.gather(1, favourite).clamp(min=1e-6)  # B x K
        change = share[..., None] * (value - slots.gather(1, at))
        gate = torch.where(routing.mask, routing.gate, 0.0)[..., None]
        return torch.zeros_like(slots).scatter_add(1, at, gate * change)
