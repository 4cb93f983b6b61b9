"""Videos of episodes: the camera's frames beside the goal image."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

SCALE = 3
BAR = 22  # pixels of the line of text under the pictures
GAP = 6
FRAME_MS, LAST_MS = 220, 1600
INK, PAPER = (38, 45, 56), (255, 255, 255)


def episode_gif(frames: NDArray[np.uint8], goal: NDArray[np.uint8], notes: Sequence[str], goal_note: str) -> bytes:
    """Return an animated GIF of ``frames`` (T x H x W x 3) beside ``goal`` (H x W x 3), enlarged, with notes."""
    height, width = SCALE * goal.shape[0], SCALE * goal.shape[1]
    font = ImageFont.load_default(size=14)
    images = []
    for frame, note in zip(frames, notes, strict=True):
        sheet = Image.new("RGB", (2 * width + GAP, height + BAR), PAPER)
        sheet.paste(_enlarged(frame), (0, 0))
        sheet.paste(_enlarged(goal), (width + GAP, 0))
        draw = ImageDraw.Draw(sheet)
        draw.text((2, height + 3), note, INK, font)
        draw.text((width + GAP + 2, height + 3), goal_note, INK, font)
        images.append(sheet)
    # One palette for all frames: they are then stored as differences, and nothing flickers.
    palette = Image.fromarray(np.concatenate([np.asarray(i) for i in (images[0], images[-1])])).quantize(128)
    first, *rest = [image.quantize(palette=palette, dither=Image.Dither.NONE) for image in images]
    stream = io.BytesIO()
    first.save(
        stream,
        "GIF",
        save_all=True,
        append_images=rest,
        duration=[FRAME_MS] * len(rest) + [LAST_MS],
        loop=0,
        optimize=False,
    )
    return stream.getvalue()


def _enlarged(picture: NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(picture)).resize(
        (SCALE * picture.shape[1], SCALE * picture.shape[0]), Image.Resampling.NEAREST
    )
