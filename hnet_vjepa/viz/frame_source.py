"""Frames to visualise: those of a video file or of a recorded episode, decoded anew on each pass."""

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

DEFAULT_FPS = 25.0  # of a video file that states no frame rate


@dataclass(frozen=True)
class FrameSource:
    """Frames of one size. Each call of ``frames`` starts at the first frame; none is kept in memory."""

    name: str
    fps: float
    frames: Callable[[], Iterator[Image.Image]]


def video_source(path: Path, max_frames: int) -> FrameSource:
    """The first ``max_frames`` frames of a video file, upright.

    Raises UserError when the file is missing or not a video; its iterator also raises one when the video is damaged,
    has no frames, or frames of different sizes.
    """
    if not path.is_file():
        raise UserError(f"{path} is a directory; name a video file" if path.is_dir() else f"there is no file {path}")
    try:
        with av.open(str(path)) as container:
            stream = next(iter(container.streams.video), None)
            fps = float((stream and stream.average_rate) or DEFAULT_FPS)
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path} is not a readable video ({error.strerror or error})") from error

    def frames() -> Iterator[Image.Image]:
        first = ("", (0, 0))
        for number, frame in enumerate(islice(pictures_of(path), max_frames)):
            first = same_size(first, f"frame {number}", frame, str(path))
            yield frame
        if not first[0]:
            raise UserError(f"{path} is a video without frames")

    return FrameSource(path.name, fps, frames)


def episode_source(store: EpisodeStore, index: int, max_frames: int) -> FrameSource:
    """The first ``max_frames`` frames of the episode ``index``. Raises UserError when the store does not have it."""
    episode = next((e for e in store.episodes if e.index == index), None)
    if episode is None:
        known = [e.index for e in store.episodes]
        raise UserError(f"{store.path} has no episode {index}; it has {len(known)}, from {known[0]} to {known[-1]}")
    frames = episode.frames[:max_frames]
    name = f"{store.info.source}, episode {index}"
    return FrameSource(name, 1 / store.info.camera.dt, lambda: (Image.fromarray(frame) for frame in frames))
