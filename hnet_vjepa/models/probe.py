"""Attentive probe: which labels hold in a planning state, with a probability."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hnet_vjepa.models.transformer import AttentionPool


class AttentiveProbe(nn.Module):
    """One attention-pooling query over the slots, then a linear layer (V-JEPA's attentive probe)."""

    def __init__(self, features: int, slots: int, heads: int, labels: int) -> None:
        super().__init__()
        self.width = features
        self.embed = nn.Linear(features, self.width)
        self.slot = nn.Parameter(torch.randn(slots, self.width) * 0.5)
        self.pool = AttentionPool(self.width, heads)
        self.out = nn.Linear(self.width, labels)

    def forward(self, read: Tensor) -> Tensor:
        """B x S x F (planning state and motion, see with_motion) -> logits B x L."""
        logits: Tensor = self.out(self.pool(self.embed(read) + self.slot))
        return logits
