"""HNetViT: video to contextualised chunks. Encoder, sparse attention, routing, pooling, positions, transformer."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hnet_vjepa.config import BackboneConfig, EncoderConfig
from hnet_vjepa.models.hnet.encoder import Cache, LowLevelEncoder
from hnet_vjepa.models.hnet.graph_pooling import make_pooling
from hnet_vjepa.models.hnet.patches import PatchEncoder
from hnet_vjepa.models.hnet.pos_enc import AdaptivePositionalEncoding
from hnet_vjepa.models.hnet.sparse_attention import NativeSparseAttention
from hnet_vjepa.models.hnet.tokenizers import make_tokenizer
from hnet_vjepa.models.ops import grid_positions
from hnet_vjepa.models.transformer import Block, key_bias
from hnet_vjepa.utils.collectives import context_ranks, gather_sequence, shard_sequence


@dataclass(frozen=True)
class Chunks:
    """The chunks of W windows. Masks are True = padding. N is the number of grid cells of a window."""

    tokens: Tensor  # B x W x M' x D, contextualised
    centroids: Tensor  # B x W x M' x 3 as (t, y, x), t in frames of the clip
    sizes: Tensor  # B x W x M'
    mask: Tensor  # B x W x M'
    assignment: Tensor  # B x W x N x K, grid cells to prototypes
    chunks: Tensor  # B x W x K x D, before pooling
    chunk_centroids: Tensor  # B x W x K x 3
    chunk_mask: Tensor  # B x W x K
    attention: Tensor  # B x W x M' x K, prototypes to slots
    favourite: Tensor  # B x W x K, the slot with the largest share of each prototype's chunk
    cells: Tensor  # B x W x N x D, the features the chunks were made of
    grid: tuple[int, int, int]  # frames, rows and columns of a window

    def cell_slots(self) -> Tensor:
        """The slot that each grid cell belongs to (its prototype's favourite slot): B x W x N."""
        return self.favourite.gather(-1, self.assignment.argmax(-1))

    def flat(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Tokens, centroids, sizes and mask with the windows one after another: B x (W*M') x ..."""
        return (
            self.tokens.flatten(1, 2),
            self.centroids.flatten(1, 2),
            self.sizes.flatten(1, 2),
            self.mask.flatten(1, 2),
        )


def check_video(video: Tensor) -> None:
    """Raise ValueError when ``video`` is not normalised video B x T x H x W x 3 with T above 0, and say why.

    One pixel that is NaN would silently mask all chunks of its sample.
    """
    if video.ndim != 5 or video.shape[-1] != 3 or 0 in video.shape[1:] or not video.is_floating_point():
        shape = " x ".join(map(str, video.shape))
        raise ValueError(f"video must be B x T x H x W x 3 floats, none of these 0; got {shape} of {video.dtype}")
    if not torch.isfinite(video.sum(dtype=torch.float32)):  # one pass: NaN and infinity stay in a sum
        sample, frame = torch.nonzero(~torch.isfinite(video).flatten(2).all(-1))[0].tolist()
        raise ValueError(f"frame {frame} of sample {sample} has pixels that are NaN or infinite")


@lru_cache(maxsize=64)
def cell_positions(frames: int, height: int, width: int, device: torch.device) -> Tensor:
    """``grid_positions``, made once for every size of grid."""
    with torch.inference_mode(False):  # else the cached tensor could not be used in a later backward pass
        return grid_positions(frames, height, width, device)


def make_encoder(config: EncoderConfig, heads: int) -> LowLevelEncoder | PatchEncoder:
    """The encoder that a configuration names; ``heads`` are those of the patches' transformer."""
    if config.kind == "patches":
        stride = config.stem_stride * 2 ** (len(config.widths) - 1)
        return PatchEncoder(stride, config.widths[-1], sum(config.depths), heads)
    return LowLevelEncoder(config.stem_width, config.stem_stride, config.widths, config.depths, config.times)


class HNetViT(nn.Module):
    """The chunk encoder. The same weights serve a whole clip and single control steps.

    ``window`` frames are routed together. With ``across`` the transformer sees the chunks of all windows of the clip
    (pretraining); without it windows are independent, so that no future frame has an influence (planning).
    """

    def __init__(self, config: BackboneConfig) -> None:
        super().__init__()
        self.encoder = make_encoder(config.encoder, config.vit.heads)
        dim = self.encoder.dim
        self.dim = dim
        self.sparse_norm = nn.LayerNorm(dim)
        self.sparse_attention = NativeSparseAttention(
            dim, config.attention.heads, config.attention.cube, config.attention.selected, config.attention.radius
        )
        self.routing = make_tokenizer(dim, config.routing)
        self.place = AdaptivePositionalEncoding(dim) if config.routing.placed else None
        self.pooling = make_pooling(dim, config.pooling)
        self.position = AdaptivePositionalEncoding(dim)
        self.blocks = nn.ModuleList(Block(dim, config.vit.heads) for _ in range(config.vit.depth))
        self.norm = nn.LayerNorm(dim)
        self.recompute = config.vit.recompute

    def forward(
        self,
        video: Tensor,
        window: int = 1,
        across: bool = False,
        padding: Tensor | None = None,
        cache: Cache | None = None,
    ) -> Chunks:
        """Encode normalised video B x T x H x W x 3 in T / window windows.

        Args:
            padding: B x T, True = frame that is not there.
            cache: of a running stream (see LowLevelEncoder.stream); the clip is then its next frames.

        Raises:
            ValueError: bad video (see check_video), or T is not a multiple of ``window``.
        """
        check_video(video)
        batch, frames = video.shape[:2]
        if window < 1 or frames % window:
            raise ValueError(f"a clip of {frames} frames can not be cut into windows of {window}")
        windows = frames // window
        features = self.encoder(video, cache)  # B x T x H' x W' x D
        height, width = features.shape[2:4]
        features = features.unflatten(1, (windows, window)).flatten(0, 1)  # (B*W) x w x H' x W' x D
        cell_padding = None
        if padding is not None:
            cell_padding = padding.reshape(-1, window, 1, 1).expand(-1, -1, height, width)
        features = features + self.sparse_attention(self.sparse_norm(features), cell_padding)
        cells = features.flatten(1, 3)  # (B*W) x N x D
        positions = cell_positions(window, height, width, video.device)
        routing = self.routing(cells, positions, None if cell_padding is None else cell_padding.flatten(1))
        if self.place is not None:
            placed = routing.chunks + self.place(routing.centroids, routing.sizes)
            routing = replace(routing, chunks=placed)
        pooled = self.pooling(routing)

        split = lambda x: x.unflatten(0, (batch, windows))  # noqa: E731
        start = torch.arange(windows, device=video.device, dtype=torch.float32) * window
        clock = torch.stack([start, start * 0, start * 0], -1)[:, None]  # W x 1 x 3, the windows' place in the clip
        centroids = split(pooled.centroids) + clock
        sizes, mask = split(pooled.sizes), split(pooled.mask)
        placed = pooled.centroids if not across else centroids.flatten(0, 1)  # alone, every window is the first
        tokens = pooled.slots + self.position(placed, pooled.sizes)  # (B*W) x M' x D
        tokens = self._contextualise(tokens, sizes, mask, batch if across else batch * windows, across)
        return Chunks(
            tokens=tokens.reshape(batch, windows, -1, self.dim),
            centroids=centroids,
            sizes=sizes,
            mask=mask,
            assignment=split(routing.assignment),
            chunks=split(routing.chunks),
            chunk_centroids=split(routing.centroids) + clock,
            chunk_mask=split(routing.mask),
            attention=split(pooled.attention),
            favourite=split(pooled.favourite),
            cells=split(cells),
            grid=(window, height, width),
        )

    def _contextualise(self, tokens: Tensor, sizes: Tensor, mask: Tensor, rows: int, across: bool) -> Tensor:
        """Run the transformer over ``rows`` sequences of chunks, each chunk weighing as much as its size.

        Under context parallelism the sequence of a whole clip is sharded over the ranks that share it; it is filled up
        with padding to a length that they divide.
        """
        x = tokens.reshape(rows, -1, self.dim)
        bias = key_bias(mask.reshape(rows, -1), sizes.reshape(rows, -1).clamp(min=1e-3).log())
        assert bias is not None
        ranks, length = context_ranks(), x.shape[1]
        sharded = across and ranks > 1
        if sharded:
            fill = -length % ranks
            x = shard_sequence(F.pad(x, (0, 0, 0, fill)), 1)
            bias = shard_sequence(F.pad(bias, (0, fill), value=-math.inf), 3)
        for block in self.blocks:
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, bias, sharded, use_reentrant=False)
            else:
                x = block(x, bias, sharded)
        normed: Tensor = self.norm(x)
        return gather_sequence(normed)[:, :length] if sharded else normed
