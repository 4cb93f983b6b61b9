"""Fixed tubelets, a baseline of chunks at equal compute. No convolutions; every patch is a token."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hnet_vjepa.models.hnet.encoder import Cache
from hnet_vjepa.models.hnet.pos_enc import AdaptivePositionalEncoding
from hnet_vjepa.models.ops import grid_positions
from hnet_vjepa.models.transformer import Block


class PatchEncoder(nn.Module):
    """Every patch of ``stride`` x ``stride`` pixels of a frame, mapped linearly; a transformer on a frame's patches.

    A vision transformer (Dosovitskiy et al. 2020); V-JEPA's tubelets, one frame deep, since the planner is shown
    frames one by one.
    """

    def __init__(self, stride: int, dim: int, depth: int, heads: int) -> None:
        super().__init__()
        self.stride, self.dim, self.history = stride, dim, 0
        self.embed = nn.Linear(3 * stride**2, dim)
        self.position = AdaptivePositionalEncoding(dim)
        self.blocks = nn.ModuleList(Block(dim, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(dim)

    def forward(self, video: Tensor, cache: Cache | None = None) -> Tensor:
        """Encode normalised video B x T x H x W x 3 to B x T x H' x W' x D, H' = H / stride (rounded up).

        ``cache`` is that of LowLevelEncoder, and not needed: every frame is alone.
        """
        batch, frames, height, width = video.shape[:4]
        x = video.flatten(0, 1).permute(0, 3, 1, 2)  # BT x 3 x H x W
        below, right = -height % self.stride, -width % self.stride
        if below or right:  # as LowLevelEncoder
            x = nn.functional.pad(x, (0, right, 0, below), "replicate")
        rows, columns = x.shape[-2] // self.stride, x.shape[-1] // self.stride
        tokens = self.embed(nn.functional.unfold(x, self.stride, stride=self.stride).transpose(1, 2))  # BT x N x D
        places = grid_positions(1, rows, columns, video.device)[None]  # 1 x N x 3
        tokens = tokens + self.position(places, torch.ones_like(places[..., 0]))
        for block in self.blocks:
            tokens = block(tokens)
        return self.norm(tokens).view(batch, frames, rows, columns, self.dim)

    def stream(self, frame: Tensor, cache: Cache) -> Tensor:
        """Encode one more frame (B x H x W x 3): B x H' x W' x D."""
        return self.forward(frame.unsqueeze(1), cache).squeeze(1)
