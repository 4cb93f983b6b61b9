"""HDF5 demonstrations: robomimic and LIBERO (many in one file), ALOHA and RoboTwin (a file for each).

``data/demo_0/{actions, obs/<name>}`` or ``{action, observations/{qpos, images/<camera>}}``. Pictures are arrays
T x H x W x 3, or encoded pictures one by one. The files hold no times; robomimic's say the control rate.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.data.importers.base import Skipped
from hnet_vjepa.data.importers.optional import need
from hnet_vjepa.data.importers.pictures import ArrayPictures, EncodedPictures, Pictures, Rows, SideBySide
from hnet_vjepa.data.importers.tracks import ImportOptions, Recordings, Track, chosen_cameras, chosen_keys
from hnet_vjepa.errors import UserError

SUFFIXES = (".hdf5", ".h5")
ROBOMIMIC_RATE, ALOHA_RATE = 20.0, 50.0  # rows per second; robosuite's and ALOHA's usual
ROBOMIMIC_STATES = (  # the first of these that all are there
    ("robot0_eef_pos", "robot0_eef_quat", "robot0_gripper_qpos"),
    ("ee_pos", "ee_ori", "gripper_states"),
    ("robot0_joint_pos",),
)


@dataclass(frozen=True)
class _Layout:
    """Where an episode's tables are in its file."""

    group: str  # of the episode
    action: str
    states: str  # group of the state's tables
    pictures: str  # group of the cameras
    rate: float
    assumed: bool
    sentence: str = ""


def read_hdf5(path: Path, options: ImportOptions) -> Recordings:
    """Find the demonstrations in an HDF5 file, or in all of a folder.

    Raises UserError when a file is damaged or of no known layout, or has no such camera or table.
    """
    files = [path] if path.is_file() else sorted(file for s in SUFFIXES for file in path.rglob(f"[!.]*{s}"))
    if not files:
        raise UserError(f"{path} has no HDF5 file ({', '.join(SUFFIXES)})")
    tracks: list[Track] = []
    skipped: list[Skipped] = []
    notes: list[str] = []
    names: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    cameras: list[str] = []
    for file in files:
        with _opened(file) as root:
            for layout in _layouts(root, file):
                where = f"{file}: {layout.group}" if layout.group else str(file)
                group = root[layout.group] if layout.group else root
                if not cameras:
                    found = [name for name, item in group[layout.pictures].items() if _is_pictures(item)]
                    cameras = chosen_cameras(str(path), found, options)
                    rate = options.rate or layout.rate
                    if layout.assumed and not options.rate:
                        notes.append(f"the files do not say their rate; taken as {rate:g} rows per second (--rate)")
                try:
                    track, names = _track(group, layout, file, where, cameras, len(tracks), rate, options)
                except UserError as error:
                    skipped.append(Skipped(where, str(error).removeprefix(f"{where}: ")))
                    continue
                tracks.append(track)
    return Recordings(
        format="hdf5",
        camera=cameras[0],
        tracks=tracks,
        files=files,
        root=path if path.is_dir() else path.parent,
        action_names=names[0],
        action_units=("unknown",) * len(names[0]),
        state_names=names[1],
        skipped=skipped,
        notes=notes,
    )


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[Any]:
    h5py = need("h5py", "HDF5 files")
    try:
        with h5py.File(file, "r") as root:
            yield root
    except OSError as error:
        raise UserError(f"{file} is not a readable HDF5 file ({' '.join(str(error).split())[:120]})") from error


def _layouts(root: Any, file: Path) -> Iterator[_Layout]:
    """The episodes of a file, in natural order."""
    if "observations" in root:
        yield _Layout("", "action", "observations", "observations/images", ALOHA_RATE, True)
    elif "data" in root:
        attributes = root["data"].attrs
        rate = _attribute(attributes, "env_args", "env_kwargs", "control_freq")
        sentence = str(_attribute(attributes, "problem_info", "language_instruction") or "").strip('"')
        demos = sorted(root["data"], key=lambda name: [int(part) for part in re.findall(r"\d+", name)])
        for name in demos:
            usual = float(rate or ROBOMIMIC_RATE)
            yield _Layout(f"data/{name}", "actions", "obs", "obs", usual, rate is None, " ".join(sentence.split()))
    else:
        raise UserError(f"{file} has neither 'data' (robomimic, LIBERO) nor 'observations' (ALOHA): {', '.join(root)}")


def _attribute(attributes: Any, name: str, *path: str) -> Any:
    """A value inside an attribute that holds JSON, or None."""
    try:
        value = json.loads(attributes[name])
        for key in path:
            value = value[key]
    except (KeyError, ValueError, TypeError):
        return None
    return value


def _track(
    group: Any,
    layout: _Layout,
    file: Path,
    where: str,
    cameras: Sequence[str],
    number: int,
    rate: float,
    options: ImportOptions,
) -> tuple[Track, tuple[tuple[str, ...], tuple[str, ...]]]:
    folder = group[layout.states]
    tables = [name for name, item in folder.items() if hasattr(item, "shape") and item.ndim in (1, 2)]
    usual = ["qpos"] if "qpos" in tables else next((c for c in ROBOMIMIC_STATES if set(c) <= set(tables)), ())
    states = [folder[key] for key in chosen_keys(where, tables, options.state_key, usual)]
    here = [name for name, item in group.items() if hasattr(item, "shape") and item.ndim in (1, 2)]
    actions = [group[key] for key in chosen_keys(where, here, options.action_key, [layout.action])]
    lengths = {item.name.rsplit("/", 1)[-1]: len(item) for item in [*states, *actions]}
    pictures = []
    for name in cameras:
        if name not in group[layout.pictures]:
            raise UserError(f"{where}: no camera {name}")
        lengths[name] = len(group[layout.pictures][name])
        pictures.append(_pictures(file, group[layout.pictures][name], where))
    if len(set(lengths.values())) > 1:
        said = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise UserError(f"{where}: tables of different lengths ({said})")
    length = next(iter(lengths.values()))
    caption = (layout.sentence,) if layout.sentence else ()
    track = Track(
        where=where,
        number=number,
        times=np.arange(length) / rate,
        pictures=SideBySide(*pictures) if len(pictures) == 2 else pictures[0],
        actions=_stacked(actions, length),
        states=_stacked(states, length),
        captions=(caption,) * length,
    )
    return track, (_names(actions), _names(states))


def _stacked(tables: Sequence[Any], length: int) -> NDArray[np.float32]:
    parts = [np.asarray(table[()], np.float32).reshape(length, -1) for table in tables]
    return np.concatenate(parts, 1) if parts else np.zeros((length, 0), np.float32)


def _names(tables: Sequence[Any]) -> tuple[str, ...]:
    """``qpos.0``, ``qpos.1``: table and column."""
    widths = [(table.name.rsplit("/", 1)[-1], int(np.prod(table.shape[1:]))) for table in tables]
    return tuple(f"{name}.{column}" for name, width in widths for column in range(width))


def _is_pictures(item: Any) -> bool:
    if not hasattr(item, "shape"):
        return False
    return (item.ndim == 4 and item.shape[-1] == 3) or _is_encoded(item)


def _is_encoded(item: Any) -> bool:
    """Whether the rows are bytes of picture files: of varying length, as strings, or padded with zeros."""
    return (item.ndim == 1 and item.dtype.kind in "OSV") or (item.ndim == 2 and item.dtype == np.uint8)


def _pictures(file: Path, item: Any, where: str) -> Pictures:
    name, count = item.name, len(item)
    if _is_encoded(item):
        return EncodedPictures(where, count, _Encoded(file, name))
    if item.dtype != np.uint8:
        raise UserError(f"{where}: {name} is of type {item.dtype}; pictures must be uint8")
    return ArrayPictures(count, _Array(file, name))


@dataclass(frozen=True)
class _Array:
    """Pictures T x H x W x 3 in a file."""

    file: Path
    name: str

    def __call__(self, rows: Rows) -> NDArray[np.uint8]:
        with _opened(self.file) as root:
            return np.asarray(root[self.name][np.asarray(rows, np.int64)], np.uint8)


@dataclass(frozen=True)
class _Encoded:
    """Bytes of picture files in a file, perhaps padded with zeros."""

    file: Path
    name: str

    def __call__(self, rows: Rows) -> list[bytes]:
        with _opened(self.file) as root:
            return [np.asarray(root[self.name][int(row)]).tobytes() for row in rows]
