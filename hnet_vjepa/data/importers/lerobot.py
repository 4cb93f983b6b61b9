"""LeRobot data sets, versions 2.0, 2.1 and 3.0: Parquet tables, videos or pictures, JSON that says where they are.

Paths come from the templates in ``meta/info.json``. In 3.0 a table and a video hold many episodes; a row's frame is
the one at ``from_timestamp + timestamp``. In 2.x each episode has files of its own.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.data.importers.arrow import EncodedColumn, column_array, read_parquet
from hnet_vjepa.data.importers.base import Skipped
from hnet_vjepa.data.importers.pictures import EncodedPictures, Pictures, SideBySide, VideoPictures
from hnet_vjepa.data.importers.tracks import ImportOptions, Recordings, Track, chosen_cameras, chosen_keys
from hnet_vjepa.data.store import Captions
from hnet_vjepa.data.video_times import nearest, presentation_times
from hnet_vjepa.errors import UserError, one_of
from hnet_vjepa.utils.progress import show_progress

VERSIONS = ("v2.0", "v2.1", "v3.0")
PREFIX = "observation.images."
TEXTS = ("language_instruction", "language_instruction_2", "language_instruction_3")  # of DROID


@dataclass(frozen=True)
class _Episode:
    """Where an episode's rows and videos are."""

    number: int
    table: Path
    videos: Mapping[str, tuple[Path, float]]  # feature -> file, and where in it the episode begins (seconds)
    tasks: tuple[str, ...]


def read_lerobot(path: Path, options: ImportOptions) -> Recordings:
    """Find the episodes of the LeRobot data set in ``path``.

    An episode without its table or video is left out; the others keep their number. Raises UserError when the data
    set's description is missing, of an unknown version, or has no such camera or column.
    """
    info = _json(path / "meta" / "info.json")
    version = info.get("codebase_version")
    if version not in VERSIONS:
        raise one_of(f"version in {path / 'meta' / 'info.json'}", version, VERSIONS)
    features: dict[str, Any] = info["features"]
    cameras = {name.removeprefix(PREFIX): name for name, feature in features.items() if _is_camera(feature)}
    chosen = [cameras[name] for name in chosen_cameras(str(path), list(cameras), options)]
    numeric = [name for name, f in features.items() if str(f.get("dtype", "")).startswith(("float", "int"))]
    actions = chosen_keys(str(path), numeric, options.action_key, ["action"])
    states = chosen_keys(str(path), numeric, options.state_key, ["observation.state"])
    tasks = _tasks(path)
    tracks: list[Track] = []
    skipped: list[Skipped] = []
    notes: list[str] = []
    episodes = list(_episodes_v3(path, info) if version == "v3.0" else _episodes_v2(path, info))
    for episode in show_progress(episodes, "reading", "episode"):
        where = f"{path}: episode {episode.number}"
        try:
            rows = _rows(episode, where)
            stamps = column_array(rows, "timestamp", where)[:, 0].astype(np.float64)
            pictures = [_pictures(episode, rows, name, features, stamps, where, notes) for name in chosen]
        except UserError as error:
            skipped.append(Skipped(where, str(error).removeprefix(f"{where}: ")))
            continue
        tracks.append(
            Track(
                where=where,
                number=episode.number,
                times=stamps,
                pictures=SideBySide(*pictures) if len(pictures) == 2 else pictures[0],
                actions=_joined(rows, actions, where, len(stamps)),
                states=_joined(rows, states, where, len(stamps)),
                captions=_captions(rows, episode, tasks, len(stamps)),
            )
        )
    names = _names(features, actions)
    notes += [f"info.json says {info['fps']} rows per second"] if not tracks else _rate_notes(tracks, info)
    files = [file for folder in ("meta", "data", "videos") for file in (path / folder).rglob("*") if file.is_file()]
    return Recordings(
        format="lerobot",
        camera=chosen[0].removeprefix(PREFIX),
        tracks=tracks,
        files=files,
        root=path,
        action_names=names,
        action_units=("unknown",) * len(names),
        state_names=_names(features, states),
        skipped=skipped,
        notes=notes,
        stated=_stated(path, {"action": actions, "state": states}),
    )


def _stated(path: Path, features: Mapping[str, list[str]]) -> dict[str, dict[str, list[float]]]:
    """The statistics in meta/stats.json of the chosen columns, where all are there."""
    try:
        told = json.loads((path / "meta" / "stats.json").read_text("utf-8"))
        return {
            kind: {name: [float(v) for key in keys for v in told[key][name]] for name in ("min", "max", "mean", "std")}
            for kind, keys in features.items()
            if keys
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}  # older data sets keep them by episode


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text("utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{file.parent.parent} is not a LeRobot data set: it has no meta/{file.name}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{file} is not readable JSON ({error})") from error
    if not isinstance(value, dict) or not isinstance(value.get("features"), dict):
        raise UserError(f"{file} has no 'features'")
    return value


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    try:
        for line in file.read_text("utf-8").splitlines():
            if line.strip():
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise UserError(f"cannot read {file} ({error})") from error


def _is_camera(feature: Mapping[str, Any]) -> bool:
    depth = any((feature.get(key) or {}).get("video.is_depth_map") for key in ("info", "video_info"))
    return feature.get("dtype") in ("video", "image") and not depth


def _names(features: Mapping[str, Any], keys: list[str]) -> tuple[str, ...]:
    """Names of the numbers in some columns: those in info.json where they fit, else ``action.0``, ``action.1``."""
    found: list[str] = []
    for key in keys:
        width = int(np.prod(features[key]["shape"]))
        names: Any = features[key].get("names")
        while isinstance(names, dict) or (isinstance(names, list) and len(names) == 1 and isinstance(names[0], list)):
            names = next(iter(names.values()), None) if isinstance(names, dict) else names[0]
        fits = isinstance(names, list) and len(names) == width and len({*map(str, names)}) == width
        short = key.removeprefix("observation.")
        found += [str(name) for name in names] if fits else [f"{short}.{number}" for number in range(width)]
    if len(set(found)) == len(found):
        return tuple(found)
    return tuple(f"{name}.{place}" for place, name in enumerate(found))


def _tasks(path: Path) -> dict[int, str]:
    """Sentences by task index."""
    if (file := path / "meta" / "tasks.parquet").is_file():
        table = read_parquet(file)
        text = next(name for name in table.column_names if name != "task_index")
        return dict(zip(table["task_index"].to_pylist(), map(str, table[text].to_pylist()), strict=True))
    if (file := path / "meta" / "tasks.jsonl").is_file():
        return {int(line["task_index"]): str(line["task"]) for line in _lines(file)}
    return {}


def _episodes_v2(path: Path, info: Mapping[str, Any]) -> Iterator[_Episode]:
    videos = [name for name, feature in info["features"].items() if feature.get("dtype") == "video"]
    for line in _lines(path / "meta" / "episodes.jsonl"):
        number = int(line["episode_index"])
        place = {"episode_index": number, "episode_chunk": number // int(info["chunks_size"])}
        files = {key: (path / info["video_path"].format(video_key=key, **place), 0.0) for key in videos}
        yield _Episode(number, path / info["data_path"].format(**place), files, tuple(line.get("tasks", ())))


def _episodes_v3(path: Path, info: Mapping[str, Any]) -> Iterator[_Episode]:
    videos = [name for name, feature in info["features"].items() if feature.get("dtype") == "video"]
    files = sorted((path / "meta" / "episodes").rglob("*.parquet"))
    if not files:
        raise UserError(f"{path} has no meta/episodes/*/*.parquet; copy the data set again")
    for file in files:
        table = read_parquet(file)
        wanted = [name for name in table.column_names if not name.startswith("stats/")]
        for row in table.select(wanted).to_pylist():
            place = {"chunk_index": row["data/chunk_index"], "file_index": row["data/file_index"]}
            found = {}
            for key in videos:
                at = {name: row.get(f"videos/{key}/{name}") for name in ("chunk_index", "file_index", "from_timestamp")}
                if at["file_index"] is not None:
                    start = float(at.pop("from_timestamp"))
                    found[key] = (path / info["video_path"].format(video_key=key, **at), start)
            yield _Episode(row["episode_index"], path / info["data_path"].format(**place), found, tuple(row["tasks"]))


def _rows(episode: _Episode, where: str) -> Any:
    """The table of an episode's rows, in order."""
    if not episode.table.is_file():
        raise UserError(f"{where}: no table {episode.table}")
    rows = _by_episode(str(episode.table)).get(episode.number)
    if rows is None:
        raise UserError(f"{where}: {episode.table} has no rows of it")
    return rows


@lru_cache(maxsize=2)
def _by_episode(file: str) -> dict[int, Any]:
    table = read_parquet(Path(file))
    numbers = table["episode_index"].to_numpy().reshape(-1)
    return {int(number): table.take(np.flatnonzero(numbers == number)) for number in np.unique(numbers)}


def _pictures(
    episode: _Episode,
    rows: Any,
    key: str,
    features: Mapping[str, Any],
    stamps: NDArray[np.float64],
    where: str,
    notes: list[str],
) -> Pictures:
    if features[key]["dtype"] == "image":
        return EncodedPictures(where, len(stamps), EncodedColumn(episode.table, episode.number, key))
    file, start = episode.videos.get(key, (None, 0.0))
    if file is None or not file.is_file():
        raise UserError(f"{where}: no video {file or key}")
    shown = presentation_times(file)
    step = float(np.median(np.diff(shown))) if len(shown) > 1 else np.inf
    # Wall-clock stamps: only their distances say where in the video a row is.
    times = start + (stamps - stamps[0] if stamps[0] > shown[-1] else stamps)
    here = shown[np.searchsorted(shown, start - step / 2) :][: len(times)]
    if np.abs(shown[nearest(shown, times)] - times).max() > step and len(here) == len(times):
        notes.append(f"{where}: its timestamps do not fit the video; frames are taken by their number")
        times = here
    return VideoPictures(file, times)


def _joined(rows: Any, keys: list[str], where: str, length: int) -> NDArray[np.float32]:
    columns = [column_array(rows, key, where).astype(np.float32) for key in keys]
    return np.concatenate(columns, 1) if columns else np.zeros((length, 0), np.float32)


def _captions(rows: Any, episode: _Episode, tasks: Mapping[int, str], length: int) -> tuple[Captions, ...]:
    """The task of each row, else the episode's; and DROID's instructions."""
    names = rows.column_names
    texts: list[list[str]] = [[] for _ in range(length)]
    if "task_index" in names and tasks:
        for text, task in zip(texts, rows["task_index"].to_pylist(), strict=True):
            text.append(tasks.get(task[0] if isinstance(task, list) else task, ""))
    elif episode.tasks:
        texts = [list(episode.tasks) for _ in range(length)]
    for key in TEXTS:
        if key in names:
            for text, value in zip(texts, rows[key].to_pylist(), strict=True):
                text.append(str(value or ""))
    clean = [[" ".join(sentence.split()) for sentence in text] for text in texts]
    return tuple(tuple(dict.fromkeys(sentence for sentence in text if sentence)) for text in clean)


def _rate_notes(tracks: list[Track], info: Mapping[str, Any]) -> list[str]:
    steps = np.concatenate([np.diff(track.times) for track in tracks])
    recorded, fps = float(np.median(steps)) if len(steps) else 0.0, float(info["fps"])
    if recorded and abs(recorded * fps - 1) > 0.05:
        return [f"info.json says {fps:g} rows per second, the timestamps {1 / recorded:.3g}: the timestamps count"]
    return []
