"""DROID as it was recorded: a folder for each episode with trajectory.h5, metadata_<uuid>.json and MP4 files.

Rows are 1/15 s apart, whatever rate the MP4 files state. The frame of a row is the one captured nearest to the time
that ``trajectory.h5`` gives for it, where ``<serial>_timestamps.json`` says when each frame was captured, else the one
with the row's number. Rows without a controller (``skip_action``, ``movement_enabled``) are left out.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.data.importers.base import Skipped
from hnet_vjepa.data.importers.optional import need
from hnet_vjepa.data.importers.pictures import SideBySide, VideoPictures
from hnet_vjepa.data.importers.tracks import ImportOptions, Recordings, Track, chosen_cameras, chosen_keys
from hnet_vjepa.data.video_times import nearest, presentation_times
from hnet_vjepa.errors import UserError
from hnet_vjepa.specs import CARTESIAN_NAMES, CARTESIAN_UNITS
from hnet_vjepa.utils.progress import show_progress

RATE = 15.0  # control steps per second (droid-dataset/droid)
CAMERAS = ("ext1", "ext2", "wrist")
STATES = ("cartesian_position", "gripper_position")


def read_droid(path: Path, options: ImportOptions) -> Recordings:
    """Find the episodes anywhere below ``path`` (or that episode itself).

    An episode without ``metadata_*.json`` was not finished and is left out, as is one without its video. Raises
    UserError when there is no episode. By default the actions are the differences of pose and gripper; with
    ``action_key`` tables of ``action/``, such as ``cartesian_velocity,gripper_velocity``.
    """
    folders = sorted({file.parent for file in path.rglob("trajectory.h5")})
    if not folders:
        raise UserError(f"{path} has no trajectory.h5; it is not DROID's raw layout")
    tracks: list[Track] = []
    skipped: list[Skipped] = []
    notes: list[str] = []
    names: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    files: list[Path] = []
    chosen = chosen_cameras(str(path), CAMERAS, options)
    for number, folder in enumerate(show_progress(folders, "reading", "episode")):
        try:
            track, names, used = _track(folder, number, chosen, options, notes)
        except UserError as error:
            skipped.append(Skipped(str(folder), str(error).removeprefix(f"{folder}: ")))
            continue
        tracks.append(track)
        files += used
    return Recordings(
        format="droid",
        camera=chosen[0],
        tracks=tracks,
        files=files,
        root=path,
        action_names=names[0],
        action_units=("unknown",) * len(names[0]),
        state_names=names[1],
        skipped=skipped,
        notes=_counted(notes),
    )


def _track(
    folder: Path, number: int, cameras: list[str], options: ImportOptions, notes: list[str]
) -> tuple[Track, tuple[tuple[str, ...], tuple[str, ...]], list[Path]]:
    described = sorted(folder.glob("metadata_*.json"))
    if not described:
        raise UserError(f"{folder}: no metadata_*.json; the recording was not finished")
    try:
        told = json.loads(described[0].read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{folder}: {described[0].name} is not readable JSON ({error})") from error
    tables = _tables(folder / "trajectory.h5")
    state_keys = chosen_keys(str(folder), _below(tables, "observation/robot_state/"), options.state_key, STATES)
    action_keys = chosen_keys(str(folder), _below(tables, "action/"), options.action_key, ())
    states = _stacked([tables[f"observation/robot_state/{key}"] for key in state_keys])
    length = len(states) if state_keys else len(next(iter(tables.values())))
    actions = _stacked([tables[f"action/{key}"] for key in action_keys]) if action_keys else np.zeros((length, 0))
    rows = _controlled(tables, length)
    used = [folder / "trajectory.h5", described[0]]
    pictures = []
    for camera in cameras:
        serial = str(told.get(f"{camera}_cam_serial"))
        video = folder / "recordings" / "MP4" / f"{serial}.mp4"
        if not video.is_file():
            raise UserError(f"{folder}: no video {video.relative_to(folder)} of camera {camera}")
        times = presentation_times(video)
        frames = _frames(video, serial, tables, length, len(times), notes)
        rows = rows[frames[rows] >= 0]
        used.append(video)
        pictures.append((video, times, frames))
    shown = [VideoPictures(video, times[frames[rows]]) for video, times, frames in pictures]
    text = " ".join(str(told.get("current_task") or "").split())
    track = Track(
        where=str(folder),
        number=number,
        times=_times(tables, length)[rows],
        pictures=SideBySide(*shown) if len(shown) == 2 else shown[0],
        actions=actions[rows].astype(np.float32),
        states=states[rows],
        captions=((text,) if text else (),) * len(rows),
    )
    names = [_names(action_keys, tables, "action/"), _names(state_keys, tables, "observation/robot_state/")]
    return track, (names[0], names[1]), used


def _tables(file: Path) -> dict[str, NDArray[Any]]:
    """All tables of numbers in the file, by their path."""
    h5py = need("h5py", "HDF5 files")
    found: dict[str, NDArray[Any]] = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset) and item.ndim in (1, 2) and item.dtype.kind in "fiub":
            found[name] = item[()]

    try:
        with h5py.File(file, "r") as root:
            root.visititems(keep)
    except OSError as error:
        raise UserError(f"{file} is not a readable HDF5 file ({' '.join(str(error).split())[:120]})") from error
    if not found:
        raise UserError(f"{file} holds no tables")
    return found


def _below(tables: Mapping[str, Any], prefix: str) -> list[str]:
    return [name.removeprefix(prefix) for name in tables if name.startswith(prefix)]


def _stacked(parts: list[NDArray[Any]]) -> NDArray[np.float32]:
    return np.concatenate([part.reshape(len(part), -1).astype(np.float32) for part in parts], 1)


def _controlled(tables: Mapping[str, NDArray[Any]], length: int) -> NDArray[np.int64]:
    """The longest run of rows in which the robot was under control."""
    moved = np.ones(length, bool)
    if (skip := tables.get("observation/timestamp/skip_action")) is not None:
        moved &= ~skip.astype(bool)
    if (enabled := tables.get("observation/controller_info/movement_enabled")) is not None:
        moved &= enabled.astype(bool)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], moved, [False]]).astype(int)))
    if len(edges) == 0:
        raise UserError("the robot was never under control (movement_enabled, skip_action)")
    best = int(np.argmax(edges[1::2] - edges[::2]))
    return np.arange(edges[2 * best], edges[2 * best + 1])


def _times(tables: Mapping[str, NDArray[Any]], length: int) -> NDArray[np.float64]:
    """Seconds of each row since the first: of the control loop, else at its rate."""
    stamps = tables.get("observation/timestamp/control/step_start")
    if stamps is None or len(stamps) != length or not (np.diff(stamps.astype(np.float64)) > 0).all():
        return np.arange(length) / RATE
    return (stamps.astype(np.float64) - float(stamps[0])) / 1000


def _frames(
    video: Path, serial: str, tables: Mapping[str, NDArray[Any]], length: int, shown: int, notes: list[str]
) -> NDArray[np.int64]:
    """The frame number of each row, -1 where there is none."""
    file = video.with_name(f"{serial}_timestamps.json")
    captured = next(
        (tables[name] for name in tables if name.endswith(f"cameras/{serial}_estimated_capture")),
        next((tables[name] for name in tables if name.endswith(f"cameras/{serial}_left_estimated_capture")), None),
    )
    if file.is_file() and captured is not None and len(captured) == length:
        stamps = np.asarray(json.loads(file.read_text()), np.float64).reshape(-1)[:shown]
        return nearest(stamps, captured.astype(np.float64))
    if not file.is_file():
        notes.append("no <serial>_timestamps.json: frames are matched to rows by their number")
    if shown != length:
        notes.append(f"videos with another number of frames than rows ({shown} and {length}): what both have is kept")
    return np.where(np.arange(length) < shown, np.arange(length), -1)


def _names(keys: list[str], tables: Mapping[str, NDArray[Any]], prefix: str) -> tuple[str, ...]:
    if tuple(keys) == STATES:
        return tuple(f"{name} [{unit}]" for name, unit in zip(CARTESIAN_NAMES, CARTESIAN_UNITS, strict=True))
    widths = [(key, int(np.prod(tables[prefix + key].shape[1:]))) for key in keys]
    return tuple(f"{key}.{column}" for key, width in widths for column in range(width))


def _counted(notes: list[str]) -> list[str]:
    """Each sentence once, with the number of its episodes."""
    kinds: dict[str, list[str]] = {}
    for note in notes:
        kinds.setdefault(note.split(" (")[0].split(":")[0], []).append(note)
    return [f"{len(group)} episodes: {group[0]}" for group in kinds.values()]
