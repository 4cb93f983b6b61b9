"""LeRobot data sets of both layouts: which frame belongs to which row, what is missing, and what the numbers mean."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from hnet_vjepa.errors import UserError
from tests.data.recordings import (
    clock_picture,
    clock_time,
    clock_video,
    encoded,
    imported,
    lerobot_features,
    lerobot_table,
    lerobot_v21,
    lerobot_v30,
    real,
    walk,
    write_json,
    write_table,
)

VARIABLE = np.cumsum([0, 0.1, 0.033, 0.25, 0.04, 0.1, 0.05, 0.3])  # seconds: a camera that drops and delays frames
STEADY = np.arange(8) / 10


def shown(frames: NDArray[np.uint8]) -> list[float]:
    return [clock_time(frame) for frame in np.asarray(frames)]


@pytest.mark.parametrize("write", [lerobot_v21, lerobot_v30])
def test_every_row_has_the_frame_of_its_time(tmp_path: Path, write: object) -> None:
    """The frames say themselves when they are presented: at most 1 ms from the rows' timestamps."""
    episodes = {0: STEADY, 1: VARIABLE, 3: STEADY[:5]}
    root = write(tmp_path / "in", episodes)  # type: ignore[operator]
    store, _ = imported("lerobot", root, tmp_path / "store")
    assert [(e.index, e.seed, len(e)) for e in store.episodes] == [(0, 0, 8), (1, 1, 8), (2, 3, 5)]
    start = 0.0
    for episode, times in zip(store.episodes, episodes.values(), strict=True):
        offset = start if write is lerobot_v30 else 0.0
        assert np.abs(np.array(shown(episode.frames)) - offset - times).max() <= 0.001
        start += times[-1] + 0.5
    assert store.info.action.names == ("joint 0", "joint 1", "joint 2")
    assert store.info.camera.dt == pytest.approx(0.1)
    assert [e.captions[0] for e in store.episodes] == [("task 0",), ("task 1",), ("task 1",)]
    assert store.info.labels == ("task-0", "task-1")
    assert store.episodes[1].labels is not None and store.episodes[1].labels.tolist() == [[0, 1]] * 8


def test_targets_are_told_from_changes(tmp_path: Path) -> None:
    root = lerobot_v21(tmp_path / "in", {0: STEADY})
    states = walk(8, 3, 0)
    store, notes = imported("lerobot", root, tmp_path / "targets")
    assert any("taken as absolute targets" in note for note in notes)
    assert store.info.action.absolute == (0, 1, 2)
    np.testing.assert_array_equal(store.episodes[0].actions, states[1:])  # the table's action is the next state
    store, _ = imported("lerobot", root, tmp_path / "differences", actions="differences")
    assert (store.info.action.absolute, store.info.settings["actions"]) == ((), "differences")
    np.testing.assert_allclose(store.episodes[0].actions, np.diff(states, axis=0), atol=1e-7)
    np.testing.assert_array_equal(store.episodes[0].states, states)


def test_resampling_takes_the_frame_and_the_last_command_before_it(tmp_path: Path) -> None:
    times = np.arange(31) / 30
    root = lerobot_v21(tmp_path / "in", {0: times}, fps=30)
    store, _ = imported("lerobot", root, tmp_path / "store", dt=0.1)
    episode = store.episodes[0]
    assert np.abs(np.array(shown(episode.frames)) - np.arange(11) / 10).max() <= 0.001
    targets = walk(31, 3, 0)[1:]  # row t commands the state of row t + 1
    np.testing.assert_array_equal(episode.actions, targets[2::3])
    with pytest.raises(UserError, match=r"dt is 0\.01 s, finer than recorded \(0\.0333\d* s between"):
        imported("lerobot", root, tmp_path / "finer", dt=0.01)


def test_changes_are_summed_over_what_is_left_out(tmp_path: Path) -> None:
    root = lerobot_v21(tmp_path / "in", {0: np.arange(13) / 30}, fps=30)
    store, _ = imported("lerobot", root, tmp_path / "store", dt=0.1, actions="changes")
    states = walk(13, 3, 0)
    recorded = np.concatenate([states[1:], states[-1:]])
    np.testing.assert_allclose(store.episodes[0].actions, recorded[:12].reshape(4, 3, 3).sum(1), rtol=1e-5)


def test_a_gap_ends_the_stretch_that_is_kept(tmp_path: Path) -> None:
    times = np.concatenate([np.arange(5) / 10, 2 + np.arange(9) / 10])
    store, notes = imported("lerobot", lerobot_v21(tmp_path / "in", {0: times}), tmp_path / "store", dt=0.1)
    assert np.abs(np.array(shown(store.episodes[0].frames)) - 2 - np.arange(9) / 10).max() <= 0.001
    assert any("episode 0: gap of 1.6 s after row 4" in note for note in notes)


def test_wall_clock_stamps(tmp_path: Path) -> None:
    """A table with the time of day, a video that begins at zero: what lies between two rows decides."""
    root = lerobot_v21(tmp_path / "in", {0: VARIABLE})
    states = {0: walk(len(VARIABLE), 3, 0)}
    write_table(root / "data/chunk-000/episode_000000.parquet", lerobot_table({0: 1.7e9 + VARIABLE}, states))
    store, notes = imported("lerobot", root, tmp_path / "store")
    assert np.abs(np.array(shown(store.episodes[0].frames)) - VARIABLE).max() <= 0.001
    # A video at a nominal rate beside such a table: as many frames as rows, so their number decides.
    nominal = np.arange(8) / 60
    clock_video(root / "videos/chunk-000/observation.images.front/episode_000000.mp4", nominal)
    store, notes = imported("lerobot", root, tmp_path / "nominal")
    assert np.abs(np.array(shown(store.episodes[0].frames)) - nominal).max() <= 0.001
    assert any("frames are taken by their number" in note for note in notes)


def test_missing_files_leave_the_others_their_number(tmp_path: Path) -> None:
    root = lerobot_v21(tmp_path / "in", {n: STEADY + 0.3 * n for n in range(4)})
    (root / "videos/chunk-000/observation.images.front/episode_000000.mp4").unlink()
    (root / "data/chunk-001/episode_000002.parquet").unlink()
    store, notes = imported("lerobot", root, tmp_path / "store")
    assert [e.seed for e in store.episodes] == [1, 3]
    assert clock_time(np.asarray(store.episodes[1].frames[0])) == pytest.approx(0.9)
    assert notes[0].startswith("2 episodes are left out; the first is") and "episode 0: no video" in notes[0]


def test_a_video_that_stops_early_is_named(tmp_path: Path) -> None:
    root = lerobot_v21(tmp_path / "in", {0: STEADY, 1: STEADY})
    file = root / "videos/chunk-000/observation.images.front/episode_000001.mp4"
    clock_video(file, STEADY[:4])
    with pytest.raises(UserError, match=r"episode_000001\.mp4: no frame near 0\.700 s; the nearest is at 0\.300 s"):
        imported("lerobot", root, tmp_path / "store")
    store, notes = imported("lerobot", root, tmp_path / "store", damaged="skip")  # goes on with what was there
    assert [e.seed for e in store.episodes] == [0]
    assert "1 damaged episodes are left out; the first is" in notes[-1] and "episode 1: " in notes[-1]
    file.write_bytes(file.read_bytes()[:300])
    store, notes = imported("lerobot", root, tmp_path / "without")
    assert [e.seed for e in store.episodes] == [0] and "episode_000001.mp4 is not a readable video" in notes[0]


def test_pictures_inside_the_table(tmp_path: Path) -> None:
    root = tmp_path / "in"
    lerobot_v30(root, {0: STEADY, 1: STEADY})
    info = json.loads((root / "meta/info.json").read_text())
    write_json(root / "meta/info.json", {**info, "features": lerobot_features(3, "image")})
    # On disk red and blue are swapped, as OpenCV's encoder leaves them when it is given RGB.
    cells = [{"bytes": encoded(clock_picture(n + t)[..., ::-1]), "path": None} for n in range(2) for t in STEADY]
    table = lerobot_table({0: STEADY, 1: STEADY}, {n: walk(8, 3, n) for n in range(2)})
    table = table.append_column("observation.images.front", pa.array(cells))
    write_table(root / "data/chunk-000/file-000.parquet", table)
    store, _ = imported("lerobot", root, tmp_path / "store", bgr=True)
    assert shown(store.episodes[1].frames) == pytest.approx((1 + STEADY).tolist())
    frame = np.asarray(store.episodes[0].frames[0])
    assert frame[..., 0].mean() > frame[..., 2].mean() + 30  # reddish again


def test_a_second_camera_stands_beside_the_first(tmp_path: Path) -> None:
    root = lerobot_v21(tmp_path / "in", {0: STEADY})
    info = json.loads((root / "meta/info.json").read_text())
    info["features"]["observation.images.wrist"] = info["features"]["observation.images.front"]
    write_json(root / "meta/info.json", info)
    clock_video(root / "videos/chunk-000/observation.images.wrist/episode_000000.mp4", STEADY + 0.02)
    with pytest.raises(UserError, match=r"several cameras \(front, wrist\); choose one with --camera"):
        imported("lerobot", root, tmp_path / "none")
    store, notes = imported("lerobot", root, tmp_path / "store", camera="wrist", beside="front", size=(32, 32))
    frames = np.asarray(store.episodes[0].frames)
    assert frames.shape[1:] == (32, 64, 3) and store.info.camera.name == "wrist+front"
    assert shown(frames[:, :, :32]) == pytest.approx((STEADY + 0.02).tolist())
    assert shown(frames[:, :, 32:]) == pytest.approx(STEADY.tolist())
    assert any("'front' is stored at the right of 'wrist': 64 pixels wide" in note for note in notes)


def test_what_is_not_such_a_data_set(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is not a LeRobot data set: it has no meta/info\.json"):
        imported("lerobot", tmp_path, tmp_path / "store")
    root = lerobot_v21(tmp_path / "in", {0: STEADY})
    with pytest.raises(UserError, match=r"unknown table of .* 'nothing'; choose one of: action"):
        imported("lerobot", root, tmp_path / "store", action_key="nothing")
    info = json.loads((root / "meta/info.json").read_text())
    write_json(root / "meta/info.json", {**info, "codebase_version": "v4.0"})
    with pytest.raises(UserError, match=r"unknown version in .* 'v4\.0'; choose one of: v2\.0, v2\.1, v3\.0"):
        imported("lerobot", root, tmp_path / "store")


@pytest.mark.slow
def test_the_real_humanoid(tmp_path: Path) -> None:
    store, notes = imported("lerobot", real("lerobot_v21_g1"), tmp_path / "store", dt=1.0, size=(48, 64))
    assert [e.seed for e in store.episodes] == [1, 2, *range(10, 26)]
    assert store.info.action.dim == 26 and len(store.info.action.absolute) == 26
    assert "82 episodes are left out" in notes[0]


def test_the_real_arm_that_never_moves(tmp_path: Path) -> None:
    store, _ = imported("lerobot", real("lerobot_v3_so101"), tmp_path / "store", dt=1.0)
    assert len(store.episodes) == 6 and np.ptp(store.episodes[0].actions, 0).max() == 0


def test_a_robot_file_says_names_units_and_bounds(tmp_path: Path) -> None:
    root = lerobot_v21(tmp_path / "in", {0: STEADY})
    told = {"names": ["joint 2", "joint 0"], "units": ["rad", "rad"], "low": [-1, -0.01], "high": [1, 0.01]}
    write_json(tmp_path / "robot.json", {**told, "active": [1], "absolute": [0, 1]})
    store, notes = imported("lerobot", root, tmp_path / "store", robot=tmp_path / "robot.json")
    action = store.info.action
    assert (action.names, action.units, action.absolute) == (("joint 2", "joint 0"), ("rad", "rad"), (0, 1))
    expected = walk(8, 3, 0)[1:, 0]
    np.testing.assert_array_equal(store.episodes[0].actions, np.stack([np.zeros(7), expected], 1).astype(np.float32))
    exceed = int((np.abs(expected) > 0.01).sum())
    assert any("does not name are ignored: joint 1" in note for note in notes)
    assert any(f"{exceed} of 7 actions exceed the bounds" in note for note in notes)
    write_json(tmp_path / "robot.json", {**told, "names": ["joint 2", "elbow"]})
    with pytest.raises(UserError, match=r"robot\.json names elbow; recorded are joint 0, joint 1, joint 2"):
        imported("lerobot", root, tmp_path / "other", robot=tmp_path / "robot.json")


def test_a_damaged_episode_does_not_decide_what_the_actions_are(tmp_path: Path) -> None:
    root = lerobot_v21(tmp_path / "in", {0: STEADY, 1: STEADY + 0.5})
    states = walk(8, 3, 0)
    states[2, 1] = np.nan
    write_table(root / "data/chunk-000/episode_000000.parquet", lerobot_table({0: STEADY}, {0: states}))
    store, notes = imported("lerobot", root, tmp_path / "store")
    assert store.info.action.absolute == (0, 1, 2) and [e.seed for e in store.episodes] == [1]
    assert "row 1, action joint 1 is nan" in notes[0]
