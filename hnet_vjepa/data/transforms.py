"""Changes of pictures that leave the episode true: few recordings then go further. One draw per clip, not per frame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Clips = NDArray[np.uint8]


def augment(clips: Clips, keys: Sequence[int], seed: int, shift: int, brightness: float) -> Clips:
    """Move each clip by up to ``shift`` pixels and scale its brightness by up to 1 +- ``brightness``.

    Clips B x T x H x W x 3. What a clip gets is a pure function of (seed, key). Pixels moved in from outside repeat the
    border, so a picture never shows where it was cut.
    """
    if not shift and not brightness:
        return clips
    changed = np.empty_like(clips)
    height, width = clips.shape[2:4]
    for row, key in enumerate(keys):
        random = np.random.default_rng([seed, key, 3])
        down, right = random.integers(-shift, shift + 1, 2)
        gain = 1 + brightness * random.uniform(-1, 1)
        rows = np.clip(np.arange(height) - down, 0, height - 1)
        columns = np.clip(np.arange(width) - right, 0, width - 1)
        moved = clips[row][:, rows][:, :, columns]
        changed[row] = np.clip(np.rint(moved * gain), 0, 255) if brightness else moved
    return changed
