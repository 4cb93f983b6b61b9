"""ROS bags of both versions, written here by ``rosbags``; image encodings against colours known by hand."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from hnet_vjepa.data.importers.ros_images import pixels
from hnet_vjepa.data.importers.ros_numbers import numbers_of
from hnet_vjepa.errors import UserError
from tests.data.recordings import SIDE, clock_picture, clock_time, encoded, imported, real

rosbag2 = pytest.importorskip("rosbags.rosbag2")
rosbag1 = pytest.importorskip("rosbags.rosbag1")
typesys = pytest.importorskip("rosbags.typesys")
FRAMES = np.cumsum([0, 0.1, 0.1, 0.13, 0.07, 0.1])  # seconds of the camera's pictures
JOINTS = np.arange(0, 0.7, 0.02)  # faster than the camera


def bag(path: Path, version: int = 2, start: float = 100.0, compress: bool = False, **more: Any) -> Path:
    """A camera, joint states and commands; joint 0 is the time since the start, its command a tenth more."""
    path.parent.mkdir(parents=True, exist_ok=True)
    store = typesys.get_typestore(typesys.Stores.ROS2_HUMBLE if version == 2 else typesys.Stores.ROS1_NOETIC)
    kinds = store.types

    def header(time: float) -> Any:
        stamp = kinds["builtin_interfaces/msg/Time"](sec=int(time), nanosec=round(time % 1 * 1e9))
        extra = {} if version == 2 else {"seq": 0}
        return kinds["std_msgs/msg/Header"](stamp=stamp, frame_id="", **extra)

    def joints(time: float, value: float) -> Any:
        empty = np.zeros(0)
        return kinds["sensor_msgs/msg/JointState"](
            header=header(time), name=["a", "b"], position=np.array([value, -value]), velocity=empty, effort=empty
        )

    def image(time: float) -> Any:
        shown = clock_picture(time - start + more.get("offset", 0.0))
        return kinds["sensor_msgs/msg/Image"](
            header=header(time),
            height=SIDE,
            width=SIDE,
            encoding="bgr8",
            is_bigendian=0,
            step=SIDE * 3 + 8,  # rows are padded
            data=np.pad(shown[..., ::-1].reshape(SIDE, -1), ((0, 0), (0, 8))).reshape(-1),
        )

    messages = [(start + t, "/cam/image_raw", "sensor_msgs/msg/Image", image(start + t)) for t in FRAMES]
    messages += [(start + t, "/joint_states", "sensor_msgs/msg/JointState", joints(start + t, t)) for t in JOINTS]
    messages += [(start + t, "/command", "sensor_msgs/msg/JointState", joints(start + t, t + 0.1)) for t in JOINTS]
    if version == 2:
        writer = rosbag2.Writer(path, version=9, storage_plugin=rosbag2.StoragePlugin.MCAP)
        if compress:
            writer.set_compression(rosbag2.CompressionMode.MESSAGE, rosbag2.CompressionFormat.ZSTD)
    else:
        writer = rosbag1.Writer(path)
    with writer:
        topics = {}
        for topic, kind in {(topic, kind) for _, topic, kind, _ in messages}:
            topics[topic] = writer.add_connection(topic, kind, typestore=store)
        for time, topic, kind, message in sorted(messages, key=lambda m: m[0]):
            late = round((time + 0.03) * 1e9)  # recorded 30 ms after the header's time
            data = (store.serialize_cdr if version == 2 else store.serialize_ros1)(message, kind)
            writer.write(topics[topic], late, data)
    return path


@pytest.mark.parametrize(("version", "compress"), [(2, False), (2, True), (1, False)])
def test_a_row_is_a_picture_with_the_last_messages_before_it(tmp_path: Path, version: int, compress: bool) -> None:
    path = bag(tmp_path / "in" / ("a" if version == 2 else "a.bag"), version, compress=compress)
    store, notes = imported("ros", path, tmp_path / "store", action_key="/command", size=(SIDE, SIDE))
    episode = store.episodes[0]
    assert np.abs(np.array([clock_time(np.asarray(f)) for f in episode.frames]) - FRAMES).max() <= 0.001
    assert episode.frames[0, 0, 0, 0] > episode.frames[0, 0, 0, 2]  # red again
    held = np.array([JOINTS[t + 1e-9 >= JOINTS][-1] for t in FRAMES])
    assert episode.states is not None
    np.testing.assert_allclose(episode.states, np.stack([held, -held], 1), atol=1e-6)
    np.testing.assert_allclose(episode.actions[:, 0], held[:-1] + 0.1, atol=1e-6)
    assert store.info.action.names == ("a", "b") and store.info.camera.name == "cam.image_raw"
    assert any("absolute targets" in note for note in notes)


def test_a_folder_of_bags_with_a_broken_one(tmp_path: Path) -> None:
    bag(tmp_path / "in" / "a")
    bag(tmp_path / "in" / "b", offset=5.0)
    (tmp_path / "in" / "c.mcap").write_bytes(b"\x89MCAP0\r\n" + b"0" * 50)
    store, notes = imported("ros", tmp_path / "in", tmp_path / "store")
    assert [e.seed for e in store.episodes] == [0, 1]
    assert clock_time(np.asarray(store.episodes[1].frames[0])) == pytest.approx(5.0)
    assert store.info.settings["actions"] == "differences"  # no command is named
    assert "1 episodes are left out" in notes[0] and "c.mcap is not a readable bag" in notes[0]
    with pytest.raises(UserError, match=r"unknown camera '/other'; choose one of: /cam/image_raw"):
        imported("ros", tmp_path / "in" / "a", tmp_path / "other", camera="/other")


def test_a_bag_whose_files_are_gone(tmp_path: Path) -> None:
    path = bag(tmp_path / "in" / "a")
    told = (path / "metadata.yaml").read_text()
    name = next(path.glob("*.mcap")).name
    (path / "metadata.yaml").write_text(told.replace(f"  - {name}", f"  - gone.mcap\n  - {name}", 1))
    store, notes = imported("ros", path, tmp_path / "store")
    assert len(store.episodes[0]) == len(FRAMES)
    assert any("1 of 2 files that metadata.yaml names are gone, the first is gone.mcap" in note for note in notes)


def test_a_bag_that_lost_everything_beside_a_whole_one(tmp_path: Path) -> None:
    bag(tmp_path / "in" / "a")
    next(bag(tmp_path / "in" / "b").glob("*.mcap")).unlink()
    store, notes = imported("ros", tmp_path / "in", tmp_path / "store")
    assert len(store.episodes) == 1
    assert "1 episodes are left out" in notes[0] and "none of the files that metadata.yaml names is there" in notes[0]


def test_the_real_bag_that_lost_its_files(tmp_path: Path) -> None:
    store, notes = imported("ros", real("mcap"), tmp_path / "store")
    assert any("12 of 13 files that metadata.yaml names are gone" in note for note in notes)
    assert store.episodes[0].frames.shape[1:] == (64, 64, 3) and np.asarray(store.episodes[0].frames).std() > 5


def message(encoding: str, rows: NDArray[Any], width: int, **more: Any) -> SimpleNamespace:
    told = {"height": len(rows), "width": width, "step": rows[0].nbytes, "is_bigendian": 0, "data": rows.tobytes()}
    return SimpleNamespace(encoding=encoding, **{**told, **more})


@pytest.mark.parametrize(
    ("encoding", "pixel"), [("rgb8", "RGB"), ("bgr8", "BGR"), ("rgba8", "RGBA"), ("bgra8", "BGRA"), ("8UC3", "BGR")]
)
def test_colour_encodings(encoding: str, pixel: str) -> None:
    values = {"R": 200, "G": 100, "B": 50, "A": 7}
    rows = np.array([[values[name] for name in pixel] * 3] * 2, np.uint8)
    assert pixels(message(encoding, rows, 3), "a").tolist() == [[[200, 100, 50]] * 3] * 2


@pytest.mark.parametrize("pattern", ["rggb", "bggr", "gbrg", "grbg"])
def test_bayer_encodings(pattern: str) -> None:
    values = {"r": 200, "g": 100, "b": 50}
    cell = np.array([values[name] for name in pattern], np.uint8).reshape(2, 2)
    shown = pixels(message(f"bayer_{pattern}8", np.tile(cell, (2, 3)), 6), "a")
    assert shown.shape == (4, 6, 3) and (shown == (200, 100, 50)).all()


def test_grey_and_what_is_refused() -> None:
    grey = np.array([[0, 128, 255]], np.uint8)
    assert pixels(message("mono8", grey, 3), "a")[0, 1].tolist() == [128] * 3
    deep = np.array([[0, 0x8001, 0xFFFF]], "<u2")
    assert pixels(message("mono16", deep, 3), "a")[0, :, 0].tolist() == [0, 128, 255]
    big = message("mono16", deep.astype(">u2"), 3, is_bigendian=1)
    assert pixels(big, "a")[0, :, 0].tolist() == [0, 128, 255]
    with pytest.raises(UserError, match="/depth message 3 is a depth picture"):
        pixels(message("16UC1", deep, 3), "/depth message 3")
    with pytest.raises(UserError, match="is a depth picture"):
        pixels(SimpleNamespace(format="16UC1; compressedDepth png", data=b""), "a")
    with pytest.raises(UserError, match="has the encoding yuv422; read are rgb8"):
        pixels(message("yuv422", grey, 3), "a")
    with pytest.raises(UserError, match="has 3 bytes for 2 x 3 pixels of mono8"):
        pixels(message("mono8", grey, 3, height=2), "a")
    png = SimpleNamespace(format="png", data=encoded(clock_picture(1.5)))
    assert clock_time(pixels(png, "a")) == pytest.approx(1.5)


def test_twists_poses_and_arrays() -> None:
    axis = SimpleNamespace
    turn = np.sin(np.pi / 8)  # a quarter of pi about z
    pose = axis(position=axis(x=1, y=2, z=3), orientation=axis(x=0, y=0, z=turn, w=np.cos(np.pi / 8)))
    found = numbers_of([(1.0, axis(pose=pose))], "/p", "bag")
    np.testing.assert_allclose(found.rows[0], [1, 2, 3, 0, 0, np.pi / 4], atol=1e-6)
    twist = axis(twist=axis(linear=axis(x=1, y=2, z=3), angular=axis(x=4, y=5, z=6)))
    assert numbers_of([(1.0, twist)], "/t", "bag").rows.tolist() == [[1, 2, 3, 4, 5, 6]]
    arrays = [(2.0, axis(data=[3, 4])), (1.0, axis(data=[1, 2]))]
    assert numbers_of(arrays, "/a", "bag").rows.tolist() == [[1, 2], [3, 4]]  # in order of time
    with pytest.raises(UserError, match="bag: /a message 1 has other numbers than the first"):
        numbers_of([(1.0, axis(data=[1, 2])), (2.0, axis(data=[1]))], "/a", "bag")
