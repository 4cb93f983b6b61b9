"""Importing a folder of recordings: the good ones exactly, the bad ones with the folder's name and the fix."""

from __future__ import annotations

import json
import shutil
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from hnet_vjepa.data.importers import base
from hnet_vjepa.data.importers.folder import import_folder
from hnet_vjepa.data.store import EpisodeStore, plan_shards, write_shard
from hnet_vjepa.data.video import read_video
from hnet_vjepa.errors import UserError
from tests.data.test_video import LEVELS, assert_alike, moving_frames, write_pictures, write_video

T = len(LEVELS)


def csv(header: str, rows: int, value: Callable[[int, int], object] = lambda row, column: row + 0.5 * column) -> str:
    width = len(header.split(","))
    return "\n".join([header, *(",".join(str(value(r, c)) for c in range(width)) for r in range(rows))]) + "\n"


def record(root: Path, name: str = "episode-0", video: str | None = None, **files: str | None) -> Path:
    """Make an episode folder with a recording of T frames, actions.csv of T - 1 rows, and the files given."""
    folder = root / name
    folder.mkdir(parents=True)
    (folder / "notes.md").write_text(name)  # so that no two are copies of each other
    if video is None:
        write_pictures(folder, moving_frames())
    else:
        write_video(folder / video, "libvpx-vp9" if video.endswith("webm") else "libx264", moving_frames())
    for stem, text in {"actions": csv("x,y", T - 1), **files}.items():
        if text is not None:
            (folder / f"{stem}.{'txt' if stem == 'captions' else 'csv'}").write_text(text)
    return folder


def quiet(path: Path, out: Path, **options: Any) -> EpisodeStore:
    return EpisodeStore(import_folder(path, out, **{"size": (24, 32), "dt": 0.2, "progress": False, **options}))


def refused(root: Path, complaint: str, **options: Any) -> str:
    with pytest.raises(UserError, match=complaint) as caught:
        quiet(root, root.parent / "store", **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("video", [None, "camera.mp4", "camera.webm"])
def test_everything_arrives(tmp_path: Path, video: str | None) -> None:
    root = tmp_path / "recordings"
    for number in (10, 2):  # natural order: 2 comes first
        record(
            root,
            f"episode-{number}",
            video,
            actions=csv("x,y", T - 1, lambda row, column, n=number: n + row + 0.5 * column),  # type: ignore[misc]
            captions="move it\n" if number == 2 else "one\n\nthree\nfour\nfive\n",
            states=csv("angle [rad],speed", T),
            labels=csv("done,held", T, lambda row, column: int(row == T - 1)) if number == 2 else "done,held\n0,1\n",
        )
    notes: list[str] = []
    store = quiet(root, tmp_path / "store", camera=None, report=notes.append)
    assert store.info.source == "folder"
    assert (store.info.camera.height, store.info.camera.width, store.info.camera.dt) == (24, 32, 0.2)
    assert store.info.states == ("angle [rad]", "speed") and store.info.labels == ("done", "held")
    first, second = store.episodes
    for episode, number in ((first, 2), (second, 10)):
        assert_alike(episode.frames)
        rows = np.arange(T - 1)[:, None] + number + np.array([0, 0.5])
        np.testing.assert_array_equal(episode.actions, rows.astype(np.float32))
        assert episode.states is not None and episode.states[T - 1].tolist() == [T - 1, T - 0.5]
    assert first.captions == (("move it",),) * T
    assert second.captions == (("one",), (), ("three",), ("four",), ("five",))
    assert first.labels is not None and first.labels[:, 0].tolist() == [0] * (T - 1) + [1]
    assert second.labels is not None and second.labels.tolist() == [[0, 1]] * T
    action = store.info.action
    assert (action.names, action.units, action.active) == (("x", "y"), ("unknown", "unknown"), (0, 1))
    assert (action.low, action.high) == ((2.0, 2.5), (10.0 + T - 2, 10.5 + T - 2))
    assert len(notes) == 1 and "no robot.json: the bounds are those of the recorded actions (x 2 to 13" in notes[0]


def test_a_row_per_frame_drops_the_last(tmp_path: Path) -> None:
    record(
        tmp_path / "in", actions="\ufeff" + csv(" x , y ", T).replace("\n", "\r\n") + "\r\n\r\n"
    )  # from a spreadsheet
    store = quiet(tmp_path / "in", tmp_path / "store")
    assert store.info.action.names == ("x", "y")
    assert store.episodes[0].actions[:, 0].tolist() == list(range(T - 1))


def test_robot_json_names_bounds_and_activates(tmp_path: Path) -> None:
    root = tmp_path / "in"
    record(root, actions=csv("time,y,x,grip", T - 1, lambda row, column: [row * 0.2, 5, row, 1][column]))
    robot: dict[str, list[Any]] = {
        "names": ["x", "y", "grip"],
        "low": [-1, -1, 0],
        "high": [2, 9, 1],
        "active": [0, 2],
        "units": ["m"] * 3,
        "absolute": [2],
    }
    (root / "robot.json").write_text(json.dumps(robot))
    notes: list[str] = []
    store = quiet(root, tmp_path / "store", report=notes.append)
    told = store.info.action.model_dump(exclude={"mean", "std"})
    assert told == {k: tuple(v) for k, v in robot.items()} | {"rate": None, "l1": None}
    expected = np.stack([np.arange(T - 1), np.zeros(T - 1), np.ones(T - 1)], 1)
    np.testing.assert_array_equal(store.episodes[0].actions, expected)
    assert notes == [
        "columns that robot.json does not name are ignored: time",
        "columns that robot.json does not list as active are set to zero: y",
        f"1 of {T - 1} actions exceed the bounds in robot.json; planned actions will not",
    ]


def test_a_column_that_is_always_zero_is_not_active(tmp_path: Path) -> None:
    record(tmp_path / "in", actions=csv("x,y,grip", T - 1, lambda row, column: [row, 0, 1][column]))
    assert quiet(tmp_path / "in", tmp_path / "store").info.action.active == (0, 2)


def test_an_interrupted_import_is_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "plan_shards", partial(plan_shards, target=1))
    root, out = tmp_path / "in", tmp_path / "store"
    for number in range(4):
        record(root, f"e{number}")
    whole = quiet(root, tmp_path / "whole").fingerprint()

    def killed(path: Path, number: int, *rest: object) -> None:
        if number == 2:
            raise UserError("the disk is full")
        write_shard(path, number, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(base, "write_shard", killed)
    refused(root, "the disk is full")
    monkeypatch.setattr(base, "write_shard", write_shard)
    assert sorted(entry.name for entry in (out / "shards").iterdir()) == ["00000", "00001"]
    with pytest.raises(UserError, match="half-written: 2 of 4"):
        EpisodeStore(out)
    stamp = (out / "shards" / "00000").stat().st_mtime_ns
    assert quiet(root, out).fingerprint() == whole
    assert (out / "shards" / "00000").stat().st_mtime_ns == stamp  # was not decoded again
    refused(root, r"other episodes \(camera differ\)", size=(16, 16))
    table = (root / "e1" / "actions.csv").read_text()
    (root / "e1" / "actions.csv").write_text(table.replace("0", "1"))  # of the same size
    refused(root, r"other episodes \((action, )?settings differ\)")
    (root / "e1" / "actions.csv").write_text(table)
    record(root, "e4")
    refused(root, "other episodes")


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"actions": csv("x,y", T + 1)}, f"{T} frames and {T + 1} rows in actions.csv; .*{T - 1} rows .* or {T}"),
        ({"actions": csv("x,y", T - 2)}, f"{T} frames and {T - 2} rows in actions.csv"),
        ({"actions": "x,y\n"}, "actions.csv has no rows"),
        ({"actions": ""}, "first line must name the columns"),
        (
            {"actions": csv("x,y", T - 1, lambda r, c: "nan" if r == 2 else r)},
            "line 4, column x: 'nan' is not a finite",
        ),
        ({"actions": csv("x,y", T - 1, lambda r, c: "1e39" if c else r)}, "line 2, column y: '1e39' is not a finite"),
        ({"actions": csv("x,y", T - 1, lambda r, c: "" if r == 1 and c else r)}, "line 3, column y: ''"),
        ({"actions": csv("x,y", T - 1, lambda r, c: "up")}, "'up' is not a finite number"),
        ({"actions": "1,2\n3,4\n"}, "first line must name the columns"),
        ({"actions": "x,x\n3,4\n"}, "each once"),
        ({"actions": "x,\n3,4\n"}, "must name the columns"),
        ({"actions": "x;y\n3;4\n"}, "separated by commas"),
        ({"actions": csv("x,y", T - 1) + "1,2,3\n"}, f"line {T + 1} has 3 numbers; the header has 2"),
        ({"actions": csv("x,timestamp", T - 1)}, "'timestamp' does not look like an action; .*robot.json"),
        ({"actions": csv("x,y", T - 1, lambda r, c: 0)}, "all actions are zero"),
        ({"actions": 'x,y\n"1,2\n'}, "line 2"),
        ({"captions": "one\ntwo\n"}, f"{T} frames and 2 lines in captions.txt; needs 1 .* or {T}"),
        ({"states": csv("a", T - 1)}, f"{T} frames and {T - 1} rows in states.csv; needs {T}$"),
        ({"states": csv("a", T, lambda r, c: "inf")}, "'inf' is not a finite number"),
        ({"labels": csv("a", 2, lambda r, c: 1)}, f"2 rows in labels.csv; needs {T} or 1"),
        ({"labels": csv("a", T)}, "labels.csv: line 4, column a: 2 is neither 0 nor 1"),
    ],
)
def test_wrong_tables_are_refused(tmp_path: Path, files: dict[str, str | None], complaint: str) -> None:
    record(tmp_path / "in", "lift", **files)
    message = refused(tmp_path / "in", complaint)
    assert "lift" in message or "all actions are zero" in message


@pytest.mark.parametrize(
    ("files", "complaint"),
    [
        ({"actions": csv("x,z", T - 1)}, "b/actions.csv: the columns are x, z; .*a/actions.csv has x, y"),
        ({"actions": None}, r"b has no actions\.csv, but .*a has one"),
        ({"states": None}, "b has no states.csv, but .*a has one"),
        ({"labels": csv("other", T, lambda r, c: 0)}, "b/labels.csv: the columns are other; .* has held"),
        ({"states": csv("s,t", T)}, "b/states.csv: the columns are s, t"),
    ],
)
def test_episodes_must_agree(tmp_path: Path, files: dict[str, str | None], complaint: str) -> None:
    tables = {"states": csv("s", T), "labels": csv("held", T, lambda r, c: 1)}
    record(tmp_path / "in", "a", **tables)
    record(tmp_path / "in", "b", **{**tables, **files})
    refused(tmp_path / "in", complaint)


def test_an_episode_without_states_before_one_with_is_refused(tmp_path: Path) -> None:
    record(tmp_path / "in", "a")
    record(tmp_path / "in", "b", states=csv("s", T))
    refused(tmp_path / "in", "a has no states.csv, but .*b has one; give all episodes one or none")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "robot.json is not a JSON object"),
        ("[1]", "is missing"),
        ("3", "not a JSON object"),
        ('{"names": ["x"], "low": [0]}', "'high' is missing"),
        ('{"names": ["x", "y"], "low": [0], "high": [1, 1]}', "low has 1 entries; names has 2"),
        ('{"names": ["x", "y"], "low": [0, 5], "high": [1, 1]}', "low must not be above high; y has 5 and 1"),
        ('{"names": ["x", "q"], "low": [0, 0], "high": [1, 1]}', "no column q; .*robot.json names x, q"),
        ('{"names": ["x"], "low": [0], "high": [1], "active": [3]}', "active must be rising indices"),
        ('{"names": ["x"], "low": [0], "high": [1], "speed": 3}', "speed: Extra inputs"),
        ('{"names": 5, "low": [0], "high": [1]}', "not a JSON object"),
        ('{"names": ["x"], "low": ["slow"], "high": [1]}', "low.0: Input should be a valid number"),
    ],
)
def test_wrong_robots_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    record(tmp_path / "in")
    (tmp_path / "in" / "robot.json").write_text(text)
    refused(tmp_path / "in", complaint)


def test_recordings_of_different_sizes_are_said(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        record(tmp_path / "in", name)
    notes: list[str] = []
    quiet(tmp_path / "in", tmp_path / "alike", report=notes.append)
    assert not any("sizes" in note for note in notes)
    write_pictures(tmp_path / "in" / "b", moving_frames(height=32))
    quiet(tmp_path / "in", tmp_path / "other", report=notes.append)
    says = (
        "different sizes (height x width): 48 x 64 in 2 (the first is a), 32 x 64 in 1 (the first is b); each is scaled"
    )
    assert says in notes[-1]
    write_pictures(tmp_path / "in" / "c", moving_frames(LEVELS[:1], height=24))
    refused(tmp_path / "in", "c: 0000.png has 24 x 64 pixels but 0001.png has 48 x 64 pixels")


def test_wrong_places_are_refused(tmp_path: Path) -> None:
    root = tmp_path / "in"
    refused(root, "is not a directory")
    root.mkdir()
    refused(root, "has no episode folders")
    episode = record(root, "a")
    refused(episode, "is itself an episode; give the folder that holds it")
    refused(root, "dt: Input should be greater than 0", dt=0.0)
    with pytest.raises(UserError, match="is inside"):
        quiet(root, root / "store")
    for file in episode.glob("*.png"):
        file.unlink()
    refused(root, "a has no recording")
    write_pictures(episode, moving_frames()[:1])
    (episode / "actions.csv").write_text(csv("x,y", 1))
    refused(root, "1 frames and 1 rows in actions.csv; needs at least 2 frames")
    (episode / "actions.csv").write_bytes(b"\xff\xfe\x00")
    refused(root, "is not UTF-8")
    assert not (tmp_path / "store").exists() or not (tmp_path / "store" / "shards").exists()


def test_pictures_that_begin_with_one(tmp_path: Path) -> None:
    """Eleven rows for the pictures 1 to 11: is the first picture missing, or the last row one too many?"""
    folder = record(tmp_path / "in", actions=csv("x,y", T))
    notes: list[str] = []
    quiet(tmp_path / "in", tmp_path / "zero", report=notes.append)
    assert any("1 episodes have as many rows of actions as frames" in note for note in notes)
    for number in reversed(range(T)):
        (folder / f"{number:04d}.png").rename(folder / f"{number + 1:04d}.png")
    refused(tmp_path / "in", "episode-0: as many rows in actions.csv as frames, but the pictures begin with number 1")
    (folder / "actions.csv").write_text(csv("x,y", T - 1))
    assert len(quiet(tmp_path / "in", tmp_path / "one").episodes[0]) == T


def test_a_video_that_hides_its_first_frame(tmp_path: Path) -> None:
    """An edit list that begins after the first frame, as a cut without encoding again leaves it."""
    folder = record(tmp_path / "in", video="camera.mp4", actions=csv("x,y", T))
    hide_first_frame(folder / "camera.mp4")
    assert len(read_video(folder / "camera.mp4", (48, 64))) == T - 1
    (folder / "actions.csv").write_text(csv("x,y", T - 1))
    refused(tmp_path / "in", r"as frames, but the video hides 1 frames \(its edit list\)")


def hide_first_frame(file: Path) -> None:
    """Set the start of an MP4's edit to its second frame's time."""
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        times = sorted(packet.pts for packet in container.demux(stream) if packet.pts is not None)
        step = times[1] - times[0]
    data = bytearray(file.read_bytes())
    entry = data.index(b"elst") + 4 + 4 + 4  # after version and flags, and the number of entries: duration, start
    duration, start = struct.unpack(">Ii", data[entry : entry + 8])
    data[entry : entry + 8] = struct.pack(">Ii", duration, start + step)
    file.write_bytes(data)


def test_an_outlier_is_refused_by_name(tmp_path: Path) -> None:
    for number in range(30):
        wiggle = lambda r, c, n=number: 1e6 if (n, r, c) == (7, 2, 0) else 0.03 * np.sin(n + r + c)  # noqa: E731
        record(tmp_path / "in", f"e{number:02d}", actions=csv("x,y", T - 1, wiggle))
    refused(tmp_path / "in", r"1 outliers in the actions; .*e07: row 2, x is 1e\+06 \(expected .*--outliers clip")
    notes: list[str] = []
    store = quiet(tmp_path / "in", tmp_path / "clipped", outliers="clip", report=notes.append)
    assert any("1 outliers are clipped; the first is" in note and "e07: row 2" in note for note in notes)
    actions = np.concatenate([e.actions for e in store.episodes])
    assert np.abs(actions).max() < 0.031
    assert quiet(tmp_path / "in", tmp_path / "kept", outliers="keep").episodes[7].actions[2, 0] == 1e6


def test_a_copy_of_an_episode_is_left_out(tmp_path: Path) -> None:
    record(tmp_path / "in", "a")
    record(tmp_path / "in", "b", actions=csv("x,y", T - 1, lambda row, column: 1 + row))
    shutil.copytree(tmp_path / "in" / "a", tmp_path / "in" / "c")
    notes: list[str] = []
    assert len(quiet(tmp_path / "in", tmp_path / "store", report=notes.append).episodes) == 2
    assert any("1 episodes are left out" in note and "c: it is the same as" in note for note in notes)
