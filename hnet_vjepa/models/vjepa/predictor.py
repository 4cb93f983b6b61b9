"""Predictor: a narrow transformer that predicts the chunks that are hidden from the student."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hnet_vjepa.models.hnet.pos_enc import AdaptivePositionalEncoding
from hnet_vjepa.models.transformer import Block, key_bias


class Predictor(nn.Module):
    """Predict target chunks from context chunks; each mask token carries the position of the chunk it stands for."""

    def __init__(self, dim: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(dim, width)
        self.context_position = AdaptivePositionalEncoding(width)
        self.target_position = AdaptivePositionalEncoding(width)
        self.mask_token = nn.Parameter(torch.zeros(width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.out = nn.Linear(width, dim)

    def forward(
        self,
        context: Tensor,
        context_centroids: Tensor,
        context_sizes: Tensor,
        context_mask: Tensor,
        target_centroids: Tensor,
        target_sizes: Tensor,
    ) -> Tensor:
        """Context B x N x D (mask True = unseen), target positions B x M x 3, sizes B x M -> predictions B x M x D."""
        seen = self.embed(context) + self.context_position(context_centroids, context_sizes)  # B x N x width
        asked = self.mask_token + self.target_position(target_centroids, target_sizes)  # B x M x width
        x = torch.cat([seen, asked.to(seen.dtype)], 1)
        mask = torch.cat([context_mask, context_mask.new_zeros(asked.shape[:2])], 1)
        bias = key_bias(mask)
        for block in self.blocks:
            x = block(x, bias)
        predicted: Tensor = self.out(self.norm(x[:, context.shape[1] :]))
        return predicted
