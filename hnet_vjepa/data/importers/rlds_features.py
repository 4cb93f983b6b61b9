"""RLDS episodes with named features, as DROID is published: TFRecord files, one episode per record.

Unlike ``rlds`` (Bridge), the actions may have any size and come from any features below ``steps/``; by default they are
the differences of DROID's pose and gripper, because its ``steps/action`` is documented in two ways.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.data.importers.base import Skipped
from hnet_vjepa.data.importers.pictures import EncodedPictures, Rows, SideBySide
from hnet_vjepa.data.importers.rlds import tfrecord_files
from hnet_vjepa.data.importers.tfrecord import Feature, located_records, parse_example, record_at
from hnet_vjepa.data.importers.tracks import ImportOptions, Recordings, Track, chosen_cameras, chosen_keys
from hnet_vjepa.data.store import Captions
from hnet_vjepa.errors import UserError
from hnet_vjepa.specs import CARTESIAN_NAMES, CARTESIAN_UNITS

RATE = 15.0  # of DROID, steps per second; the files hold no times
STEPS, OBSERVATION, TEXT = "steps/", "steps/observation/", "steps/language_instruction"
STATES = ("observation/cartesian_position", "observation/gripper_position")


def read_rlds_features(path: Path, options: ImportOptions) -> Recordings:
    """Find the episodes of a TFRecord file, or of all in a folder. ``action_key`` and ``state_key`` name features
    below ``steps/``, such as ``action_dict/cartesian_velocity,action_dict/gripper_position``.

    Raises UserError when a file is damaged, or the first episode has no such camera or feature. Other episodes without
    them are left out.
    """
    files = tfrecord_files(path)
    tracks: list[Track] = []
    skipped: list[Skipped] = []
    names: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    cameras: list[str] = []
    for file in files:
        for number, (offset, record) in enumerate(located_records(file)):
            where = f"{file}: record {number}"
            try:
                example = parse_example(record)
            except ValueError as error:
                raise UserError(f"{where} is not an episode ({error})") from error
            if names is None:
                found = [name.removeprefix(OBSERVATION) for name, value in example.items() if _is_camera(name, value)]
                cameras = chosen_cameras(where, sorted(found), options)
            try:
                track, here = _track(example, file, offset, where, cameras, len(tracks) + len(skipped), options)
                if names is not None and here != names:
                    raise UserError(f"{where}: other sizes of actions or states than in {tracks[0].where}")
            except UserError as error:
                if names is None:
                    raise
                skipped.append(Skipped(where, str(error).removeprefix(f"{where}: ")))
                continue
            names = here
            tracks.append(track)
    actions, states = names or ((), ())
    return Recordings(
        format="rlds",
        camera=cameras[0] if cameras else "camera",
        tracks=tracks,
        files=files,
        root=files[0].parent,
        action_names=actions,
        action_units=("unknown",) * len(actions),
        state_names=states,
        skipped=skipped,
        notes=[] if options.rate else [f"the files hold no times; taken as {RATE:g} steps per second (--rate)"],
    )


def _track(
    example: dict[str, Feature],
    file: Path,
    offset: int,
    where: str,
    cameras: list[str],
    number: int,
    options: ImportOptions,
) -> tuple[Track, tuple[tuple[str, ...], tuple[str, ...]]]:
    for camera in cameras:
        if not isinstance(example.get(OBSERVATION + camera), list):
            raise UserError(f"{where}: no camera {camera}")
    lengths = {len(example[OBSERVATION + camera]) for camera in cameras}
    length = lengths.pop()
    if lengths or length == 0:
        raise UserError(f"{where}: cameras with different numbers of pictures, or none")
    tables = [name.removeprefix(STEPS) for name, value in example.items() if isinstance(value, np.ndarray)]
    action_keys = chosen_keys(where, tables, options.action_key, ())
    state_keys = chosen_keys(where, tables, options.state_key, STATES)
    actions, states = (_joined(example, keys, length, where) for keys in (action_keys, state_keys))
    pictures = [EncodedPictures(where, length, _Pictures(file, offset, OBSERVATION + camera)) for camera in cameras]
    track = Track(
        where=where,
        number=number,
        times=np.arange(length) / (options.rate or RATE),
        pictures=SideBySide(*pictures) if len(pictures) == 2 else pictures[0],
        actions=actions,
        states=states,
        captions=_captions(example, length),
    )
    return track, (_names(action_keys, example, length), _names(state_keys, example, length))


def _is_camera(name: str, value: Feature) -> bool:
    return name.startswith(OBSERVATION) and "image" in name and isinstance(value, list)


def _joined(example: dict[str, Feature], keys: list[str], length: int, where: str) -> NDArray[np.float32]:
    parts = []
    for key in keys:
        flat = example[STEPS + key]
        if len(flat) == 0 or len(flat) % length:
            raise UserError(f"{where}: steps/{key} has {len(flat)} numbers for {length} steps")
        parts.append(np.asarray(flat, np.float32).reshape(length, -1))
    return np.concatenate(parts, 1) if parts else np.zeros((length, 0), np.float32)


def _names(keys: list[str], example: dict[str, Feature], length: int) -> tuple[str, ...]:
    if tuple(keys) == STATES:
        return tuple(f"{name} [{unit}]" for name, unit in zip(CARTESIAN_NAMES, CARTESIAN_UNITS, strict=True))
    widths = [(key.rsplit("/", 1)[-1], len(example[STEPS + key]) // length) for key in keys]
    return tuple(f"{name}.{column}" for name, width in widths for column in range(width))


def _captions(example: dict[str, Feature], length: int) -> tuple[Captions, ...]:
    """The instructions of each step: one, or DROID's three wordings."""
    columns = [value for key in (TEXT, f"{TEXT}_2", f"{TEXT}_3") if isinstance(value := example.get(key), list)]
    cells = zip(*(column for column in columns if len(column) == length), strict=True) if columns else [()] * length
    texts = [[" ".join(cell.decode("utf-8", "replace").split()) for cell in row] for row in cells]
    return tuple(tuple(dict.fromkeys(text for text in row if text)) for row in texts)


@dataclass(frozen=True)
class _Pictures:
    """The encoded pictures of one camera of one record."""

    file: Path
    offset: int
    feature: str

    def __call__(self, rows: Rows) -> list[bytes]:
        found = parse_example(record_at(self.file, self.offset))[self.feature]
        assert isinstance(found, list)
        return [found[int(row)] for row in rows]
