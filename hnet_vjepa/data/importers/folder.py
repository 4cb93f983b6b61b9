"""Import a folder of recordings: one folder per episode with a video (or numbered pictures) and CSV tables.

The layout::

    recordings/
      robot.json            optional: {"names": ["x", "y"], "units": ["m", "m"], "low": [-0.1, -0.1],
                            "high": [0.1, 0.1], "active": [0, 1]}; units and active may be left out
      episode-000/
        camera.mp4          T frames, one per control step: a video, or numbered pictures (0000.png, 0001.png, ...)
                            in the episode's folder or in a folder of their own
        actions.csv         header with column names; row t moves frame t to frame t + 1: T - 1 rows. With T rows
                            (one per frame) the last one has no next frame and is dropped. Videos without actions:
                            no episode has one
        captions.txt        optional: one sentence for the whole episode, or T lines, one per frame (may be empty)
        states.csv          optional: T rows, the robot's own measurements (used for evaluation)
        labels.csv          optional: T rows of 0 and 1, or one row for the whole episode
      episode-001/ ...

Without ``robot.json`` every column of actions.csv is an action and the bounds are estimated (``specs.bounds_of``);
a column that is always zero is then inactive. With it, columns that it does not name are ignored. The bounds limit
what a planner may command, so a real robot should come with a ``robot.json``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.data.importers.base import Report, Skipped, Survey, write_store
from hnet_vjepa.data.importers.cleaning import Outliers, check_outliers, clip_outliers, nearly_constant
from hnet_vjepa.data.importers.robot_file import action_spec
from hnet_vjepa.data.importers.tables import Table, check_same_columns, read_table, read_text, stack_columns
from hnet_vjepa.data.store import Captions, Episode
from hnet_vjepa.data.video import Recording, Size, different_sizes, find_recording
from hnet_vjepa.errors import UserError
from hnet_vjepa.specs import camera_spec
from hnet_vjepa.utils.files import content_hash


def import_folder(
    path: Path,
    out: Path,
    size: Size,
    dt: float,
    camera: str | None = None,
    outliers: Outliers = "refuse",
    report: Report | None = None,
    progress: bool = True,
) -> Path:
    """Import the episode folders in ``path`` into the store ``out`` and return ``out``.

    Args:
        size: height and width of the stored frames in pixels; other pictures are scaled to cover it and cropped.
        dt: control interval, seconds between two frames. The frame rate that a video file states is not used, because
            recorders often write a nominal one.
        camera: name of the video or picture folder, where an episode has several.
        outliers: what to do with actions far outside the usual: refuse the recordings, clip or keep them.
        report: receives a sentence about everything assumed or ignored.

    All tables are checked before the first frame is decoded. An interrupted import is resumed by the same call.
    Raises UserError naming the episode folder when something is missing or inconsistent.
    """
    if out.resolve().is_relative_to(path.resolve()):
        raise UserError(f"{out} is inside {path}; name a directory elsewhere, or it would be taken for an episode")
    return write_store(FolderSource(path, size, dt, camera, outliers), out, report, progress)


class FolderSource:
    """Episode folders as an ``EpisodeSource``: the constructor reads all tables and the size of every recording.

    Raises UserError naming the episode folder when something is missing or inconsistent.
    """

    def __init__(
        self, path: Path, size: Size, dt: float, camera: str | None = None, outliers: Outliers = "refuse"
    ) -> None:
        folders = episode_folders(path)
        episodes = [read_episode(folder, camera) for folder in folders]
        check_same_columns([(e.folder, e.states) for e in episodes], "states")
        check_same_columns([(e.folder, e.labels) for e in episodes], "labels")
        check_same_columns([(e.folder, e.actions) for e in episodes], "actions", same=False)
        action, notes = action_spec(path / "robot.json", [e.actions for e in episodes if e.actions])
        skipped = _repeated(folders)
        episodes = [e for e in episodes if str(e.folder) not in {copy.where for copy in skipped}]
        notes += _one_row_per_frame(episodes)
        where = [str(e.folder) for e in episodes]
        actions = [stack_columns([e.actions], action.names) for e in episodes if e.actions]
        if outliers == "refuse":
            check_outliers(actions, action.names, where)
        elif outliers == "clip":
            actions = clip_outliers(actions, action.names, where, notes.append)
        notes += nearly_constant(actions, action.names, action.units)
        self._episodes, self._actions = episodes, actions
        sizes: dict[Size, list[str]] = {}
        for episode in episodes:
            sizes.setdefault(episode.recording.size(), []).append(episode.folder.name)
        files = [file for folder in folders for file in folder.rglob("[!.]*") if file.is_file()]
        states, labels = episodes[0].states, episodes[0].labels
        self.survey = Survey(
            format="folder",
            camera=camera_spec(size, dt, camera or "camera"),
            action=action,
            lengths=[episode.estimated_length() for episode in episodes],
            fingerprint=content_hash(files, path),
            states=states.names if states else (),
            labels=labels.names if labels else (),
            skipped=skipped,
            notes=[*notes, *different_sizes(sizes, size)],
        )

    def decode(self, indices: Sequence[int]) -> Iterator[Episode]:
        """Yield the episodes with these indices. Raises UserError when a table does not fit its recording's length."""
        for index in indices:
            yield _decode(self._episodes[index], index, self._actions[index] if self._actions else None, self.survey)


@dataclass(frozen=True)
class EpisodeFolder:
    """An episode folder: its tables, and where its recording is (not decoded)."""

    folder: Path
    recording: Recording
    actions: Table | None
    captions: list[str]
    states: Table | None
    labels: Table | None

    def estimated_length(self) -> int:
        """Frames: with actions one more than these, else as many as there are pictures or packets in the video."""
        return len(self.actions.rows) + 1 if self.actions else self.recording.count()


def episode_folders(path: Path) -> list[Path]:
    """The episode folders in natural order (2 before 10). Raises UserError when there are none."""
    if not path.is_dir():
        raise UserError(f"{path} is not a directory; give the folder that holds one folder per episode")
    if (path / "actions.csv").exists():
        raise UserError(f"{path} is itself an episode; give the folder that holds it ({path.resolve().parent})")

    def natural(folder: Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", folder.name)]

    folders = [entry for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith(".")]
    if not folders:
        raise UserError(f"{path} has no episode folders; each episode is a folder with a recording and an actions.csv")
    return sorted(folders, key=lambda folder: (natural(folder), folder.name))


def read_episode(folder: Path, camera: str | None) -> EpisodeFolder:
    """Read an episode's tables and find its recording. Raises UserError when one is missing or malformed."""

    def optional(name: str) -> Table | None:
        return read_table(folder / name) if (folder / name).exists() else None

    actions = optional("actions.csv")
    if actions and len(actions.rows) == 0:
        raise UserError(f"{actions.file} has no rows; an episode needs at least one action")
    captions = read_text(folder / "captions.txt").splitlines() if (folder / "captions.txt").exists() else []
    labels = optional("labels.csv")
    if labels and not (allowed := np.isin(labels.rows, (0, 1))).all():
        row, column = np.argwhere(~allowed)[0]
        where = f"{labels.file}: line {labels.lines[row]}, column {labels.names[column]}"
        raise UserError(f"{where}: {labels.rows[row, column]:g} is neither 0 nor 1")
    return EpisodeFolder(folder, find_recording(folder, camera), actions, captions, optional("states.csv"), labels)


def _decode(episode: EpisodeFolder, index: int, recorded: NDArray[np.float32] | None, survey: Survey) -> Episode:
    """Decode the recording and check the tables against its length. Raises UserError when one does not fit."""
    frames = episode.recording.read((survey.camera.height, survey.camera.width))
    length = len(frames)
    actions = np.zeros((length, 0), np.float32) if recorded is None else recorded
    if length < 2 or len(actions) not in (length - 1, length):
        raise UserError(
            f"{episode.folder}: {length} frames and {len(actions)} rows in actions.csv; needs at least 2 frames, and "
            f"{length - 1} rows (one per transition) or {length} (one per frame, the last is dropped)"
        )
    actions = actions[: length - 1].copy()
    actions[:, [column for column in range(survey.action.dim) if column not in survey.action.active]] = 0
    labels = episode.labels.rows if episode.labels else None
    if labels is not None and len(labels) == 1:
        labels = np.repeat(labels, length, axis=0)
    states = episode.states.rows if episode.states else None
    for name, rows in (("states.csv", states), ("labels.csv", labels)):
        if rows is not None and len(rows) != length:
            also = " or 1" if name == "labels.csv" else ""
            raise UserError(f"{episode.folder}: {length} frames and {len(rows)} rows in {name}; needs {length}{also}")
    return Episode(
        index=index,
        seed=index,
        frames=frames,
        actions=actions,
        captions=_captions(episode, length),
        states=states,
        labels=None if labels is None else labels.astype(np.uint8),
    )


def _repeated(folders: Sequence[Path]) -> list[Skipped]:
    """Folders with the same files as one before them, which might otherwise lie on both sides of the split."""
    seen: dict[str, Path] = {}
    skipped = []
    for folder in folders:
        content = content_hash([file for file in folder.rglob("[!.]*") if file.is_file()], folder)
        if content in seen:
            skipped.append(Skipped(str(folder), f"it is the same as {seen[content]}"))
        seen.setdefault(content, folder)
    return skipped


def _one_row_per_frame(episodes: Sequence[EpisodeFolder]) -> list[str]:
    """Say where as many rows as frames are taken to be one row too many at the end.

    Raises UserError where the numbers of the pictures, or a video that hides its first frames, say that frames are
    missing at the beginning instead: every action would be one frame off.
    """
    equal = [e for e in episodes if e.actions and len(e.actions.rows) == e.recording.count()]
    for episode in equal:
        if first := episode.recording.missing_before():
            raise UserError(
                f"{episode.folder}: as many rows in actions.csv as frames, but {first}; delete the rows of the frames "
                "that are missing, or the last row if none is"
            )
    if not equal:
        return []
    return [
        f"{len(equal)} episodes have as many rows of actions as frames, such as {equal[0].folder}: their last row has "
        "no next frame and is dropped"
    ]


def _captions(episode: EpisodeFolder, length: int) -> tuple[Captions, ...]:
    """The captions of each frame: T tuples of at most one sentence."""
    lines = [line.strip() for line in episode.captions]
    sentences = [line for line in lines if line]
    if len(lines) != length and len(sentences) <= 1:
        return (tuple(sentences),) * length
    while len(lines) > length and not lines[-1]:
        lines.pop()
    if len(lines) != length:
        raise UserError(
            f"{episode.folder}: {length} frames and {len(lines)} lines in captions.txt; "
            f"needs 1 (for the whole episode) or {length} (one per frame, may be empty)"
        )
    return tuple((line,) if line else () for line in lines)
