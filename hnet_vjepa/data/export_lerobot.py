"""Write a store as a LeRobot data set, version 3.0: one table and one video for many episodes.

The layout is that of ``importers/lerobot.py``, which reads it back. Frames become H.264 video (or PNG pictures inside
the table where a side is odd, which the video's colour format does not allow), so they are not bit for bit the same;
actions, states and captions are.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.data.importers.optional import need
from hnet_vjepa.data.store import Episode, EpisodeStore
from hnet_vjepa.data.summary import encode_png
from hnet_vjepa.errors import UserError
from hnet_vjepa.utils.files import directory_atomic, write_json_atomic

VERSION = "v3.0"
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
FRAMES_PER_FILE = 50_000  # of one table and video: a file's content is held in memory while it is written
CHUNK = 1000  # files in one folder


def export_lerobot(store: EpisodeStore, out: Path, robot: str = "unknown") -> Path:
    """Write the episodes of ``store`` as a LeRobot data set in the new directory ``out`` and return ``out``.

    A row's action moves its frame to the next; the last row of an episode, which has no next frame, repeats the one
    before (where actions are targets) or is zero. ``robot``: LeRobot's robot_type. Raises UserError when ``out`` exists
    or cannot be written.
    """
    if out.exists():
        raise UserError(f"{out} exists; name a new directory")
    with directory_atomic(out) as folder:
        _Writer(store, folder).write(robot)
    return out


class _Writer:
    """Writes the files of one data set below ``folder``."""

    def __init__(self, store: EpisodeStore, folder: Path) -> None:
        self._arrow, self._parquet = need("pyarrow", "Parquet tables"), need("pyarrow.parquet", "Parquet tables")
        info = store.info
        self._store, self._folder = store, folder
        self._rate = Fraction(1 / info.camera.dt).limit_denominator(1001)
        self._key = f"observation.images.{info.camera.name.replace('/', '.')}"
        self._video = info.camera.height % 2 == 0 and info.camera.width % 2 == 0
        sentences = {self._task(episode, t) for episode in store.episodes for t in range(len(episode))}
        self._tasks = {task: number for number, task in enumerate(sorted(sentences))}
        self._statistics: list[dict[str, dict[str, NDArray[np.float64]]]] = []

    def write(self, robot: str) -> None:
        """Write all files."""
        rows = [row for number, part in enumerate(self._parts()) for row in self._file(number, part)]
        self._save("meta/episodes/chunk-000/file-000.parquet", self._arrow.Table.from_pylist(rows))
        self._save("meta/tasks.parquet", self._task_table())
        total = _merged(self._statistics)
        write_json_atomic(self._folder / "meta" / "stats.json", {k: _lists(v) for k, v in total.items()})
        rate = self._rate
        info = {
            "codebase_version": VERSION,
            "robot_type": robot,
            "total_episodes": len(rows),
            "total_frames": sum(row["length"] for row in rows),
            "total_tasks": len(self._tasks),
            "chunks_size": CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": int(rate) if rate.denominator == 1 else float(rate),
            "splits": {"train": f"0:{len(rows)}"},
            "data_path": DATA_PATH,
            "video_path": VIDEO_PATH if self._video else None,
            "features": self._features(),
        }
        write_json_atomic(self._folder / "meta" / "info.json", info)

    def _parts(self) -> Iterator[list[Episode]]:
        """Runs of episodes that share a file."""
        part: list[Episode] = []
        for episode in self._store.episodes:
            if part and sum(map(len, part)) + len(episode) > FRAMES_PER_FILE:
                yield part
                part = []
            part.append(episode)
        yield part

    def _file(self, number: int, part: Sequence[Episode]) -> Iterator[dict[str, Any]]:
        """Write one table and video; the rows of meta/episodes about them."""
        place = {"chunk_index": number // CHUNK, "file_index": number % CHUNK}
        if self._video:
            file = self._folder / VIDEO_PATH.format(video_key=self._key, **place)
            file.parent.mkdir(parents=True, exist_ok=True)
            _encode(file, part, self._rate)
        first = sum(len(e) for e in self._store.episodes if e.index < part[0].index)
        tables, at = [], first
        for episode in part:
            length = len(episode)
            episode_number = self._store.episodes.index(episode)
            columns = self._columns(episode, episode_number, at)
            tables.append(columns)
            self._statistics.append(_statistics(columns, episode, self._key))
            row = {
                "episode_index": episode_number,
                "tasks": list(dict.fromkeys(self._task(episode, t) for t in range(length))),
                "length": length,
                "data/chunk_index": place["chunk_index"],
                "data/file_index": place["file_index"],
                "dataset_from_index": at,
                "dataset_to_index": at + length,
                "meta/episodes/chunk_index": 0,
                "meta/episodes/file_index": 0,
            }
            if self._video:
                begin, end = (float((n - first) / self._rate) for n in (at, at + length))
                times = {"from_timestamp": begin, "to_timestamp": end}
                row |= {f"videos/{self._key}/{name}": value for name, value in {**place, **times}.items()}
            for feature, measured in self._statistics[-1].items():
                row |= {f"stats/{feature}/{name}": value.tolist() for name, value in measured.items()}
            at += length
            yield row
        self._save(DATA_PATH.format(**place), self._table(tables))

    def _columns(self, episode: Episode, number: int, first: int) -> dict[str, NDArray[Any]]:
        """The numbers of an episode's rows by feature: T x D."""
        length, info = len(episode), self._store.info
        ending = np.zeros((1, info.action.dim), np.float32)
        ending[0, list(info.action.absolute)] = episode.actions[-1, list(info.action.absolute)]
        counted = np.arange(length)
        columns: dict[str, NDArray[Any]] = {}
        if info.action.dim:
            columns["action"] = np.concatenate([episode.actions, ending])
        if episode.states is not None:
            columns["observation.state"] = episode.states
        return {
            **columns,
            "timestamp": (counted / float(self._rate)).astype(np.float32)[:, None],
            "frame_index": counted[:, None],
            "episode_index": np.full((length, 1), number),
            "index": first + counted[:, None],
            "task_index": np.array([[self._tasks[self._task(episode, t)]] for t in range(length)]),
        }

    def _table(self, parts: Sequence[dict[str, NDArray[Any]]]) -> Any:
        """The rows of some episodes as a pyarrow table."""
        arrow, columns = self._arrow, {}
        for name in parts[0]:
            rows = np.concatenate([part[name] for part in parts])
            if name in ("action", "observation.state"):
                flat = arrow.array(rows.astype(np.float32).reshape(-1))
                columns[name] = arrow.FixedSizeListArray.from_arrays(flat, rows.shape[1])
            else:
                columns[name] = arrow.array(rows[:, 0])
        if not self._video:
            numbers = np.concatenate([part["episode_index"][:, 0] for part in parts])
            pictures = [frame for n in np.unique(numbers) for frame in self._store.episodes[n].frames]
            columns[self._key] = arrow.array([{"bytes": _png(frame), "path": None} for frame in pictures])
        return arrow.table(columns)

    def _task_table(self) -> Any:
        """Task numbers; the sentences are the index of a pandas frame, as LeRobot expects."""
        arrow, names = self._arrow, list(self._tasks)
        table = arrow.table({"task_index": list(range(len(names))), "__index_level_0__": names})
        kinds = {"task_index": ("int64", "int64"), "__index_level_0__": ("unicode", "object")}
        columns = [
            {"name": None if field.startswith("__") else field, "field_name": field, "metadata": None}
            | {"pandas_type": kind, "numpy_type": numpy}
            for field, (kind, numpy) in kinds.items()
        ]
        told = {"index_columns": ["__index_level_0__"], "column_indexes": [], "columns": columns}
        return table.replace_schema_metadata({"pandas": json.dumps({**told, "pandas_version": "2.0.0"})})

    def _features(self) -> dict[str, Any]:
        info, camera = self._store.info, self._store.info.camera
        features: dict[str, Any] = {}
        if info.action.dim:
            features["action"] = {"dtype": "float32", "shape": [info.action.dim], "names": list(info.action.names)}
        if info.states:
            features["observation.state"] = {
                "dtype": "float32",
                "shape": [len(info.states)],
                "names": list(info.states),
            }
        picture = {"shape": [camera.height, camera.width, 3], "names": ["height", "width", "channels"]}
        told = {
            "video.height": camera.height,
            "video.width": camera.width,
            "video.codec": "h264",
            "video.pix_fmt": "yuv420p",
            "video.is_depth_map": False,
            "video.fps": float(self._rate),
            "video.channels": 3,
            "has_audio": False,
        }
        features[self._key] = (
            {"dtype": "video", **picture, "info": told} if self._video else {"dtype": "image", **picture}
        )
        features["timestamp"] = {"dtype": "float32", "shape": [1], "names": None}
        for name in ("frame_index", "episode_index", "index", "task_index"):
            features[name] = {"dtype": "int64", "shape": [1], "names": None}
        return features

    def _task(self, episode: Episode, t: int) -> str:
        """The frame's first caption: LeRobot has one sentence for each row."""
        return next(iter(episode.captions[t]), "")

    def _save(self, name: str, table: Any) -> None:
        (self._folder / name).parent.mkdir(parents=True, exist_ok=True)
        self._parquet.write_table(table, self._folder / name)


def _encode(file: Path, episodes: Sequence[Episode], rate: Fraction) -> None:
    """The frames of all episodes one after another as H.264, a key frame at least every second one."""
    import av

    with av.open(str(file), "w") as container:
        height, width = episodes[0].frames.shape[1:3]
        stream: Any = container.add_stream("libx264", rate=rate, options={"g": "2", "crf": "16"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        number = 0
        for episode in episodes:
            for frame in episode.frames:
                picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), "rgb24")
                picture.pts, picture.time_base = number, 1 / rate
                container.mux(stream.encode(picture))
                number += 1
        container.mux(stream.encode())


def _png(frame: NDArray[np.uint8]) -> bytes:
    from PIL import Image

    return encode_png(Image.fromarray(np.asarray(frame)))


def _statistics(columns: dict[str, NDArray[Any]], episode: Episode, key: str) -> dict[str, dict[str, NDArray[Any]]]:
    """LeRobot's statistics of each feature; of pictures for each colour, between 0 and 1."""
    found = {name: _measured(rows.astype(np.float64)) for name, rows in columns.items()}
    pixels = np.asarray(episode.frames[:: max(1, len(episode) // 20)], np.float64).reshape(-1, 3) / 255
    measured = _measured(pixels)
    found[key] = {name: value if name == "count" else value.reshape(3, 1, 1) for name, value in measured.items()}
    return found


def _measured(rows: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    ends = {"min": rows.min(0), "max": rows.max(0), "mean": rows.mean(0), "std": rows.std(0)}
    return {**ends, "count": np.array([len(rows)])}


def _merged(parts: Sequence[dict[str, dict[str, NDArray[Any]]]]) -> dict[str, dict[str, NDArray[Any]]]:
    """Statistics of all episodes together."""
    total = {}
    for name in parts[0]:
        counts = np.array([part[name]["count"][0] for part in parts], np.float64)
        stacked = {k: np.stack([part[name][k] for part in parts]) for k in ("min", "max", "mean", "std")}
        weights = (counts / counts.sum()).reshape(-1, *[1] * (stacked["mean"].ndim - 1))
        mean = (weights * stacked["mean"]).sum(0)
        variance = (weights * (stacked["std"] ** 2 + (stacked["mean"] - mean) ** 2)).sum(0)
        ends = {"min": stacked["min"].min(0), "max": stacked["max"].max(0), "mean": mean, "std": np.sqrt(variance)}
        total[name] = {**ends, "count": np.array([int(counts.sum())])}
    return total


def _lists(measured: dict[str, NDArray[Any]]) -> dict[str, Any]:
    return {name: value.tolist() for name, value in measured.items()}
