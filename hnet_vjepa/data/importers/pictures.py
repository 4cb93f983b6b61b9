"""Where the pictures of a recorded episode come from: one for each row of its tables, decoded when they are wanted."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from hnet_vjepa.data.video import Recording, Size, decode_picture, fit, pictures_in, same_size
from hnet_vjepa.data.video_times import first_size, read_at
from hnet_vjepa.errors import UserError
from hnet_vjepa.utils.files import sha256

Flip = Literal["none", "vertical", "turned"]
Rows = Sequence[int] | NDArray[np.int64]


class Pictures(Protocol):
    """One picture for each row of an episode, not decoded."""

    def read(self, rows: Rows, size: Size) -> NDArray[np.uint8]:
        """The pictures of ``rows`` (T rising numbers), T x H x W x 3 of ``size``.

        Raises UserError when one is missing or damaged.
        """

    def size(self) -> Size:
        """Height and width as recorded. Raises UserError as ``read`` does."""

    def identity(self) -> str:
        """Equal for two recordings with the same content."""


@dataclass(frozen=True)
class VideoPictures:
    """A video file; row t shows the frame presented nearest to ``times[t]`` (seconds of the video's own clock)."""

    path: Path
    times: NDArray[np.float64]

    def read(self, rows: Rows, size: Size) -> NDArray[np.uint8]:
        """See Pictures."""
        return read_at(self.path, self.times[np.asarray(rows)], size)[0]

    def size(self) -> Size:
        """See Pictures."""
        return first_size(self.path)

    def identity(self) -> str:
        """See Pictures."""
        return _digest([_file_hash(str(self.path)).encode(), self.times.tobytes()])


@dataclass(frozen=True)
class EncodedPictures:
    """``count`` PNG, JPEG, BMP or WebP pictures; ``load`` returns the bytes of some rows, in their order."""

    where: str
    count: int
    load: Callable[[Rows], list[bytes]]

    def read(self, rows: Rows, size: Size) -> NDArray[np.uint8]:
        """See Pictures."""
        frames, first = [], ("", (0, 0))
        for row, data in zip(rows, self.load(rows), strict=True):
            picture = decode_picture(data, f"{self.where}: picture {row}")
            first = same_size(first, f"picture {row}", picture, self.where)
            frames.append(fit(picture, size))
        return np.stack(frames)

    def size(self) -> Size:
        """See Pictures."""
        picture = decode_picture(self.load([0])[0], f"{self.where}: picture 0")
        return picture.height, picture.width

    def identity(self) -> str:
        """See Pictures."""
        return _digest(self.load(range(self.count)))


@dataclass(frozen=True)
class ArrayPictures:
    """``count`` pictures H x W x 3 uint8; ``load`` returns those of some rows, N x H x W x 3."""

    count: int
    load: Callable[[Rows], NDArray[np.uint8]]

    def read(self, rows: Rows, size: Size) -> NDArray[np.uint8]:
        """See Pictures."""
        return np.stack([fit(Image.fromarray(picture), size) for picture in self.load(rows)])

    def size(self) -> Size:
        """See Pictures."""
        height, width = self.load([0]).shape[1:3]
        return height, width

    def identity(self) -> str:
        """See Pictures."""
        return _digest([np.ascontiguousarray(self.load([row])).tobytes() for row in range(self.count)])


@dataclass(frozen=True)
class RecordingPictures:
    """A video or a folder of numbered pictures, one for each row."""

    recording: Recording

    def read(self, rows: Rows, size: Size) -> NDArray[np.uint8]:
        """See Pictures."""
        frames = self.recording.read(size)
        if max(rows) >= len(frames):
            raise UserError(
                f"{self.recording.path} has {len(frames)} pictures that can be decoded; needs {max(rows) + 1}"
            )
        return frames[np.asarray(rows)]

    def size(self) -> Size:
        """See Pictures."""
        return self.recording.size()

    def identity(self) -> str:
        """See Pictures."""
        path = self.recording.path
        return _digest([_file_hash(str(file)).encode() for file in (pictures_in(path) if path.is_dir() else [path])])


@dataclass(frozen=True)
class Corrected:
    """Pictures recorded upside down or turned by 180 degrees (``flip``) or with red and blue swapped, put right."""

    source: Pictures
    flip: Flip
    bgr: bool

    def read(self, rows: Rows, size: Size) -> NDArray[np.uint8]:
        """See Pictures."""
        frames = self.source.read(rows, size)
        if self.flip != "none":
            frames = frames[:, ::-1] if self.flip == "vertical" else frames[:, ::-1, ::-1]
        return np.ascontiguousarray(frames[..., ::-1] if self.bgr else frames)

    def size(self) -> Size:
        """See Pictures."""
        return self.source.size()

    def identity(self) -> str:
        """See Pictures."""
        return self.source.identity()


@dataclass(frozen=True)
class SideBySide:
    """Two cameras as one picture twice as wide: ``left`` and ``right`` each fill one half."""

    left: Pictures
    right: Pictures

    def read(self, rows: Rows, size: Size) -> NDArray[np.uint8]:
        """See Pictures."""
        half = size[0], size[1] // 2
        return np.concatenate([self.left.read(rows, half), self.right.read(rows, half)], 2)

    def size(self) -> Size:
        """See Pictures."""
        height, width = self.left.size()
        return height, 2 * width

    def identity(self) -> str:
        """See Pictures."""
        return _digest([self.left.identity().encode(), self.right.identity().encode()])


def _digest(parts: Sequence[bytes]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()


@lru_cache(maxsize=4096)
def _file_hash(path: str) -> str:
    return sha256(Path(path))
