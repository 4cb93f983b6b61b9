"""Footage to look at: the pictures of a video file or of a recorded episode, which can be gone through again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import av
from PIL import Image

from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.data.video import pictures_of, same_size
from hnet_vjepa.errors import UserError

RATE = 25.0  # pictures per second of a video that does not say


@dataclass(frozen=True)
class Footage:
    """Pictures of one size. ``pictures`` starts again at the first each time it is called; none is kept in memory."""

    name: str
    rate: float  # pictures per second
    pictures: Callable[[], Iterator[Image.Image]]


def video_footage(path: Path, most: int) -> Footage:
    """The first ``most`` frames of a video file, upright.

    Raises UserError when there is no such file or it is no video; while reading, also when it is damaged, or has no
    frames, or frames of different sizes.
    """
    if not path.is_file():
        raise UserError(f"{path} is a directory; name a video file" if path.is_dir() else f"there is no file {path}")
    try:
        with av.open(str(path)) as container:
            stream = next(iter(container.streams.video), None)
            rate = float((stream and stream.average_rate) or RATE)
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path} is not a readable video ({error.strerror or error})") from error

    def pictures() -> Iterator[Image.Image]:
        first = ("", (0, 0))
        for number, picture in enumerate(islice(pictures_of(path), most)):
            first = same_size(first, f"frame {number}", picture, str(path))
            yield picture
        if not first[0]:
            raise UserError(f"{path} is a video without frames")

    return Footage(path.name, rate, pictures)


def episode_footage(store: EpisodeStore, number: int, most: int) -> Footage:
    """The first ``most`` frames of the episode of that number. Raises UserError when the store has no such episode."""
    episode = next((e for e in store.episodes if e.index == number), None)
    if episode is None:
        known = [e.index for e in store.episodes]
        raise UserError(f"{store.path} has no episode {number}; it has {len(known)}, from {known[0]} to {known[-1]}")
    frames = episode.frames[:most]
    name = f"{store.info.source}, episode {number}"
    return Footage(name, 1 / store.info.camera.dt, lambda: (Image.fromarray(frame) for frame in frames))
