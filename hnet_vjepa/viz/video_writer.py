"""Encode frames as MP4 or as an animated GIF, in memory."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from PIL import Image

COLOURS = 128  # of a GIF, which can have 256: the file is much smaller and looks the same
LAST_MS = 1500  # display time of a GIF's last frame before it loops


class VideoWriter:
    """Encodes RGB frames of ``size`` (height, width) one by one as H.264 in MP4, ``fps`` per second.

    The format needs even sides, so an odd last row or column is cropped.
    """

    def __init__(self, size: tuple[int, int], fps: float) -> None:
        self._bytes = io.BytesIO()
        self._container = av.open(self._bytes, "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        self._stream.height, self._stream.width = (side // 2 * 2 for side in size)
        self._stream.pix_fmt = "yuv420p"  # the only pixel format that every player supports
        self._stream.options = {"crf": "20"}

    def add(self, frame: Image.Image) -> None:
        """Append a frame."""
        even = frame.crop((0, 0, self._stream.width, self._stream.height))
        self._container.mux(self._stream.encode(av.VideoFrame.from_image(even)))

    def finish(self) -> bytes:
        """Close the video and return the file's bytes. Call it once, after the last frame."""
        self._container.mux(self._stream.encode())
        self._container.close()
        return self._bytes.getvalue()


def encode_gif(frames: Sequence[Image.Image], fps: float) -> bytes:
    """An animated GIF of RGB frames of one size, at least one, at ``fps`` per second."""
    # A palette shared by all frames lets them be stored as differences and prevents flicker.
    ends = np.concatenate([np.asarray(frame) for frame in (frames[0], frames[-1])])
    palette = Image.fromarray(ends).quantize(COLOURS)
    first, *rest = [frame.quantize(palette=palette, dither=Image.Dither.NONE) for frame in frames]
    durations = [round(1000 / fps)] * len(rest) + [LAST_MS]
    stream = io.BytesIO()
    first.save(stream, "GIF", save_all=True, append_images=rest, duration=durations, loop=0, optimize=False)
    return stream.getvalue()
