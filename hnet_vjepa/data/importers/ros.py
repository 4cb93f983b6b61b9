"""ROS bags: rosbag2 (folders of .db3 or .mcap files), single .mcap files, and ROS 1's .bag. One bag is one episode.

A row is a picture of the camera's topic, at the time of its header (or, where that is not set, of its recording). Its
state and action are the last messages of their topics up to then, commands held until the next one.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.data.importers.base import Skipped
from hnet_vjepa.data.importers.optional import need
from hnet_vjepa.data.importers.pictures import ArrayPictures, Rows, SideBySide
from hnet_vjepa.data.importers.ros_images import is_depth, pixels
from hnet_vjepa.data.importers.ros_numbers import KINDS, Numbers, numbers_of
from hnet_vjepa.data.importers.tracks import ImportOptions, Recordings, Track, chosen_cameras, chosen_keys
from hnet_vjepa.errors import UserError

IMAGES = ("Image", "CompressedImage")
ZSTD = b"\x28\xb5\x2f\xfd"  # how a compressed message begins


@dataclass(frozen=True)
class _Bag:
    """The files that are read together as one episode."""

    path: Path  # as named to the user
    files: tuple[Path, ...]  # what the reader is given: a bag folder, or files


def read_ros(path: Path, options: ImportOptions) -> Recordings:
    """Find the bags in ``path``: a bag, or a folder of bags.

    Raises UserError when there is none, or none has such topics. A bag that is damaged or lacks all its files is left
    out; one that lacks some is read as far as it is there, and that is said.
    """
    notes: list[str] = []
    bags = _bags(path, notes)
    tracks: list[Track] = []
    skipped: list[Skipped] = []
    names: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    camera = ""
    for number, bag in enumerate(bags):
        try:
            track, found, camera = _track(bag, number, options)
            if names is not None and found != names:
                raise UserError(f"other joints than in {tracks[0].where}")
        except UserError as error:
            skipped.append(Skipped(str(bag.path), str(error).removeprefix(f"{bag.path}: ")))
            continue
        names = found
        tracks.append(track)
    if names is None:
        raise UserError(f"{skipped[0]}" if skipped else f"{path} has no bags")
    return Recordings(
        format="ros",
        camera=camera,
        tracks=tracks,
        files=[file for bag in bags for top in bag.files for file in (top.rglob("*") if top.is_dir() else [top])],
        root=path if path.is_dir() else path.parent,
        action_names=names[0],
        action_units=("unknown",) * len(names[0]),
        state_names=names[1],
        skipped=skipped,
        notes=notes,
    )


def _bags(path: Path, notes: list[str]) -> list[_Bag]:
    if not path.exists():
        raise UserError(f"{path} does not exist")
    if path.is_file():
        return [_Bag(path, (path,))]
    folders = sorted(file.parent for file in path.rglob("metadata.yaml"))
    bags = [bag for folder in folders for bag in _folder(folder, notes)]
    loose = sorted(file for suffix in (".bag", ".mcap") for file in path.rglob(f"[!.]*{suffix}"))
    bags += [_Bag(file, (file,)) for file in loose if file.parent not in folders]
    if not bags:
        raise UserError(f"{path} has no bag (a folder with metadata.yaml, .mcap or .bag)")
    return bags


def _folder(folder: Path, notes: list[str]) -> list[_Bag]:
    """A bag folder; where files that its metadata.yaml names are gone, those that are left."""
    import yaml

    try:
        told = yaml.safe_load((folder / "metadata.yaml").read_text())["rosbag2_bagfile_information"]
        named = [str(name) for name in told["relative_file_paths"]]
    except (OSError, ValueError, KeyError, TypeError, yaml.YAMLError) as error:
        what = " ".join(str(error).split())
        raise UserError(f"{folder / 'metadata.yaml'} does not describe a bag ({what})") from error
    there = tuple(folder / name for name in named if (folder / name).is_file())
    if len(there) == len(named):
        return [_Bag(folder, (folder,))]
    gone = next(name for name in named if not (folder / name).is_file())
    missing = f"{len(named) - len(there)} of {len(named)} files"
    notes.append(f"{folder}: {missing} that metadata.yaml names are gone, the first is {gone}")
    return [_Bag(file, (file,)) for file in there] or [_Bag(folder, ())]


@contextlib.contextmanager
def _opened(bag: _Bag) -> Iterator[Any]:
    highlevel, stores = need("rosbags.highlevel", "ROS bags"), need("rosbags.typesys", "ROS bags")
    types = stores.get_typestore(stores.Stores.ROS2_HUMBLE)  # for bags that do not define their messages
    try:
        with highlevel.AnyReader(list(bag.files), default_typestore=types) as reader:
            yield reader
    except UserError:
        raise
    except Exception as error:  # its errors share no base class but Exception
        raise UserError(f"{bag.path} is not a readable bag ({' '.join(str(error).split())[:150]})") from error


def _messages(reader: Any, topic: str) -> Iterator[tuple[float, Any]]:
    """Time (seconds) and message of a topic, in the order of recording."""
    for connection, stamp, data in reader.messages(_connections(reader, topic)):
        if bytes(data[:4]) == ZSTD:
            data = need("backports.zstd", "compressed messages").decompress(data)
        kind = connection.msgtype  # older bags leave out the middle of sensor_msgs/msg/Image
        message = reader.deserialize(data, kind if kind.count("/") > 1 else kind.replace("/", "/msg/"))
        header = getattr(message, "header", None)
        time = header.stamp.sec + header.stamp.nanosec * 1e-9 if header is not None else 0.0
        yield (time or stamp * 1e-9), message


def _connections(reader: Any, topic: str) -> list[Any]:
    return [connection for connection in reader.connections if connection.topic == topic]


def _kind(reader: Any, topic: str) -> str:
    return str(_connections(reader, topic)[0].msgtype).rsplit("/", 1)[-1]


def _track(
    bag: _Bag, number: int, options: ImportOptions
) -> tuple[Track, tuple[tuple[str, ...], tuple[str, ...]], str]:
    where = str(bag.path)
    if not bag.files:
        raise UserError(f"{where}: none of the files that metadata.yaml names is there")
    with _opened(bag) as reader:
        topics = sorted({connection.topic for connection in reader.connections})
        kinds = {topic: _kind(reader, topic) for topic in topics}
        cameras = [t for t in topics if kinds[t] in IMAGES and not _is_depth_topic(reader, t)]
        chosen = chosen_cameras(where, cameras, options)
        tables = [topic for topic in topics if kinds[topic] in KINDS]
        commanded = chosen_keys(where, tables, options.action_key, ())
        joints = [topic for topic in tables if kinds[topic] == "JointState" and topic not in commanded]
        joints = [topic for topic in joints if topic.endswith("joint_states")] or joints
        measured = chosen_keys(where, tables, options.state_key, joints if len(joints) == 1 else ())
        stamps = [np.array([time for time, _ in _messages(reader, topic)]) for topic in chosen]
        numbers = {t: numbers_of(_messages(reader, t), t, where) for t in [*measured, *commanded]}
    order = [np.argsort(times, kind="stable") for times in stamps]
    times = stamps[0][order[0]]
    pictures = [
        ArrayPictures(len(times), _Pictures(bag, topic, tuple(_last(stamps[i][order[i]], times, order[i]).tolist())))
        for i, topic in enumerate(chosen)
    ]
    rows = [
        [numbers[t].rows[_last(numbers[t].times, times, np.arange(len(numbers[t].times)))] for t in keys]
        for keys in (commanded, measured)
    ]
    actions, states = (np.concatenate(parts, 1) if parts else np.zeros((len(times), 0), np.float32) for parts in rows)
    track = Track(
        where=where,
        number=number,
        times=times - times[0] if len(times) else times,
        pictures=SideBySide(*pictures) if len(pictures) == 2 else pictures[0],
        actions=actions,
        states=states,
        captions=((),) * len(times),
    )
    return track, (_names(commanded, numbers), _names(measured, numbers)), chosen[0].strip("/").replace("/", ".")


def _is_depth_topic(reader: Any, topic: str) -> bool:
    first = next((message for _, message in _messages(reader, topic)), None)
    return first is None or is_depth(first)


def _names(topics: Sequence[str], numbers: dict[str, Numbers]) -> tuple[str, ...]:
    several = len(topics) > 1
    return tuple(f"{topic}/{name}" if several else name for topic in topics for name in numbers[topic].names)


def _last(times: NDArray[np.float64], wanted: NDArray[np.float64], order: NDArray[np.int64]) -> NDArray[np.int64]:
    """``order`` at the last of ``times`` (rising) that is not after each of ``wanted``; the first where none is."""
    return order[np.maximum(np.searchsorted(times, wanted, "right") - 1, 0)]


@dataclass(frozen=True)
class _Pictures:
    """The pictures of a topic; ``messages``: the number of each row's message."""

    bag: _Bag
    topic: str
    messages: tuple[int, ...]

    def __call__(self, rows: Rows) -> NDArray[np.uint8]:
        wanted = [self.messages[int(row)] for row in rows]
        found: dict[int, NDArray[np.uint8]] = {}
        needed, last = set(wanted), max(wanted)
        with _opened(self.bag) as reader:
            for number, (_, message) in enumerate(_messages(reader, self.topic)):
                if number in needed:
                    found[number] = pixels(message, f"{self.bag.path}: {self.topic} message {number}")
                if number == last:
                    break
        return np.stack([found[number] for number in wanted])
