"""A store written as a LeRobot data set and read back by our reader; its tables read by pyarrow and pandas."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from hnet_vjepa.data import export_lerobot as module
from hnet_vjepa.data.export_lerobot import export_lerobot
from hnet_vjepa.data.store import Episode, EpisodeStore, StoreInfo, create_store, write_shard
from hnet_vjepa.errors import UserError
from hnet_vjepa.specs import ActionSpec, CameraSpec
from tests.data.recordings import clock_picture, clock_time, imported, walk


def store(path: Path, height: int = 64) -> EpisodeStore:
    """Three episodes of 5, 6, 7 frames at 12.5 Hz; frame t of episode e shows 10 e + t seconds."""
    info = StoreInfo(
        source="made",
        camera=CameraSpec(height=height, width=64, dt=0.08, name="front"),
        action=ActionSpec(
            names=("x", "grip"), units=("m", "1"), low=(-1, 0), high=(1, 1), active=(0, 1), absolute=(1,)
        ),
        shards=1,
        states=("x [m]", "y [m]"),
    )
    create_store(path, info)
    episodes = []
    for number, length in enumerate((5, 6, 7)):
        frames = np.stack([clock_picture(10 * number + t)[:height] for t in range(length)])
        captions = tuple((f"do {number}",) if t < 3 else () for t in range(length))
        actions, states = walk(length - 1, 2, number), walk(length, 2, 9 + number)
        episodes.append(Episode(number, number, frames, actions, captions, states))
    write_shard(path, 0, info, episodes)
    return EpisodeStore(path)


@pytest.mark.parametrize("height", [64, 63])
def test_written_and_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, height: int) -> None:
    monkeypatch.setattr(module, "FRAMES_PER_FILE", 11)  # two episodes in the first file, one in the second
    ours = store(tmp_path / "ours", height)
    root = export_lerobot(ours, tmp_path / "out", "arm")
    assert len(list((root / "data").rglob("*.parquet"))) == 2
    assert len(list((root / "videos").rglob("*.mp4"))) == (2 if height == 64 else 0)
    back, _ = imported("lerobot", root, tmp_path / "back", size=(height, 64), actions="changes")
    assert back.info.camera == ours.info.camera and back.info.states == ours.info.states
    assert back.info.action.names == ours.info.action.names
    for a, b in zip(ours.episodes, back.episodes, strict=True):
        np.testing.assert_array_equal(a.actions, b.actions)
        assert a.states is not None and b.states is not None
        np.testing.assert_array_equal(a.states, b.states)
        assert [c[:1] for c in a.captions] == list(b.captions)
        error = np.abs(np.asarray(a.frames).astype(int) - b.frames).mean()
        assert error == 0 if height == 63 else error < 6
        if height == 64:
            assert [clock_time(np.asarray(f)) for f in b.frames] == [clock_time(np.asarray(f)) for f in a.frames]


def test_what_the_tables_say(tmp_path: Path) -> None:
    ours = store(tmp_path / "ours")
    root = export_lerobot(ours, tmp_path / "out", "arm")
    info = json.loads((root / "meta" / "info.json").read_text())
    assert (info["codebase_version"], info["robot_type"]) == ("v3.0", "arm")
    assert (info["fps"], info["total_frames"]) == (12.5, 18)
    rows = pq.read_table(root / "data/chunk-000/file-000.parquet").to_pydict()
    assert rows["index"] == list(range(18)) and rows["frame_index"] == [*range(5), *range(6), *range(7)]
    np.testing.assert_allclose(rows["timestamp"][5:11], np.arange(6) * 0.08, atol=1e-6)
    last = ours.episodes[0].actions[-1]
    assert rows["action"][4] == [0.0, pytest.approx(float(last[1]))]  # a change stops, a target is kept
    actions = np.array(rows["action"])
    told = json.loads((root / "meta" / "stats.json").read_text())
    for name, value in (("min", actions.min(0)), ("max", actions.max(0)), ("mean", actions.mean(0))):
        np.testing.assert_allclose(told["action"][name], value, atol=1e-6)
    np.testing.assert_allclose(told["action"]["std"], actions.std(0), atol=1e-6)
    assert np.shape(told["observation.images.front"]["mean"]) == (3, 1, 1) and told["action"]["count"] == [18]
    episodes = pq.read_table(root / "meta/episodes/chunk-000/file-000.parquet").to_pydict()
    key = "videos/observation.images.front"
    assert episodes[f"{key}/from_timestamp"] == pytest.approx([0, 0.4, 0.88])
    assert episodes["tasks"] == [["do 0", ""], ["do 1", ""], ["do 2", ""]]
    pandas = pytest.importorskip("pandas")
    tasks = pandas.read_parquet(root / "meta" / "tasks.parquet")
    assert list(tasks.index) == ["", "do 0", "do 1", "do 2"] and tasks.loc["do 1", "task_index"] == 2
    with pytest.raises(UserError, match="exists; name a new directory"):
        export_lerobot(ours, tmp_path / "out")


def test_an_independent_checker_finds_no_fault(tmp_path: Path) -> None:
    """``lerobot-doctor`` reads what was written; its warnings are about this little data, not about the format."""
    pytest.importorskip("lerobot_doctor")
    root = export_lerobot(store(tmp_path / "ours"), tmp_path / "out")
    command = [sys.executable, "-c", "from lerobot_doctor.cli import main; main()", "check", "--json", str(root)]
    told = subprocess.run(command, capture_output=True, text=True, check=False, env={"HF_HUB_OFFLINE": "1"})
    results = {entry["name"]: entry["severity"] for entry in json.loads(told.stdout)["checks"]}
    assert len(results) >= 8 and "FAIL" not in results.values()
    for name in ("Metadata & Format Compliance", "Temporal Consistency", "Video Integrity", "Feature Consistency"):
        assert results[name] == "PASS"
