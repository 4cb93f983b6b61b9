"""Frames of a video by their presentation times, which recorded tables refer to: never by a container's nominal rate.

A frame's presentation time is that of its packet, so choosing frames needs no decoding; only what is asked for, and
what lies between it and the key frame before, is decoded.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hnet_vjepa.data.video import Size, fit, pictures_of, upright, video_stream
from hnet_vjepa.errors import UserError


def nearest(times: NDArray[np.float64], wanted: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each of ``wanted`` (N seconds) the index of the nearest of ``times`` (rising); the earlier one of two."""
    right = np.clip(np.searchsorted(times, wanted), 1, max(1, len(times) - 1))
    right = np.minimum(right, len(times) - 1)
    left = np.maximum(right - 1, 0)
    return np.where(wanted - times[left] <= times[right] - wanted, left, right)


def presentation_times(path: Path) -> NDArray[np.float64]:
    """The presentation times of a video's frames in seconds, rising. Raises UserError when it is damaged or empty."""
    pts, base = _timestamps(str(path), path.stat().st_mtime_ns if path.exists() else 0)
    return np.array(pts, np.float64) * base


def read_at(path: Path, wanted: NDArray[np.float64], size: Size) -> tuple[NDArray[np.uint8], float]:
    """The frames whose presentation times are nearest to ``wanted`` (T rising seconds), and the largest difference.

    Returns T x H x W x 3 of ``size``, and seconds. Raises UserError when one of ``wanted`` lies before the first frame
    or after the last by more than the median time between two, or when the video can not be decoded up to there.
    """
    times = presentation_times(path)
    chosen = nearest(times, wanted)
    step = float(np.median(np.diff(times))) if len(times) > 1 else float("inf")
    # In a gap between two frames the nearer one is what was to be seen; beyond the ends there is nothing.
    outside = np.maximum(times[0] - wanted, wanted - times[-1])
    worst = int(outside.argmax())
    if outside[worst] > step + 1e-6:
        raise UserError(
            f"{path}: no frame near {wanted[worst]:.3f} s; the nearest is at {times[chosen[worst]]:.3f} s "
            f"(it has {len(times)} frames from {times[0]:.3f} to {times[-1]:.3f} s)"
        )
    found: dict[int, NDArray[np.uint8]] = {}
    for number, picture in _decode(path, times, sorted(set(chosen.tolist()))):
        found[number] = fit(picture, size)
    return np.stack([found[number] for number in chosen.tolist()]), float(np.abs(times[chosen] - wanted).max())


def first_size(path: Path) -> Size:
    """Height and width of a video's frames, upright. Raises UserError when it is damaged or empty."""
    picture = next(pictures_of(path), None)
    if picture is None:
        raise UserError(f"{path} is a video without frames")
    return picture.height, picture.width


@lru_cache(maxsize=64)
def _timestamps(path: str, modified: int) -> tuple[tuple[int, ...], float]:
    """Presentation timestamps of all frames that are shown, and the seconds of one unit."""
    try:
        with av.open(path) as container:
            stream = video_stream(container, path)
            base = float(stream.time_base or 0)
            pts = [packet.pts for packet in container.demux(stream) if packet.size and not packet.is_discard]
            if any(stamp is None for stamp in pts):  # AVI: only the decoder counts
                container.seek(0)
                pts = [frame.pts for frame in container.decode(stream)]
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path} is not a readable video ({error.strerror or error})") from error
    stamps = sorted(stamp for stamp in pts if stamp is not None)
    if not stamps:
        raise UserError(f"{path} is a video without frames")
    return tuple(stamps), base


def _decode(path: Path, times: NDArray[np.float64], chosen: list[int]) -> Iterator[tuple[int, Image.Image]]:
    """The frames with the numbers ``chosen`` (rising), with their numbers."""
    stamps, _ = _timestamps(str(path), path.stat().st_mtime_ns)
    number_of = {stamps[number]: number for number in chosen}
    missing = len(number_of)
    try:
        with av.open(str(path)) as container:
            stream = video_stream(container, str(path))
            stream.thread_type = "AUTO"
            if chosen[0] > 0:
                container.seek(stamps[chosen[0]], stream=stream, backward=True)
            for frame in container.decode(stream):
                if frame.pts in number_of:
                    yield number_of[frame.pts], upright(frame)
                    missing -= 1
                if missing == 0:
                    return
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path} stops decoding ({error.strerror or error}); {missing} frames are missing") from error
    raise UserError(f"{path} stops before {times[chosen[-1]]:.3f} s: {missing} of {len(chosen)} frames are missing")
