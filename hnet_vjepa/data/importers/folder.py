"""Import a folder of recordings: the way to bring a robot's own episodes.

The folder holds one folder per episode, and may say what the robot is::

    recordings/
      robot.json            optional: {"names": ["x", "y"], "units": ["m", "m"], "low": [-0.1, -0.1],
                            "high": [0.1, 0.1], "active": [0, 1]}; units and active may be left out
      episode-000/
        camera.mp4          T frames, one per control step: a video, or numbered pictures (0000.png, 0001.png, ...)
                            in the episode's folder or in a folder of their own
        actions.csv         the header names the numbers; row t moves frame t to frame t + 1: T - 1 rows. With T rows
                            (one per frame) the last one has no next frame and is dropped
        captions.txt        optional: one sentence for the whole episode, or T lines, one per frame (may be empty)
        states.csv          optional: T rows, what the robot says of itself (to measure with)
        labels.csv          optional: T rows of 0 and 1, or one row for the whole episode
      episode-001/ ...

Without ``robot.json`` every column of actions.csv is an action and the bounds are measured (``specs.bounds_of``);
a column that is always zero is then not active. With it, columns it does not name are ignored. The bounds are what a
planner may command, so a real robot deserves a ``robot.json``.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError
from tqdm import tqdm

from hnet_vjepa.data.store import Captions, Episode, StoreInfo, create_store, plan_shards, write_shard
from hnet_vjepa.data.video import Recording, Size, different_sizes, find_recording
from hnet_vjepa.errors import UserError
from hnet_vjepa.specs import ActionSpec, bounds_of, camera_spec, explain
from hnet_vjepa.utils.files import listing_hash

CLOCKS = {"t", "time", "timestamp", "stamp", "step", "frame", "index", "frame_index", "episode", "episode_index"}

FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Table:
    """A CSV file of numbers with a header."""

    file: Path
    names: tuple[str, ...]
    rows: NDArray[np.float32]  # rows x names
    lines: tuple[int, ...]  # of the file, where each row stands


@dataclass(frozen=True)
class _Recorded:
    """An episode folder whose tables were read and whose recording was found, not decoded."""

    folder: Path
    recording: Recording
    actions: Table
    captions: list[str]
    states: Table | None
    labels: Table | None


def import_folder(
    path: Path,
    out: Path,
    size: Size,
    dt: float,
    camera: str | None = None,
    report: Callable[[str], None] | None = None,
    progress: bool = True,
) -> Path:
    """Import the episode folders in ``path`` into the store ``out`` and return ``out``.

    ``size``: height and width of the store's frames in pixels; pictures of another shape are scaled to cover it and
    their middle is cut out. ``dt``: seconds between two frames, which is the robot's control interval (what a video
    file says about its rate is not used; recorders often write a nominal one). ``camera``: the name of the video or
    picture folder, where an episode has several. ``report`` gets a sentence about everything assumed or ignored.

    All tables are read and checked before the first frame is decoded. An interrupted import is taken up where it
    stopped. Raises UserError naming the episode folder when something is missing or does not fit.
    """
    say = report or (lambda sentence: None)
    folders = _episode_folders(path)
    if out.resolve().is_relative_to(path.resolve()):
        raise UserError(f"{out} is inside {path}; name a directory elsewhere, or it would be taken for an episode")
    episodes = [_read_tables(folder, camera) for folder in folders]
    for kind in ("states", "labels"):
        _same_columns([(e.folder, getattr(e, kind)) for e in episodes], kind)
    spec = _action_spec(path / "robot.json", [e.actions for e in episodes], say)
    sizes: dict[Size, list[str]] = {}
    for episode in episodes:
        sizes.setdefault(episode.recording.size(), []).append(episode.folder.name)
    for note in different_sizes(sizes, size):
        say(note)
    states, labels = episodes[0].states, episodes[0].labels
    # The recordings' lengths are not known before they are decoded; they are a frame or none above the actions'.
    shards = plan_shards([(len(e.actions.rows) + 1) * size[0] * size[1] * 3 for e in episodes])
    sources = [file for folder in folders for file in folder.rglob("[!.]*") if file.is_file()]
    info = StoreInfo(
        source="folder",
        camera=camera_spec(size, dt, camera or "camera"),
        action=spec,
        shards=len(shards),
        states=states.names if states else (),
        labels=labels.names if labels else (),
        settings={"episodes": len(episodes), "listing": listing_hash(sources, path)},
    )
    done = create_store(out, info)
    with tqdm(total=len(episodes), desc="importing", unit="episode", disable=not progress) as bar:
        for number, indices in enumerate(shards):
            if number in done:
                bar.update(len(indices))
                continue
            decoded = []
            for index in indices:
                decoded.append(_decode(episodes[index], index, info))
                bar.update()
            write_shard(out, number, info, decoded)
    return out


def read_table(file: Path) -> Table:
    """Read a CSV file of numbers. Raises UserError naming the line and column of what is not a finite number."""
    reader = csv.reader(_text(file).splitlines())
    try:
        lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise UserError(f"{file}: line {reader.line_num} is not CSV ({error})") from error
    names = tuple(cell.strip() for cell in lines[0][1]) if lines else ()
    if not names or not all(names) or len(set(names)) != len(names) or any(_number(name) is not None for name in names):
        raise UserError(f"{file}: the first line must name the columns, each once; got '{','.join(names)}'")
    if len(names) == 1 and re.search(r"[;\t]", names[0]):
        raise UserError(f"{file}: the columns must be separated by commas; the header is '{names[0]}'")
    rows = np.zeros((len(lines) - 1, len(names)), np.float32)
    for row, (line, cells) in enumerate(lines[1:]):
        if len(cells) != len(names):
            raise UserError(f"{file}: line {line} has {len(cells)} numbers; the header has {len(names)} columns")
        for column, cell in enumerate(cells):
            value = _number(cell)
            if value is None or not abs(value) <= FLOAT32_MAX:
                raise UserError(f"{file}: line {line}, column {names[column]}: '{cell.strip()}' is not a finite number")
            rows[row, column] = value
    return Table(file, names, rows, tuple(line for line, _ in lines[1:]))


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _text(file: Path) -> str:
    try:
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text") from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error


def _episode_folders(path: Path) -> list[Path]:
    """The episode folders in their natural order (2 before 10). Raises UserError when there are none."""
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


def _read_tables(folder: Path, camera: str | None) -> _Recorded:
    def optional(name: str) -> Table | None:
        return read_table(folder / name) if (folder / name).exists() else None

    if not (folder / "actions.csv").is_file():
        raise UserError(f"{folder} has no actions.csv; every episode needs one (a header, then a row per transition)")
    actions = read_table(folder / "actions.csv")
    if len(actions.rows) == 0:
        raise UserError(f"{actions.file} has no rows; an episode needs at least one action")
    captions = _text(folder / "captions.txt").splitlines() if (folder / "captions.txt").exists() else []
    labels = optional("labels.csv")
    if labels and not (allowed := np.isin(labels.rows, (0, 1))).all():
        row, column = np.argwhere(~allowed)[0]
        where = f"{labels.file}: line {labels.lines[row]}, column {labels.names[column]}"
        raise UserError(f"{where}: {labels.rows[row, column]:g} is neither 0 nor 1")
    return _Recorded(folder, find_recording(folder, camera), actions, captions, optional("states.csv"), labels)


def _same_columns(tables: Sequence[tuple[Path, Table | None]], kind: str) -> None:
    """Raise UserError when not all or none of the episodes have a table, or its columns differ."""
    having = [table for _, table in tables if table]
    for folder, table in tables:
        if having and table is None:
            raise UserError(
                f"{folder} has no {kind}.csv, but {having[0].file.parent} has one; give all episodes one or none"
            )
        if table and table.names != having[0].names:
            raise UserError(
                f"{table.file}: the columns are {', '.join(table.names)}; "
                f"{having[0].file} has {', '.join(having[0].names)}"
            )


def _action_spec(file: Path, tables: Sequence[Table], say: Callable[[str], None]) -> ActionSpec:
    """The robot's action spec: as ``robot.json`` says, or from the columns and values that were recorded."""
    if file.exists():
        spec = _read_robot(file)
        for table in tables:
            if missing := [name for name in spec.names if name not in table.names]:
                raise UserError(f"{table.file}: no column {', '.join(missing)}; {file} names {', '.join(spec.names)}")
        if extra := sorted({name for table in tables for name in table.names} - set(spec.names)):
            say(f"columns that robot.json does not name are ignored: {', '.join(extra)}")
        actions = _columns(tables, spec.names)
        if idle := [n for i, n in enumerate(spec.names) if i not in spec.active and actions[:, i].any()]:
            say(f"columns that robot.json does not call active are taken as zero: {', '.join(idle)}")
        active = list(spec.active)
        outside = (actions < np.array(spec.low, np.float32)) | (actions > np.array(spec.high, np.float32))
        if count := int(outside[:, active].any(axis=1).sum()):
            say(f"{count} of {len(actions)} actions are outside the bounds of robot.json; no plan will be")
        return spec
    names = tables[0].names
    _same_columns([(table.file.parent, table) for table in tables], "actions")
    if clocks := [name for name in names if name.lower() in CLOCKS]:
        raise UserError(
            f"{tables[0].file}: '{clocks[0]}' does not look like an action; delete the column, or name the action's "
            f"columns in {file}"
        )
    actions = _columns(tables, names)
    low, high = bounds_of(actions)
    active = [column for column in range(len(names)) if actions[:, column].any()]
    if not active:
        raise UserError(f"{file.parent}: all actions are zero; record episodes in which the robot moves")
    ranges = ", ".join(f"{name} {a:.4g} to {b:.4g}" for name, a, b in zip(names, low, high, strict=True))
    say(f"no robot.json: bounds are those of the recorded actions ({ranges}); a real robot deserves its own")
    return ActionSpec(names=names, units=("unknown",) * len(names), low=low, high=high, active=tuple(active))


def _read_robot(file: Path) -> ActionSpec:
    try:
        given: dict[str, Any] = json.loads(_text(file))
        for field in ("names", "low", "high"):
            if field not in given:
                raise UserError(f"{file}: '{field}' is missing; needs names, low, high (and may have units, active)")
        count = len(given["names"])
        defaults = {"units": ["unknown"] * count, "active": list(range(count))}
        return ActionSpec.model_validate({**defaults, **given})
    except ValidationError as error:
        raise UserError(f"{file}: {explain(error)}") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} is not a JSON object of names, units, low, high, active ({error})") from error


def _columns(tables: Sequence[Table], names: Sequence[str]) -> NDArray[np.float32]:
    """The named columns of all tables, one below the other: N x names."""
    return np.concatenate([table.rows[:, [table.names.index(name) for name in names]] for table in tables])


def _decode(episode: _Recorded, index: int, info: StoreInfo) -> Episode:
    """Decode the recording and fit the tables to its length. Raises UserError when one has another length."""
    frames = episode.recording.read((info.camera.height, info.camera.width))
    length = len(frames)
    actions = _columns([episode.actions], info.action.names)
    if length < 2 or len(actions) not in (length - 1, length):
        raise UserError(
            f"{episode.folder}: {length} frames and {len(actions)} rows in actions.csv; needs at least 2 frames, and "
            f"{length - 1} rows (one per transition) or {length} (one per frame, the last is dropped)"
        )
    actions = actions[: length - 1].copy()
    actions[:, [column for column in range(info.action.dim) if column not in info.action.active]] = 0
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


def _captions(episode: _Recorded, length: int) -> tuple[Captions, ...]:
    lines = [line.strip() for line in episode.captions]
    spoken = [line for line in lines if line]
    if len(lines) != length and len(spoken) <= 1:
        return (tuple(spoken),) * length
    while len(lines) > length and not lines[-1]:
        lines.pop()
    if len(lines) != length:
        raise UserError(
            f"{episode.folder}: {length} frames and {len(lines)} lines in captions.txt; "
            f"needs 1 (for the whole episode) or {length} (one per frame, may be empty)"
        )
    return tuple((line,) if line else () for line in lines)
