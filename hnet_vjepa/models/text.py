"""Text tower: words by hash, a small transformer that sees their order, one unit vector per sentence."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hnet_vjepa.config import TextConfig
from hnet_vjepa.models.transformer import AttentionPool, Block, key_bias
from hnet_vjepa.tokenization import tokenize


def hash_words(sentences: Sequence[str], buckets: int, words: int) -> Tensor:
    """Sentences to word numbers, B x words (int64, 0 = padding); longer sentences are cut.

    A CRC needs no vocabulary file, so any language and any new word works, at the price of rare collisions.
    """
    numbers = torch.zeros(len(sentences), words, dtype=torch.int64)
    for row, sentence in enumerate(sentences):
        for column, word in enumerate(tokenize(sentence)[:words]):
            numbers[row, column] = 1 + zlib.crc32(word.encode()) % (buckets - 1)
    return numbers


class TextEncoder(nn.Module):
    """Sentence -> unit vector. Word order counts: 'left to right' is not 'right to left'."""

    def __init__(self, config: TextConfig) -> None:
        super().__init__()
        self.config = config
        self.word = nn.Embedding(config.buckets, config.width, padding_idx=0)
        self.place = nn.Parameter(torch.randn(config.words, config.width) * 0.02)
        self.blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.pool = AttentionPool(config.width, config.heads)
        self.out = nn.Linear(config.width, config.embedding)

    def forward(self, numbers: Tensor) -> Tensor:
        """Word numbers B x words (see hash_words) -> unit vectors B x E."""
        mask = numbers == 0
        x = self.word(numbers) + self.place  # B x words x width
        bias = key_bias(mask)
        for block in self.blocks:
            x = block(x, bias)
        return F.normalize(self.out(self.pool(x, mask)).float(), dim=-1)

    def encode(self, sentences: Sequence[str]) -> Tensor:
        """Sentences -> unit vectors B x E, on the module's device."""
        numbers = hash_words(sentences, self.config.buckets, self.config.words)
        vectors: Tensor = self(numbers.to(self.place.device))
        return vectors


class StateProjector(nn.Module):
    """Planning state and motion (see with_motion) -> unit vector in the space of the sentences."""

    def __init__(self, features: int, slots: int, width: int, embedding: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(slots * features, 2 * width), nn.GELU(approximate="tanh"), nn.Linear(2 * width, embedding)
        )

    def forward(self, state: Tensor) -> Tensor:
        """... x S x F -> unit vectors ... x E."""
        return F.normalize(self.mlp(state.flatten(-2)).float(), dim=-1)
