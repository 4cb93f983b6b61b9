"""The pre-norm transformer block that the ViT, the predictor, the dynamics and the text tower are built of."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hnet_vjepa.models.ops import attention
from hnet_vjepa.utils.collectives import context_group
from hnet_vjepa.utils.ring_attention import ring_attention


def key_bias(mask: Tensor | None, log_size: Tensor | None = None) -> Tensor | None:
    """Additive attention bias from key padding (B x N, True = padding) and log sizes (B x N): B x 1 x 1 x N.

    ``log(size)`` makes a chunk of s tokens weigh as much as s separate tokens would (ToMe, proportional attention).
    A row that is all padding attends to everything, so that it stays finite; its output is never used.
    """
    if mask is None and log_size is None:
        return None
    if mask is None:
        assert log_size is not None
        return log_size[:, None, None, :]
    bias = torch.zeros(mask.shape, device=mask.device) if log_size is None else log_size.float()
    usable = mask & ~mask.all(-1, keepdim=True)
    return bias.masked_fill(usable, float("-inf"))[:, None, None, :]


class Attention(nn.Module):
    """Multi-head attention from x (B x N x D) to a context (B x M x D); self-attention when there is none.

    Raises ValueError when ``dim`` is not a multiple of ``heads``.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        if dim % heads:
            raise ValueError(f"dim {dim} is not a multiple of heads {heads}")
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.key_value = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(
        self, x: Tensor, context: Tensor | None = None, bias: Tensor | None = None, sharded: bool = False
    ) -> Tensor:
        """Return B x N x D; ``bias`` (B x 1 x 1 x M) is added to the logits.

        ``sharded``: x and bias are this rank's part of a sequence that the ranks of a context share (ring attention).
        """
        context = x if context is None else context
        q = self.query(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)  # B x heads x N x d
        k, v = (
            self.key_value(context).unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)
        )  # 2 of B x heads x M x d
        if sharded and bias is not None:
            keys = bias[:, 0, 0]  # B x M
            missing = keys.isneginf()
            attended = ring_attention(q, k, v, missing, keys.masked_fill(missing, 0.0), context_group())
        else:
            attended = attention(q, k, v, bias)
        return self.out(attended.transpose(1, 2).flatten(2))  # B x N x D


class Block(nn.Module):
    """Pre-norm transformer block: x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, dim: int, heads: int, mlp_ratio: float = 2.0) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.mlp_norm = nn.LayerNorm(dim)
        hidden = int(dim * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(dim, hidden), nn.GELU(approximate="tanh"), nn.Linear(hidden, dim))

    def forward(self, x: Tensor, bias: Tensor | None = None, sharded: bool = False) -> Tensor:
        """B x N x D -> B x N x D, with an additive key bias (B x 1 x 1 x N); ``sharded`` as for Attention."""
        x = x + self.attention(self.attention_norm(x), bias=bias, sharded=sharded)
        mixed: Tensor = x + self.mlp(self.mlp_norm(x))
        return mixed


class AttentionPool(nn.Module):
    """One learned query that attends to a set of tokens: one vector (V-JEPA's attentive pooler, one block)."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.query = nn.Parameter(nn.init.trunc_normal_(nn.Linear(dim, 1).weight.detach().clone(), std=0.02)[None])
        self.norm = nn.LayerNorm(dim)
        self.attention = Attention(dim, heads)
        self.mlp_norm = nn.LayerNorm(dim)
        self.mlp = nn.Sequential(nn.Linear(dim, 2 * dim), nn.GELU(approximate="tanh"), nn.Linear(2 * dim, dim))

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """B x N x D (mask B x N) -> B x D."""
        query = self.query.expand(len(tokens), -1, -1)
        pooled = query + self.attention(query, self.norm(tokens), key_bias(mask))
        pooled = pooled + self.mlp(self.mlp_norm(pooled))
        return pooled.squeeze(1)
