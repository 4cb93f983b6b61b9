"""Zarr replay buffers as diffusion policy and UMI use them: all episodes in one array for each table.

``data/<table>`` holds the rows of all episodes, ``meta/episode_ends`` where each ends. There are no times.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.data.importers.pictures import ArrayPictures, Rows, SideBySide
from hnet_vjepa.data.importers.tracks import ImportOptions, Recordings, Track, chosen_cameras, chosen_keys
from hnet_vjepa.data.importers.zarr_v2 import ZarrArray, ZarrFiles
from hnet_vjepa.errors import UserError

RATE = 10.0  # rows per second of diffusion policy's demonstrations


def read_zarr(path: Path, options: ImportOptions) -> Recordings:
    """Find the episodes of a replay buffer, a folder or a zip file.

    Raises UserError when a table is missing, damaged or does not have the rows that ``episode_ends`` says.
    """
    files = ZarrFiles(path)
    arrays = {name: ZarrArray(files, f"data/{name}") for name in files.arrays("data")}
    if not arrays:
        raise UserError(f"{path} has no data/*; it is not a Zarr replay buffer")
    ends = ZarrArray(files, "meta/episode_ends").read().astype(np.int64)
    cameras = [name for name, array in arrays.items() if len(array.shape) == 4 and array.shape[-1] == 3]
    chosen = chosen_cameras(str(path), cameras, options)
    tables = [name for name, array in arrays.items() if len(array.shape) in (1, 2)]
    usual = [["state"] if "state" in tables else [name for name in tables if name.startswith("robot")], ["action"]]
    states, actions = (
        chosen_keys(str(path), tables, given, names)
        for given, names in zip((options.state_key, options.action_key), usual, strict=True)
    )
    for name in [*chosen, *states, *actions]:
        if len(ends) == 0 or len(arrays[name]) != ends[-1]:
            last = ends[-1] if len(ends) else "nowhere"
            raise UserError(f"{path}: data/{name} has {len(arrays[name])} rows, but the last episode ends at {last}")
    if (np.diff(ends, prepend=0) <= 0).any():
        raise UserError(f"{path}: meta/episode_ends does not rise after {int(ends[np.diff(ends, prepend=0) <= 0][0])}")
    rate = options.rate or RATE
    rows = {name: arrays[name].read().reshape(len(arrays[name]), -1).astype(np.float32) for name in states + actions}
    unit = {name: _unit(arrays[name]) for name in chosen}
    tracks = []
    for number, (start, end) in enumerate(zip(np.append(0, ends[:-1]).tolist(), ends.tolist(), strict=True)):
        pictures = [ArrayPictures(end - start, _Pictures(arrays[name], start, unit[name])) for name in chosen]
        tracks.append(
            Track(
                where=f"{path}: episode {number}",
                number=number,
                times=np.arange(end - start) / rate,
                pictures=SideBySide(*pictures) if len(pictures) == 2 else pictures[0],
                actions=_joined([rows[name][start:end] for name in actions], end - start),
                states=_joined([rows[name][start:end] for name in states], end - start),
                captions=((),) * (end - start),
            )
        )
    names = [tuple(f"{n}.{i}" for n in keys for i in range(rows[n].shape[1])) for keys in (actions, states)]
    return Recordings(
        format="zarr",
        camera=chosen[0],
        tracks=tracks,
        files=files.files(),
        root=path if path.is_dir() else path.parent,
        action_names=names[0],
        action_units=("unknown",) * len(names[0]),
        state_names=names[1],
        notes=[] if options.rate else [f"the files do not say their rate; taken as {rate:g} rows per second (--rate)"],
    )


def _joined(parts: list[NDArray[np.float32]], length: int) -> NDArray[np.float32]:
    return np.concatenate(parts, 1) if parts else np.zeros((length, 0), np.float32)


def _unit(array: ZarrArray) -> float:
    """What stored pixels are multiplied with: floats are 0 to 255 or 0 to 1, as their first pictures show."""
    if array.dtype == np.uint8:
        return 1.0
    return 255.0 if array.read(range(min(8, len(array)))).max() <= 1.0 else 1.0


@dataclass(frozen=True)
class _Pictures:
    """The pictures of one episode."""

    array: ZarrArray
    start: int
    unit: float

    def __call__(self, rows: Rows) -> NDArray[np.uint8]:
        found = self.array.read(self.start + np.asarray(rows, np.int64))
        if found.dtype == np.uint8:
            return found
        return np.clip(np.rint(found * self.unit), 0, 255).astype(np.uint8)
