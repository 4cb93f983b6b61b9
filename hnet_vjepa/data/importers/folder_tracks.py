"""Our own folder layout as recordings, for ``hnet data check`` and ``preview``; it is imported by ``folder.py``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.data.importers.base import Skipped
from hnet_vjepa.data.importers.folder import EpisodeFolder, episode_folders, read_episode
from hnet_vjepa.data.importers.pictures import RecordingPictures
from hnet_vjepa.data.importers.robot_file import action_spec
from hnet_vjepa.data.importers.tables import Table, stack_columns
from hnet_vjepa.data.importers.tracks import ImportOptions, Recordings, Track
from hnet_vjepa.errors import UserError

RATE = 10.0  # rows per second where none is given: it only scales the times that are shown


def read_folder(path: Path, options: ImportOptions) -> Recordings:
    """Find the episode folders in ``path``; those that can not be read are left out.

    Raises UserError when there is none, or robot.json or the columns do not fit.
    """
    folders = episode_folders(path)
    episodes: list[EpisodeFolder] = []
    skipped: list[Skipped] = []
    for folder in folders:
        try:
            episodes.append(read_episode(folder, options.camera))
        except UserError as error:
            skipped.append(Skipped(str(folder), str(error)))
    action, notes = action_spec(path / "robot.json", [e.actions for e in episodes if e.actions])
    states = next((e.states.names for e in episodes if e.states), ())
    tracks: list[Track] = []
    for number, episode in enumerate(episodes):
        try:
            tracks.append(_track(episode, number, action.names, states, options.rate or RATE))
        except UserError as error:
            skipped.append(Skipped(str(episode.folder), str(error)))
    return Recordings(
        format="folder",
        camera=options.camera or "camera",
        tracks=tracks,
        files=(),
        root=path,
        action_names=action.names,
        action_units=action.units,
        absolute=action.absolute,
        state_names=states,
        skipped=skipped,
        notes=notes,
    )


def _track(
    episode: EpisodeFolder, number: int, actions: tuple[str, ...], states: tuple[str, ...], rate: float
) -> Track:
    count = episode.recording.count()
    lines = [line.strip() for line in episode.captions if line.strip()]
    return Track(
        where=str(episode.folder),
        number=number,
        times=np.arange(count) / rate,
        pictures=RecordingPictures(episode.recording),
        actions=_rows(episode.actions, actions, count, 1, f"{count} pictures, actions.csv"),
        states=_rows(episode.states, states, count, 0, f"{count} pictures, states.csv"),
        captions=(tuple(lines[:1]),) * count,
    )


def _rows(table: Table | None, names: tuple[str, ...], count: int, fewer: int, what: str) -> NDArray[np.float32]:
    """The table's rows, one for each picture: where there may be one ``fewer``, the last is repeated."""
    if table is None or not names:
        return np.zeros((count, len(names)), np.float32)
    if missing := [name for name in names if name not in table.names]:
        raise UserError(f"{table.file} has no column {', '.join(missing)}")
    rows = stack_columns([table], names)
    if len(rows) not in (count, count - fewer) or not len(rows):
        raise UserError(f"{what} with {len(rows)} rows")
    return np.concatenate([rows, rows[-1:]])[:count]
