"""Words become numbers by hash, and their order counts."""

from __future__ import annotations

import zlib

import torch

from hnet_vjepa.models.text import TextEncoder, hash_words
from tests import toy


def test_words_are_hashed_cut_and_padded() -> None:
    numbers = hash_words(["Go left!", "go left go left go"], buckets=50, words=4)
    go, left = (1 + zlib.crc32(word) % 49 for word in (b"go", b"left"))
    assert numbers.tolist() == [[go, left, 0, 0], [go, left, go, left]]


@torch.no_grad()
def test_sentences_are_unit_vectors_that_depend_on_the_order_of_words_and_not_on_their_neighbours() -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(toy.config().model.text).eval()
    one, other, again = encoder.encode(["left to right", "right to left", "LEFT to right."])
    torch.testing.assert_close(torch.stack([one, other]).norm(dim=1), torch.ones(2))
    assert float((one - other).norm()) > 1e-3
    torch.testing.assert_close(one, again)
    torch.testing.assert_close(encoder.encode(["left to right"])[0], one)
