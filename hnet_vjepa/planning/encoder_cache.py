"""Cache of a temporal encoder's running state, so that of a robot's frames only the new one is encoded.

A robot that requests a plan at every step sends the frames that its planner uses, and all but the newest were sent with
the request before. No session is needed: the cached state is found by a hash of the frames themselves.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from hashlib import blake2b

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hnet_vjepa.models.hnet.encoder import Cache

CACHED_SEQUENCES = 256

Frames = NDArray[np.uint8]  # T x H x W x 3
Encode = Callable[[Frames, Cache], tuple[Tensor, ...]]
"""Clips B x T x H x W x 3 and the encoder's cache of their past, which it updates -> tensors B x T x ..."""


@dataclass(frozen=True)
class _Running:
    cache: Cache  # of one row
    last: tuple[Tensor, ...]  # encoding of its last frame, each 1 x ...


class EncoderCache:
    """Cached encoder states of the most recent frame sequences (least recently used are dropped).

    ``history``: number of frames before a frame that its encoding depends on.
    """

    def __init__(self, encode: Encode, history: int) -> None:
        self._encode, self._history = encode, history
        self._known: OrderedDict[bytes, _Running] = OrderedDict()

    def last_two(self, clips: Sequence[Frames]) -> tuple[Tensor, ...]:
        """Encodings of the last two frames of B equally long clips T x H x W x 3: each B x 2 x ...

        Equal to encoding every clip from its first frame. A single frame is its own past. Where all but the last frame
        are cached, only that one is encoded.
        """
        clips = [clip[-self._history - 2 :] for clip in clips]
        keys = [self._key(clip[:-1]) for clip in clips]
        found = [self._known.get(key) if len(clip) > 1 else None for key, clip in zip(keys, clips, strict=True)]
        made: dict[int, tuple[Tensor, ...]] = {}
        for running in (True, False):
            rows = [i for i, past in enumerate(found) if (past is not None) == running]
            if rows:
                pasts = [past for i in rows if (past := found[i]) is not None]
                made.update(zip(rows, self._encode_new([clips[i] for i in rows], pasts), strict=True))
        return tuple(torch.cat(parts) for parts in zip(*(made[i] for i in range(len(clips))), strict=True))

    def _encode_new(self, clips: list[Frames], pasts: list[_Running]) -> list[tuple[Tensor, ...]]:
        """Encode whole clips, or only their last frames where their ``pasts`` are given: each 1 x 2 x ..."""
        cache: Cache = {}
        if pasts:
            cache = {key: torch.cat([past.cache[key] for past in pasts]) for key in pasts[0].cache}
        new = self._encode(np.stack([clip[-1:] if pasts else clip for clip in clips]), cache)
        made = []
        for row, clip in enumerate(clips):
            here = tuple(x[row : row + 1] for x in new)  # 1 x T x ...
            before = pasts[row].last if pasts else tuple(x[:, max(0, x.shape[1] - 2)] for x in here)
            last = tuple(x[:, -1] for x in here)
            made.append(tuple(torch.stack(pair, 1) for pair in zip(before, last, strict=True)))
            self._store(clip, _Running({key: x[row : row + 1].clone() for key, x in cache.items()}, last))
        return made

    def _store(self, clip: Frames, running: _Running) -> None:
        key = self._key(clip)
        self._known[key] = running
        self._known.move_to_end(key)
        while len(self._known) > CACHED_SEQUENCES:
            self._known.popitem(last=False)

    def _key(self, clip: Frames) -> bytes:
        """Hash of the frames that the encoding of the next frame depends on."""
        seen = clip[-self._history - 1 :]
        return blake2b(np.ascontiguousarray(seen).tobytes(), digest_size=16, person=str(len(seen)).encode()).digest()
