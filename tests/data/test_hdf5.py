"""HDF5 demonstrations in the layouts of robomimic, LIBERO and ALOHA."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hnet_vjepa.data.importers import optional
from hnet_vjepa.data.importers.registry import format_named
from hnet_vjepa.data.importers.tracks import ImportOptions
from hnet_vjepa.errors import UserError
from tests.data.recordings import SIDE, clock_picture, clock_time, encoded, imported, walk

h5py = pytest.importorskip("h5py")
T = 6


def robomimic(file: Path, upside_down: bool = False, **attributes: Any) -> Path:
    """Three demonstrations; the pictures show the second 10 * demonstration + row."""
    with h5py.File(file, "w") as root:
        data = root.create_group("data")
        for name, value in attributes.items():
            data.attrs[name] = json.dumps(value)
        for number in (0, 2, 10):
            demo = data.create_group(f"demo_{number}")
            pictures = np.stack([clock_picture(number + t / 10) for t in range(T)])
            demo["obs/agentview_image"] = pictures[:, ::-1] if upside_down else pictures
            demo["obs/eye_in_hand_image"] = pictures + 0
            for key, width in (("robot0_eef_pos", 3), ("robot0_eef_quat", 4), ("robot0_gripper_qpos", 2)):
                demo[f"obs/{key}"] = walk(T, width, number).astype(np.float64)
            demo["actions"] = np.random.default_rng(number).uniform(-1, 1, (T, 7))
            demo["states"] = np.zeros((T, 40))
    return file


def test_robomimic_lies_upside_down(tmp_path: Path) -> None:
    file = robomimic(tmp_path / "image.hdf5", upside_down=True, env_args={"env_kwargs": {"control_freq": 20}})
    with pytest.raises(UserError, match=r"several cameras \(agentview_image, eye_in_hand_image\)"):
        imported("hdf5", file, tmp_path / "none")
    store, notes = imported("hdf5", file, tmp_path / "store", camera="agentview_image", flip="vertical")
    assert store.info.camera.dt == pytest.approx(0.05) and not any("--rate" in note for note in notes)
    assert clock_time(np.asarray(store.episodes[2].frames[3])) == pytest.approx(10.3)  # natural order: 10 is last
    expected = np.random.default_rng(2).uniform(-1, 1, (T, 7))[:-1].astype(np.float32)
    np.testing.assert_array_equal(store.episodes[1].actions, expected)
    assert store.info.action.absolute == () and store.info.action.names[6] == "actions.6"
    assert len(store.info.states) == 9 and store.info.states[3] == "robot0_eef_quat.0"
    turned, _ = imported("hdf5", file, tmp_path / "turned", camera="agentview_image", flip="turned")
    np.testing.assert_array_equal(turned.episodes[0].frames, np.asarray(store.episodes[0].frames)[:, :, ::-1])


def test_libero_says_what_is_done(tmp_path: Path) -> None:
    told = {"language_instruction": '"turn on the stove"'}
    file = robomimic(tmp_path / "a.hdf5", problem_info=told)
    store, notes = imported("hdf5", file, tmp_path / "store", camera="eye_in_hand_image", rate=10.0)
    assert store.episodes[0].captions[0] == ("turn on the stove",) and store.info.camera.dt == pytest.approx(0.1)
    _, notes = imported("hdf5", file, tmp_path / "usual", camera="eye_in_hand_image")
    assert any("taken as 20 rows per second (--rate)" in note for note in notes)


@pytest.mark.parametrize("kind", ["array", "padded", "strings"])
def test_aloha(tmp_path: Path, kind: str) -> None:
    (tmp_path / "in").mkdir()
    for number in range(2):
        pictures = [clock_picture(number + t / 50) for t in range(T)]
        with h5py.File(tmp_path / "in" / f"episode_{number}.hdf5", "w") as root:
            qpos = walk(T + 1, 14, number)
            root["observations/qpos"], root["observations/qvel"], root["action"] = qpos[:-1], qpos[:-1], qpos[1:]
            if kind == "array":
                root["observations/images/cam_high"] = np.stack(pictures)
                continue
            data = [encoded(picture[..., ::-1], "PNG") for picture in pictures]  # as OpenCV writes RGB
            if kind == "strings":
                root.create_dataset("observations/images/cam_high", data=np.array(data, "S"))
            else:
                longest = max(map(len, data))
                padded = [np.frombuffer(d.ljust(longest, b"\0"), np.uint8) for d in data]
                root["observations/images/cam_high"] = np.stack(padded)
    store, notes = imported("hdf5", tmp_path / "in", tmp_path / "store", bgr=kind != "array", size=(SIDE, SIDE))
    assert store.info.action.absolute == tuple(range(14)) and len(store.info.states) == 14
    assert [clock_time(np.asarray(f)) for f in store.episodes[1].frames] == pytest.approx(
        [1 + t / 50 for t in range(T)]
    )
    assert (
        np.asarray(store.episodes[0].frames)[..., 0].mean() > np.asarray(store.episodes[0].frames)[..., 2].mean() + 30
    )
    assert any("taken as 50 rows per second" in note for note in notes)


def test_damage_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = robomimic(tmp_path / "a.hdf5")
    options: dict[str, Any] = {"camera": "agentview_image"}
    with h5py.File(file, "a") as root:
        del root["data/demo_2/actions"]
        root["data/demo_2/actions"] = np.zeros((T - 1, 7))
        root["data/demo_10/actions"][4, 2] = np.nan
    store, notes = imported("hdf5", file, tmp_path / "store", **options)
    assert len(store.episodes) == 1
    assert "2 episodes are left out; the first is" in notes[0]
    assert "demo_2: tables of different lengths (robot0_eef_pos 6" in notes[0]
    found = format_named("hdf5").read(file, ImportOptions(**options))
    assert [track.where.rsplit("/", 1)[-1] for track in found.tracks] == ["demo_0", "demo_10"]
    with pytest.raises(UserError, match=r"unknown table of .* 'nothing'"):
        imported("hdf5", file, tmp_path / "other", state_key="nothing", **options)
    (tmp_path / "cut.h5").write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match=r"cut\.h5 is not a readable HDF5 file"):
        imported("hdf5", tmp_path / "cut.h5", tmp_path / "other", **options)
    with h5py.File(tmp_path / "other.h5", "w") as root:
        root["x"] = [1]
    with pytest.raises(UserError, match=r"other\.h5 has neither 'data' .* nor 'observations' \(ALOHA\): x"):
        imported("hdf5", tmp_path / "other.h5", tmp_path / "other", **options)

    def absent(name: str) -> Any:
        raise ImportError(name)

    monkeypatch.setattr(optional.importlib, "import_module", absent)
    with pytest.raises(
        UserError, match=r"^reading HDF5 files needs the package h5py; pip install 'hnet-vjepa\[data\]'$"
    ):
        optional.need("h5py", "HDF5 files")
