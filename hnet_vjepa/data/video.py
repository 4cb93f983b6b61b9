"""Decode recordings (a video file, a folder of numbered pictures) to uint8 frames of one size.

A picture of another shape is scaled until it just covers the size asked for, and its middle is cut out: nothing is
distorted, and what lies beyond the longer sides is lost. The camera of a served robot must be treated the same way
(``fit``).
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from hnet_vjepa.errors import UserError

Size = tuple[int, int]  # height, width in pixels
VIDEOS = (".mp4", ".webm", ".mkv", ".avi", ".mov", ".m4v", ".mpg", ".mpeg")
MOST_PIXELS = 50_000_000  # of a picture; a frame of 8K video has 33 million
PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".webp")


def parse_size(text: str) -> Size:
    """Read ``64`` (a square) or ``48x64`` (height x width). Raises UserError on anything else."""
    match = re.fullmatch(r"(\d+)(?:x(\d+))?", text.strip())
    size = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
    if not all(8 <= side <= 2048 for side in size):
        raise UserError(f"size is '{text}'; give 64 for a square or 48x64 for height x width, each from 8 to 2048")
    return size


def fit(picture: Image.Image, size: Size) -> NDArray[np.uint8]:
    """Return ``picture`` as H x W x 3 uint8 of ``size``: scaled to cover it, the middle cut out."""
    height, width = size
    if (picture.height, picture.width) != size:
        # The middle box of the right shape, scaled in one go with an antialiasing filter.
        scale = min(picture.height / height, picture.width / width)
        left = max(0.0, (picture.width - width * scale) / 2)  # rounding may put it just outside
        top = max(0.0, (picture.height - height * scale) / 2)
        box = (left, top, picture.width - left, picture.height - top)
        picture = picture.convert("RGB").resize((width, height), Image.Resampling.BILINEAR, box)
    return np.asarray(picture.convert("RGB"), np.uint8)


def decode_picture(data: bytes, where: str) -> Image.Image:
    """Decode a PNG, JPEG, BMP or WebP picture to RGB, upright (EXIF).

    Raises UserError when it is damaged, of more than 50 million pixels or not of 8 bits.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # its bound is above ours
            opened = Image.open(io.BytesIO(data), formats=("PNG", "JPEG", "BMP", "WEBP"))
        with opened as picture:
            if picture.mode[0] in "IF":  # 16 or 32 bits: Pillow would cut the values off, not scale them
                raise UserError(f"{where} has more than 8 bits per channel; convert it to 8")
            _check_pixels(picture.width, picture.height, where)
            return ImageOps.exif_transpose(picture).convert("RGB")
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise UserError(f"{where} is not a readable picture ({' '.join(str(error).split())})") from error


def read_video(path: Path, size: Size) -> NDArray[np.uint8]:
    """Decode every frame of a video file to T x H x W x 3.

    Raises UserError when it is damaged, has no frames, or frames of different sizes.

    Frames are counted by decoding: webm files do not say how many they have. Timestamps are not used: nominal frame
    rates of robot recordings are often wrong.
    """
    frames: list[NDArray[np.uint8]] = []
    first = ("", (0, 0))
    for number, picture in enumerate(pictures_of(path)):
        first = same_size(first, f"frame {number}", picture, str(path))
        frames.append(fit(picture, size))
    if not frames:
        raise UserError(f"{path} is a video without frames")
    return np.stack(frames)


def pictures_of(path: Path) -> Iterator[Image.Image]:
    """The frames of a video, upright. Raises UserError when it is damaged."""
    try:
        with av.open(str(path)) as container:
            stream = video_stream(container, str(path))
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                yield upright(frame)
    except (av.FFmpegError, OSError) as error:
        raise UserError(f"{path} is not a readable video ({error.strerror or error})") from error


def video_stream(container: Any, path: str) -> Any:
    """The container's first video stream. Raises UserError when it has none, or one of huge pictures."""
    if not container.streams.video:
        raise UserError(f"{path} has no video stream")
    stream = container.streams.video[0]
    _check_pixels(stream.width, stream.height, path)
    return stream


def upright(frame: Any) -> Image.Image:
    """A decoded frame as an RGB picture. Telephones store upright pictures lying down, with the angle beside them."""
    picture: Image.Image = frame.to_image()
    return picture.rotate(frame.rotation, expand=True)


def _check_pixels(width: int, height: int, where: str) -> None:
    if width * height > MOST_PIXELS:
        raise UserError(f"{where} has {width} x {height} pixels; at most {MOST_PIXELS / 1e6:.0f} million are read")


def read_pictures(folder: Path, size: Size) -> NDArray[np.uint8]:
    """Read a folder of numbered pictures to T x H x W x 3, in the order of their numbers.

    Raises UserError when a name has no number, a number comes twice or is left out, a picture is damaged, or they have
    different sizes.
    """
    frames: list[NDArray[np.uint8]] = []
    first = ("", (0, 0))
    for file in _in_order(folder):
        picture = _read_picture(file)
        first = same_size(first, file.name, picture, str(folder))
        frames.append(fit(picture, size))
    return np.stack(frames)


def same_size(first: tuple[str, Size], name: str, picture: Image.Image, where: str) -> tuple[str, Size]:
    """Compare a picture with the recording's first one (its name and size; no name: this is the first), return that.

    Raises UserError when they differ: scaled to one size, they would show different parts of the scene.
    """
    here = (picture.height, picture.width)
    if first[0] and here != first[1]:
        sizes = " but ".join(f"{who} has {size[0]} x {size[1]} pixels" for who, size in (first, (name, here)))
        raise UserError(f"{where}: {sizes} (height x width); all pictures of an episode must have one size")
    return first if first[0] else (name, here)


def different_sizes(found: Mapping[Size, Sequence[str]], size: Size) -> Iterator[str]:
    """A sentence when recordings, named by their size, have more than one: another camera, or another crop."""
    if len(found) > 1:
        named = ", ".join(f"{h} x {w} in {len(names)} (the first is {names[0]})" for (h, w), names in found.items())
        yield (
            f"the recordings have different sizes (height x width): {named}; each is scaled to cover "
            f"{size[0]} x {size[1]} and its middle cut out, so they may show different parts of the scene"
        )


def _in_order(folder: Path) -> list[Path]:
    """The numbered pictures of a folder. Raises UserError when they can not be put in order."""
    numbered: dict[int, Path] = {}
    for file in pictures_in(folder):
        digits = re.findall(r"\d+", file.stem)
        if not digits:
            raise UserError(f"{file}: the name has no number; name pictures 0000.png, 0001.png, ...")
        number = int(digits[-1])
        if number in numbered:
            raise UserError(f"{folder}: {numbered[number].name} and {file.name} have the same number")
        numbered[number] = file
    if not numbered:
        raise UserError(f"{folder} has no pictures ({', '.join(PICTURES)})")
    for number in range(min(numbered), max(numbered)):
        if number not in numbered:
            raise UserError(f"{folder}: picture number {number} is missing")
    return [numbered[number] for number in sorted(numbered)]


def _read_picture(file: Path) -> Image.Image:
    try:
        return decode_picture(file.read_bytes(), str(file))
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error


def pictures_in(folder: Path) -> list[Path]:
    """The picture files directly in ``folder``."""
    return [
        file
        for file in sorted(folder.iterdir())
        if file.suffix.lower() in PICTURES and file.name[0] != "." and file.is_file()
    ]


@dataclass(frozen=True)
class Recording:
    """A video file or a folder of numbered pictures."""

    path: Path

    def read(self, size: Size) -> NDArray[np.uint8]:
        """Decode it to T x H x W x 3 of ``size``. Raises UserError as ``read_pictures`` and ``read_video`` do."""
        return read_pictures(self.path, size) if self.path.is_dir() else read_video(self.path, size)

    def count(self) -> int:
        """Number of frames, not decoded: of a video that of its packets, which may be a little more."""
        if self.path.is_dir():
            return len(pictures_in(self.path))
        with av.open(str(self.path)) as container:
            packets = container.demux(video_stream(container, str(self.path)))
            return sum(packet.size > 0 and not packet.is_discard for packet in packets)

    def missing_before(self) -> str:
        """What shows that frames may be missing at the beginning, or an empty string."""
        if self.path.is_dir():
            first = min(int(re.findall(r"\d+", file.stem)[-1]) for file in _in_order(self.path))
            return f"the pictures begin with number {first}" if first else ""
        with av.open(str(self.path)) as container:
            packets = container.demux(video_stream(container, str(self.path)))
            hidden = sum(packet.is_discard for packet in packets if packet.size)
        return f"the video hides {hidden} frames (its edit list)" if hidden else ""

    def size(self) -> Size:
        """Height and width of its first picture. Raises UserError when it is damaged."""
        if self.path.is_dir():
            first = _read_picture(_in_order(self.path)[0])
        else:
            found = next(pictures_of(self.path), None)
            if found is None:
                raise UserError(f"{self.path} is a video without frames")
            first = found
        return first.height, first.width


def find_recording(folder: Path, camera: str | None) -> Recording:
    """Return an episode folder's recording.

    A recording is a video file, a sub-folder of numbered pictures, or numbered pictures in the folder itself. With
    ``camera``, only a file or sub-folder of that name counts. Raises UserError when there is none or more than one.
    """
    found: dict[str, Recording] = {}
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(".") or (camera is not None and entry.stem != camera):
            continue
        if (entry.is_dir() and pictures_in(entry)) or entry.suffix.lower() in VIDEOS:
            found[entry.name] = Recording(entry)
    if camera is None and pictures_in(folder):
        found["the pictures in it"] = Recording(folder)
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise UserError(f"{folder} has several recordings ({', '.join(found)}); choose one with --camera NAME")
    named = "" if camera is None else f" named '{camera}'"
    raise UserError(f"{folder} has no recording{named}; put a video file or numbered pictures there")
