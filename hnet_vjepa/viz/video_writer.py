"""Films for people: pictures to the bytes of an MP4 or an animated GIF."""

from __future__ import annotations

import io
from collections.abc import Sequence
from fractions import Fraction

import av
import numpy as np
from PIL import Image

COLOURS = 128  # of a GIF, which can hold 256: a good deal smaller and looks the same
LAST_MS = 1500  # how long a GIF rests on its last picture before it starts again


class Mp4:
    """An H.264 film that grows picture by picture: RGB, all of ``size`` (height, width), ``rate`` per second.

    An odd last row or column is left out.
    """

    def __init__(self, size: tuple[int, int], rate: float) -> None:
        self._bytes = io.BytesIO()
        self._container = av.open(self._bytes, "w", format="mp4")
        self._stream = self._container.add_stream("libx264", rate=Fraction(rate).limit_denominator(1001))
        self._stream.height, self._stream.width = (side // 2 * 2 for side in size)
        self._stream.pix_fmt = "yuv420p"  # the one kind of colours that every player knows; it needs even sides
        self._stream.options = {"crf": "20"}

    def add(self, picture: Image.Image) -> None:
        """Append a picture."""
        even = picture.crop((0, 0, self._stream.width, self._stream.height))
        self._container.mux(self._stream.encode(av.VideoFrame.from_image(even)))

    def finish(self) -> bytes:
        """Close the film and return the file's bytes; nothing can be added after."""
        self._container.mux(self._stream.encode())
        self._container.close()
        return self._bytes.getvalue()


def encode_gif(pictures: Sequence[Image.Image], rate: float) -> bytes:
    """An animated GIF of RGB pictures of one size, at least one, at ``rate`` per second."""
    # One palette for all frames: they are then stored as differences, and nothing flickers.
    ends = np.concatenate([np.asarray(picture) for picture in (pictures[0], pictures[-1])])
    palette = Image.fromarray(ends).quantize(COLOURS)
    first, *rest = [picture.quantize(palette=palette, dither=Image.Dither.NONE) for picture in pictures]
    durations = [round(1000 / rate)] * len(rest) + [LAST_MS]
    stream = io.BytesIO()
    first.save(stream, "GIF", save_all=True, append_images=rest, duration=durations, loop=0, optimize=False)
    return stream.getvalue()
