"""Tiny recordings in the published layouts, with pictures that say at which millisecond they were taken."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from hnet_vjepa.data.importers.registry import format_named
from hnet_vjepa.data.importers.track_source import import_tracks
from hnet_vjepa.data.importers.tracks import ImportOptions
from hnet_vjepa.data.store import EpisodeStore

SIDE, CELLS = 64, 4  # a clock picture: 4 x 4 cells, one for each bit of the milliseconds


def real(name: str) -> Path:
    """A real recording of HNET_TEST_DATA (see CONTRIBUTING). Skips the test where it is not there."""
    root = os.environ.get("HNET_TEST_DATA")
    if not root:
        pytest.skip("HNET_TEST_DATA is not set: no real recordings")
    if not (Path(root) / name).exists():
        pytest.skip(f"HNET_TEST_DATA has no {name}")
    return Path(root) / name


def imported(kind: str, path: Path, out: Path, **options: Any) -> tuple[EpisodeStore, list[str]]:
    """Import recordings of a format; the store, and what was said about it."""
    notes: list[str] = []
    chosen = ImportOptions(**options)
    found = format_named(kind).read(path, chosen)
    return EpisodeStore(import_tracks(found, chosen, out, notes.append, progress=False)), notes


def clock_picture(seconds: float, side: int = SIDE) -> NDArray[np.uint8]:
    """A picture of a time (below 65.536 s, to the millisecond): side x side x 3, reddish so that red is not blue."""
    bits = (round(seconds * 1000) >> np.arange(CELLS * CELLS)) & 1
    cells = np.where(bits.reshape(CELLS, CELLS, 1) == 1, (220, 180, 170), (70, 20, 10)).astype(np.uint8)
    return cells.repeat(side // CELLS, 0).repeat(side // CELLS, 1)


def clock_time(picture: NDArray[np.uint8]) -> float:
    """The seconds that a clock picture of any size shows."""
    height, width = picture.shape[:2]
    rows = (np.arange(CELLS) * height + height // 2) // CELLS
    columns = (np.arange(CELLS) * width + width // 2) // CELLS
    bits = picture[np.ix_(rows, columns)].mean(-1) > 110
    return float((bits.reshape(-1) << np.arange(CELLS * CELLS)).sum()) / 1000


def clock_video(
    path: Path,
    times: Sequence[float] | NDArray[np.float64],
    codec: str = "libx264",
    shown: NDArray[np.float64] | None = None,
) -> None:
    """Write a video whose frames are presented at ``times`` (seconds) and show them, or the times ``shown``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream(codec, rate=30)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        base = Fraction(1, 12_000)  # the container may choose another for the stream once it is opened
        stream.time_base = stream.codec_context.time_base = base
        for time, seen in zip(times, times if shown is None else shown, strict=True):
            frame = av.VideoFrame.from_ndarray(clock_picture(float(seen)), "rgb24")
            frame.pts, frame.time_base = round(float(time) / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def encoded(picture: NDArray[np.uint8], kind: str = "PNG") -> bytes:
    """The bytes of a picture file."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, kind)
    return stream.getvalue()


def walk(length: int, dim: int, seed: int = 0) -> NDArray[np.float32]:
    """A smooth random path, length x dim."""
    return np.cumsum(np.random.default_rng(seed).normal(0, 0.02, (length, dim)), 0).astype(np.float32)


def lerobot_features(dim: int, camera: str = "video", names: Any = None) -> dict[str, Any]:
    """``features`` of info.json: action, state and a camera named ``front``."""
    number: dict[str, Any] = {"dtype": "float32", "shape": [dim], "names": names}
    picture = {"dtype": camera, "shape": [SIDE, SIDE, 3], "names": ["height", "width", "channel"]}
    clocks = {"timestamp": {"dtype": "float32", "shape": [1], "names": None}}
    return {"action": number, "observation.state": number, "observation.images.front": picture, **clocks}


def lerobot_table(
    episodes: dict[int, NDArray[np.float64]], states: dict[int, NDArray[np.float32]], **more: list[Any]
) -> pa.Table:
    """Rows of some episodes, whose timestamps are given; the action is the next row's state."""
    actions = {n: np.concatenate([s[1:], s[-1:]]) for n, s in states.items()}
    dim = next(iter(states.values())).shape[1]
    rows = pa.list_(pa.float32(), dim)
    return pa.table(
        {
            "observation.state": pa.array([row.tolist() for n in episodes for row in states[n]], rows),
            "action": pa.array([row.tolist() for n in episodes for row in actions[n]], rows),
            "timestamp": pa.array(np.concatenate(list(episodes.values())), pa.float64()),
            "frame_index": [t for times in episodes.values() for t in range(len(times))],
            "episode_index": [n for n, times in episodes.items() for _ in times],
            "index": list(range(sum(map(len, episodes.values())))),
            "task_index": [n % 2 for n, times in episodes.items() for _ in times],
            **more,
        }
    )


def write_json(path: Path, value: Any) -> None:
    """Write JSON, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value))


def write_table(path: Path, table: pa.Table) -> None:
    """Write a Parquet file, making the folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


def lerobot_v21(root: Path, episodes: dict[int, NDArray[np.float64]], dim: int = 3, fps: float = 10) -> Path:
    """A v2.1 data set: a table and a video for each episode."""
    data, video = (
        "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet",
        "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4",
    )
    names = [[f"joint {n}" for n in range(dim)]]
    info = {"codebase_version": "v2.1", "fps": fps, "chunks_size": 2, "data_path": data, "video_path": video}
    write_json(root / "meta" / "info.json", {**info, "features": lerobot_features(dim, names=names)})
    lines = [{"episode_index": n, "tasks": [f"task {n % 2}"], "length": len(t)} for n, t in episodes.items()]
    (root / "meta" / "episodes.jsonl").write_text("\n".join(map(json.dumps, lines)))
    tasks = [{"task_index": n, "task": f"task {n}"} for n in range(2)]
    (root / "meta" / "tasks.jsonl").write_text("\n".join(map(json.dumps, tasks)))
    for number, times in episodes.items():
        place = {"episode_chunk": number // 2, "episode_index": number}
        write_table(
            root / data.format(**place), lerobot_table({number: times}, {number: walk(len(times), dim, number)})
        )
        clock_video(root / video.format(video_key="observation.images.front", **place), times)
    return root


def lerobot_v30(root: Path, episodes: dict[int, NDArray[np.float64]], dim: int = 3, fps: float = 10) -> Path:
    """A v3.0 data set: one table and one video with all episodes, half a second of nothing between two."""
    data, video = (
        "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet",
        "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4",
    )
    names = {"motors": [f"joint {n}" for n in range(dim)]}
    info = {"codebase_version": "v3.0", "fps": fps, "chunks_size": 1000, "data_path": data, "video_path": video}
    write_json(root / "meta" / "info.json", {**info, "features": lerobot_features(dim, names=names)})
    place = {"chunk_index": 0, "file_index": 0}
    states = {n: walk(len(times), dim, n) for n, times in episodes.items()}
    write_table(root / data.format(**place), lerobot_table(episodes, states))
    starts, start = [], 0.0
    for times in episodes.values():
        starts.append(start)
        start += float(times[-1]) + 0.5
    shown = np.concatenate([s + t for s, t in zip(starts, episodes.values(), strict=True)])
    clock_video(root / video.format(video_key="observation.images.front", **place), shown)
    count = len(episodes)
    key = "videos/observation.images.front"
    write_table(
        root / "meta/episodes/chunk-000/file-000.parquet",
        pa.table(
            {
                "episode_index": list(episodes),
                "tasks": [[f"task {n % 2}"] for n in episodes],
                "length": [len(t) for t in episodes.values()],
                **{name: [0] * count for name in ("data/chunk_index", "data/file_index")},
                **{f"{key}/{name}": [0] * count for name in ("chunk_index", "file_index")},
                f"{key}/from_timestamp": starts,
                f"{key}/to_timestamp": [s + float(t[-1]) for s, t in zip(starts, episodes.values(), strict=True)],
            }
        ),
    )
    tasks = pa.table({"task_index": [0, 1], "__index_level_0__": ["task 0", "task 1"]})
    write_table(root / "meta" / "tasks.parquet", tasks)
    return root
