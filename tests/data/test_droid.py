"""DROID in both published layouts: raw (HDF5, MP4, JSON) and RLDS."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hnet_vjepa.data.importers.rlds import import_rlds
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.errors import UserError
from tests.data.recordings import (
    SIDE,
    clock_picture,
    clock_time,
    clock_video,
    encoded,
    imported,
    real,
    walk,
    write_json,
)
from tests.data.test_rlds import write

h5py = pytest.importorskip("h5py")
T = 12
SERIAL, WRIST = "22008760", "18026681"
ROWS = np.cumsum([0, *[0.066, 0.07, 0.064] * 4])[:T]  # seconds of the control steps: about 15 Hz, not exactly
LAG = 0.021  # seconds from a control step to the picture that it sees


def poses(seed: int = 0) -> NDArray[np.float64]:
    """Position and angles, T x 6; the angles pass pi, where their difference jumps."""
    pose = walk(T, 6, seed).astype(np.float64)
    pose[:, 5] = (np.pi - 0.2 + 0.05 * np.arange(T) + np.pi) % (2 * np.pi) - np.pi
    return pose


def raw(root: Path, name: str = "Fri_Jul__7_09:42:23_2023", timestamps: bool = True, frames: int = T + 3) -> Path:
    """An episode whose camera runs freely: three pictures more than rows, written with a nominal 60 Hz."""
    folder = root / "1.0.1" / "AUTOLab" / "success" / "2023-07-07" / name
    told = {"uuid": "AUTOLab+0", "current_task": "Put the  cup away", "success": True, "trajectory_length": T}
    write_json(folder / "metadata_AUTOLab+0.json", {**told, "ext1_cam_serial": SERIAL, "wrist_cam_serial": WRIST})
    begin = 1_688_748_143_000  # ms since 1970
    captured = np.concatenate([[-0.05], ROWS + LAG, [ROWS[-1] + 0.09, ROWS[-1] + 0.15]])[:frames]
    for serial, late in ((SERIAL, 0.0), (WRIST, 0.003)):
        video = folder / "recordings" / "MP4" / f"{serial}.mp4"
        # Frame n shows the time of its capture (plus 1 s), but is presented at n / 60.
        clock_video(video, np.arange(len(captured)) / 60, "mpeg4", shown=captured + late + 1)
        if timestamps:
            write_json(
                video.with_name(f"{serial}_timestamps.json"), (begin + (captured + late) * 1000).round().tolist()
            )
    with h5py.File(folder / "trajectory.h5", "w") as file:
        state = file.create_group("observation/robot_state")
        state["cartesian_position"], state["gripper_position"] = poses(), np.linspace(0, 1, T)
        state["joint_positions"] = walk(T, 7)
        file["action/cartesian_velocity"], file["action/gripper_velocity"] = walk(T, 6, 1), walk(T, 1, 2)[:, 0]
        clocks = file.create_group("observation/timestamp")
        clocks["control/step_start"] = (begin + ROWS * 1000).round().astype(np.int64)
        for serial, late in ((SERIAL, 0.0), (WRIST, 0.003)):
            capture = (begin + (ROWS + LAG + late) * 1000).round().astype(np.int64)
            clocks[f"cameras/{serial}_estimated_capture"] = capture
        clocks["skip_action"] = np.arange(T) == 0
        file["observation/controller_info/movement_enabled"] = np.arange(T) < T - 1
    return folder


def test_the_frame_of_a_row_is_the_one_captured_then(tmp_path: Path) -> None:
    """The MP4's nominal rate plays no part: 15 rows a second stay 15 a second."""
    raw(tmp_path / "in")
    store, _ = imported("droid", tmp_path / "in", tmp_path / "store", camera="ext1", size=(SIDE, SIDE))
    episode = store.episodes[0]
    rows = np.arange(1, T - 1)  # without the first (skip_action) and the last (no movement)
    shown = np.array([clock_time(np.asarray(frame)) for frame in episode.frames]) - 1
    assert np.abs(shown - (ROWS[rows] + LAG)).max() <= 0.001
    assert store.info.camera.dt == pytest.approx(1 / 15, rel=0.02)
    assert store.info.action.names == ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
    assert store.info.action.units == ("m", "m", "m", "rad", "rad", "rad", "fraction")
    assert episode.captions[0] == ("Put the cup away",)


def test_actions_are_differences_by_matrices(tmp_path: Path) -> None:
    """R[t + 1] R[t]^T, by another library; the yaw that passes pi makes no jump."""
    rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    raw(tmp_path / "in")
    store, _ = imported("droid", tmp_path / "in", tmp_path / "store", camera="ext1")
    pose = poses()[1 : T - 1]
    turned = rotation.from_euler("xyz", pose[:, 3:])
    expected = np.concatenate([np.diff(pose[:, :3], axis=0), (turned[1:] * turned[:-1].inv()).as_euler("xyz")], 1)
    np.testing.assert_allclose(store.episodes[0].actions[:, :6], expected, atol=1e-5)
    assert np.abs(store.episodes[0].actions[:, 5]).max() < 0.2
    np.testing.assert_allclose(store.episodes[0].actions[:, 6], np.full(T - 3, 1 / (T - 1)), atol=1e-5)


def test_other_actions_and_a_second_camera(tmp_path: Path) -> None:
    raw(tmp_path / "in")
    keys = "cartesian_velocity,gripper_velocity"
    store, _ = imported(
        "droid", tmp_path / "in", tmp_path / "store", camera="wrist", beside="ext1", action_key=keys, size=(SIDE, SIDE)
    )
    np.testing.assert_array_equal(store.episodes[0].actions[:, :6], walk(T, 6, 1)[1 : T - 2])
    assert store.info.action.dim == 7 and store.info.action.names[6] == "gripper_velocity.0"
    frame = np.asarray(store.episodes[0].frames[0])
    assert clock_time(frame[:, :SIDE]) - clock_time(frame[:, SIDE:]) == pytest.approx(0.003, abs=1e-6)


def test_without_timestamps_and_with_a_frame_less(tmp_path: Path) -> None:
    raw(tmp_path / "in", timestamps=False, frames=T - 2)
    store, notes = imported("droid", tmp_path / "in", tmp_path / "store", camera="ext1", size=(SIDE, SIDE))
    assert len(store.episodes[0]) == T - 3  # rows 1 to T - 3
    captured = np.concatenate([[-0.05], ROWS + LAG])
    shown = np.array([clock_time(np.asarray(frame)) for frame in store.episodes[0].frames]) - 1
    assert np.abs(shown - captured[1 : T - 2]).max() <= 0.001  # row n has frame n
    assert any("no <serial>_timestamps.json: frames are matched to rows by their number" in note for note in notes)
    assert any(f"another number of frames than rows ({T - 2} and {T})" in note for note in notes)


def test_unfinished_episodes_are_named(tmp_path: Path) -> None:
    raw(tmp_path / "in", "a")
    unfinished = raw(tmp_path / "in", "b")
    next(unfinished.glob("metadata_*.json")).unlink()
    (raw(tmp_path / "in", "c") / "recordings" / "MP4" / f"{SERIAL}.mp4").unlink()
    store, notes = imported("droid", tmp_path / "in", tmp_path / "store", camera="ext1")
    assert len(store.episodes) == 1
    assert "2 episodes are left out" in notes[0] and "b: no metadata_*.json" in notes[0]
    with pytest.raises(UserError, match=r"several cameras \(ext1, ext2, wrist\); choose one with --camera"):
        imported("droid", tmp_path / "in", tmp_path / "other")
    with pytest.raises(UserError, match=r"has no trajectory\.h5"):
        imported("droid", tmp_path / "in" / "nothing", tmp_path / "other")


def rlds_episode(number: int, steps: int = 6) -> dict[str, Any]:
    """A record of DROID's features, flattened as tfds writes them."""
    pictures = [encoded(clock_picture(number + t / 15), "PNG") for t in range(steps)]
    pose = poses(number)[:steps].astype(np.float32)
    texts = {"": b"close the lid", "_2": b"", "_3": b"shut  the lid"}
    return {
        "steps/observation/exterior_image_1_left": pictures,
        "steps/observation/wrist_image_left": pictures[::-1],
        "steps/observation/cartesian_position": pose.reshape(-1).tolist(),
        "steps/observation/gripper_position": np.linspace(0, 1, steps).tolist(),
        "steps/action_dict/joint_velocity": walk(steps, 7, number).reshape(-1).tolist(),
        "steps/action": walk(steps, 7, number).reshape(-1).tolist(),
        **{f"steps/language_instruction{suffix}": [text] * steps for suffix, text in texts.items()},
        "episode_metadata/file_path": [b"/lab/success/a/trajectory.h5"],
    }


def test_rlds_with_named_features(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    damaged = {**rlds_episode(2), "steps/observation/cartesian_position": [0.0] * 5}
    write(tmp_path / "in" / "droid-train.tfrecord-00000-of-00002", [rlds_episode(0), damaged])
    write(tmp_path / "in" / "droid-train.tfrecord-00001-of-00002", [rlds_episode(3)])
    camera = "exterior_image_1_left"
    store, notes = imported("droid-rlds", tmp_path / "in", tmp_path / "store", camera=camera, size=(SIDE, SIDE))
    assert [e.seed for e in store.episodes] == [0, 2]
    assert clock_time(np.asarray(store.episodes[1].frames[4])) == pytest.approx(3 + 4 / 15, abs=0.001)
    assert store.episodes[0].captions[0] == ("close the lid", "shut the lid")
    assert store.info.action.names[5:] == ("yaw", "gripper") and store.info.camera.dt == pytest.approx(1 / 15, rel=1e-4)
    assert "1 episodes are left out" in notes[0] and "has 5 numbers for 6 steps" in notes[0]
    store, _ = imported(
        "droid-rlds", tmp_path / "in", tmp_path / "joints", camera=camera, action_key="action_dict/joint_velocity"
    )
    np.testing.assert_array_equal(store.episodes[0].actions, walk(6, 7, 0)[:-1])
    with pytest.raises(UserError, match="several cameras"):
        imported("droid-rlds", tmp_path / "in", tmp_path / "other")
    with pytest.raises(UserError, match=r"unknown table of .* 'action_dict/nothing'"):
        imported("droid-rlds", tmp_path / "in", tmp_path / "other", camera=camera, action_key="action_dict/nothing")


def test_the_real_bridge_by_its_features(tmp_path: Path) -> None:
    """The reader of named features and Bridge's own find the same actions and states."""
    options = {"camera": "image_0", "action_key": "action", "state_key": "observation/state", "rate": 5.0}
    store, _ = imported("droid-rlds", real("bridge_sample.tfrecord"), tmp_path / "a", **options)
    other = EpisodeStore(import_rlds(real("bridge_sample.tfrecord"), tmp_path / "b", progress=False))
    assert len(store.episodes) == len(other.episodes) == 25
    for a, b in zip(store.episodes, other.episodes, strict=True):
        np.testing.assert_array_equal(a.actions, b.actions)
        np.testing.assert_array_equal(a.frames, b.frames)
        assert a.captions == b.captions
