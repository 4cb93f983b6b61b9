"""The episode store gives back what was written, or says in one line why it cannot."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnet_vjepa.data import store as store_module
from hnet_vjepa.data.store import (
    Episode,
    EpisodeStore,
    StoreInfo,
    create_store,
    plan_shards,
    read_info,
    write_shard,
)
from hnet_vjepa.errors import UserError
from hnet_vjepa.specs import ActionSpec, CameraSpec


def make_info(shards: int = 2, states: int = 2, labels: int = 3, size: tuple[int, int] = (6, 8)) -> StoreInfo:
    return StoreInfo(
        source="test",
        camera=CameraSpec(height=size[0], width=size[1], dt=0.1),
        action=ActionSpec(names=("x", "y", "z"), units=("m",) * 3, low=(-9,) * 3, high=(9,) * 3, active=(0, 2)),
        shards=shards,
        states=tuple(f"s{i}" for i in range(states)),
        labels=tuple(f"l{i}" for i in range(labels)),
        settings={"seed": 1, "speed": 0.1, "name": "a"},
    )


def make_episode(info: StoreInfo, index: int, length: int = 5) -> Episode:
    generator = np.random.default_rng(index)
    actions = generator.normal(size=(length - 1, info.action.dim)).astype(np.float32)
    actions[:, 1] = 0
    sentences = ("", "to the left", "ünïcode")
    return Episode(
        index=index,
        seed=index + 100,
        frames=generator.integers(0, 256, (length, info.camera.height, info.camera.width, 3), np.uint8),
        actions=actions,
        captions=tuple(tuple(sentences[: generator.integers(0, 4)]) for _ in range(length)),
        states=generator.normal(size=(length, len(info.states))).astype(np.float32) if info.states else None,
        labels=generator.integers(0, 2, (length, len(info.labels)), np.uint8) if info.labels else None,
    )


def make_store(path: Path, info: StoreInfo, per_shard: int = 3, length: int = 5) -> None:
    done = create_store(path, info)
    for number in set(range(info.shards)) - done:
        episodes = [make_episode(info, number * per_shard + i, length) for i in range(per_shard)]
        write_shard(path, number, info, episodes)


def replace(episode: Episode, **change: Any) -> Episode:
    return Episode(**{**episode.__dict__, **change})


def same(a: Episode, b: Episode) -> bool:
    arrays = all(np.array_equal(getattr(a, k), getattr(b, k)) for k in ("frames", "actions", "states", "labels"))
    return arrays and (a.index, a.seed, a.captions) == (b.index, b.seed, b.captions)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.lists(st.integers(2, 9), min_size=1, max_size=4), min_size=1, max_size=3),
    size=st.tuples(st.integers(1, 9), st.integers(1, 9)),
    states=st.integers(0, 3),
    labels=st.integers(0, 3),
)
def test_round_trip(lengths: list[list[int]], size: tuple[int, int], states: int, labels: int) -> None:
    info = make_info(len(lengths), states, labels, size)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "store"
        assert create_store(path, info) == set()
        written, index = [], 0
        for number, shard in enumerate(lengths):
            episodes = [make_episode(info, index + i, length) for i, length in enumerate(shard)]
            index += len(episodes)
            written += episodes
            write_shard(path, number, info, episodes)
        store = EpisodeStore(path)
        store.verify()
        assert store.info == info == read_info(path)
        assert [len(e) for e in store.episodes] == [length for shard in lengths for length in shard]
        assert all(same(a, b) for a, b in zip(store.episodes, written, strict=True))
        assert not store.episodes[0].frames.flags.writeable
        assert create_store(path, info) == set(range(len(lengths)))


def test_episodes_come_in_order_whatever_shard_holds_them(tmp_path: Path) -> None:
    info = make_info()
    create_store(tmp_path, info)
    write_shard(tmp_path, 0, info, [make_episode(info, 3), make_episode(info, 0)])
    write_shard(tmp_path, 1, info, [make_episode(info, 2), make_episode(info, 1)])
    assert [e.index for e in EpisodeStore(tmp_path).episodes] == [0, 1, 2, 3]


def test_splits_are_disjoint_and_complete(tmp_path: Path) -> None:
    make_store(tmp_path, make_info(3), per_shard=9)
    store = EpisodeStore(tmp_path)
    train, held_out, every = ([e.index for e in store.split(name)] for name in ("train", "held_out", "all"))  # type: ignore[arg-type]
    assert held_out == [9, 19]
    assert sorted(train + held_out) == every == list(range(27))
    store.split("all").clear()
    assert len(store.episodes) == 27
    with pytest.raises(UserError, match="unknown split 'test'; choose one of: train, held_out, all"):
        store.split("test")  # type: ignore[arg-type]


def test_fingerprint_covers_everything(tmp_path: Path) -> None:
    info = make_info(1)
    base = make_episode(info, 0)
    assert base.states is not None and base.labels is not None
    changes: list[dict[str, Any]] = [
        {},
        {"seed": 5},
        {"frames": base.frames ^ (np.arange(base.frames.size).reshape(base.frames.shape) == 700).astype(np.uint8)},
        {"actions": base.actions * np.float32(0.5)},
        {"states": base.states + 1},
        {"labels": 1 - base.labels},
        {"captions": ((), *base.captions[1:], ())[: len(base)]},
    ]
    prints = []
    for number, change in enumerate(changes):
        path = tmp_path / str(number)
        create_store(path, info)
        write_shard(path, 0, info, [replace(base, **change)])
        prints.append(EpisodeStore(path).fingerprint())
        again = EpisodeStore(shutil.copytree(path, tmp_path / f"{number}-copy"))
        assert again.fingerprint() == prints[-1]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"frames": np.zeros((5, 6, 9, 3), np.uint8)}, "6 x 8 x 3"),
        ({"frames": np.zeros((5, 6, 8, 3), np.float32)}, "uint8"),
        ({"frames": np.zeros((5, 1, 6, 8, 3), np.uint8)}, "frames of shape"),
        ({"frames": np.zeros((4, 6, 8, 3), np.uint8)}, "one action less"),
        ({"actions": np.zeros((4, 2), np.float32)}, "2 numbers; this robot takes 3"),
        ({"actions": np.full((4, 3), np.nan, np.float32)}, "NaN"),
        ({"actions": np.full((4, 3), 1e30) ** 2}, "infinity"),
        ({"actions": np.ones((4, 3), np.float32)}, "moves y, which"),
        ({"captions": ((),) * 4}, "4 caption lists"),
        ({"captions": ("abc",) * 5}, "caption list"),
        ({"states": None}, "states of shape None"),
        ({"states": np.zeros((5, 3), np.float32)}, "states of shape"),
        ({"states": np.full((5, 2), np.inf, np.float32)}, "infinity"),
        ({"labels": np.zeros((4, 3), np.uint8)}, "labels of shape"),
        ({"labels": np.full((5, 3), 2, np.uint8)}, "neither 0 nor 1"),
    ],
)
def test_episodes_that_do_not_fit_are_refused(tmp_path: Path, change: dict[str, Any], complaint: str) -> None:
    info = make_info()
    create_store(tmp_path, info)
    with pytest.raises(UserError, match=complaint) as caught:
        write_shard(tmp_path, 0, info, [make_episode(info, 6), replace(make_episode(info, 7), **change)])
    assert "episode 7" in str(caught.value)
    assert create_store(tmp_path, info) == set()


def test_half_written_store_names_the_missing_shard(tmp_path: Path) -> None:
    info = make_info(4)
    make_store(tmp_path, info)
    whole = EpisodeStore(tmp_path).fingerprint()
    shutil.rmtree(tmp_path / "shards" / "00002")
    with pytest.raises(UserError, match=r"half-written: 1 of 4 shards are missing .*00002"):
        EpisodeStore(tmp_path)
    assert create_store(tmp_path, info) == {0, 1, 3}
    make_store(tmp_path, info)
    assert EpisodeStore(tmp_path).fingerprint() == whole


def _damage(shard: Path, how: str) -> None:
    file = shard / ("frames.npy" if "frames" in how else "shard.json" if "json" in how else "actions.npy")
    if how.startswith("missing"):
        file.unlink()
    elif how.startswith("empty"):
        file.write_bytes(b"")
    elif how.startswith("cut"):
        file.write_bytes(file.read_bytes()[:-7])
    elif how.startswith("garbage"):
        file.write_bytes(b"\x93NUMPY" + os.urandom(300))
    elif how == "other json":
        file.write_text('{"episodes": [{"length": "many"}]}')
    elif how == "a list json":
        file.write_text("[1, 2]")
    elif how == "short captions json":
        summary = json.loads(file.read_text())
        summary["episodes"][0]["captions"].pop()
        file.write_text(json.dumps(summary))
    elif how == "captions beyond json":
        summary = json.loads(file.read_text())
        summary["captions"] = []
        file.write_text(json.dumps(summary))
    elif how == "wrong length json":
        summary = json.loads(file.read_text())
        summary["episodes"][0]["length"] += 1
        file.write_text(json.dumps(summary))
    elif how == "objects":
        np.save(file, np.array([{"a": 1}], object), allow_pickle=True)
    elif how == "zip":
        with file.open("wb") as stream:
            np.savez(stream, a=np.zeros(3))
    elif how == "double":
        np.save(file, np.load(file).astype(np.float64))
    elif how == "fewer frames":
        np.save(file, np.load(file)[:-1])


@pytest.mark.parametrize(
    "how",
    ["missing frames", "missing actions", "missing json", "empty frames", "empty actions", "empty json", "cut frames"]
    + ["cut actions", "cut json", "garbage frames", "garbage actions", "garbage json", "other json", "a list json"]
    + ["short captions json", "captions beyond json", "wrong length json", "objects", "zip", "double", "fewer frames"],
)
def test_damaged_shards_are_refused(tmp_path: Path, how: str) -> None:
    make_store(tmp_path, make_info())
    shard = tmp_path / "shards" / "00001"
    _damage(shard, how)
    with pytest.raises(UserError, match="is damaged") as caught:
        EpisodeStore(tmp_path)
    assert str(shard) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_flipped_bit_is_found_by_verify(tmp_path: Path) -> None:
    make_store(tmp_path, make_info())
    file = tmp_path / "shards" / "00001" / "frames.npy"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"00001/frames\.npy is damaged"):
        EpisodeStore(tmp_path).verify()


def test_two_shards_with_the_same_episode_are_refused(tmp_path: Path) -> None:
    info = make_info()
    create_store(tmp_path, info)
    for number in range(2):
        write_shard(tmp_path, number, info, [make_episode(info, 0)])
    with pytest.raises(UserError, match="two episodes have the index 0"):
        EpisodeStore(tmp_path)


def test_too_many_open_files_is_not_called_damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_store(tmp_path, make_info())

    def fail(*_: object) -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(store_module, "_open_rows", fail)
    with pytest.raises(UserError, match="ulimit"):
        EpisodeStore(tmp_path)


def test_other_settings_are_refused_and_named(tmp_path: Path) -> None:
    make_store(tmp_path, make_info())
    with pytest.raises(UserError, match=r"other episodes \(camera, states differ\)"):
        create_store(tmp_path, make_info(states=1, size=(8, 8)))


def test_places_that_are_no_data_set_are_refused(tmp_path: Path) -> None:
    for path in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(UserError, match="is not a data set"):
            EpisodeStore(path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="is a file"):
        create_store(tmp_path / "file", make_info())
    with pytest.raises(UserError, match="is a file"):
        create_store(tmp_path / "file" / "below", make_info())
    with pytest.raises(UserError, match="not empty"):
        create_store(tmp_path, make_info())
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".store.json.tmp-0123").touch()  # what a killed writer leaves
    make_store(tmp_path / "new", make_info())
    EpisodeStore(tmp_path / "new")


@pytest.mark.parametrize(
    ("text", "complaint"),
    [("", "Invalid JSON"), ("{}", "source"), ('{"format": 2}', "reads format 1"), ("[]", "store.json")],
)
def test_broken_descriptions_are_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "store.json").write_text(text)
    with pytest.raises(UserError, match=complaint) as caught:
        EpisodeStore(tmp_path)
    assert "\n" not in str(caught.value)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=200), st.integers(1, 200))
def test_shard_plan_covers_every_episode_once(sizes: list[int], target: int) -> None:
    shards = plan_shards(sizes, target, most=20)
    assert [index for shard in shards for index in shard] == list(range(len(sizes)))
    assert all(shards)
    bound = max(target, sum(sizes) // 20)
    assert all(sum(sizes[i] for i in shard) <= bound or len(shard) == 1 for shard in shards)
    assert len(shards) <= 41  # two neighbours are together larger than the bound


def test_killed_collection_is_refused_until_it_is_finished(tmp_path: Path) -> None:
    """The writer is killed at every call of fsync in turn: after each file and directory that it writes."""
    info = make_info(3)
    make_store(tmp_path / "whole", info)
    expected = EpisodeStore(tmp_path / "whole").fingerprint()
    path = tmp_path / "store"
    complete = set()
    for calls in range(1, 100):
        child = os.fork()
        if child == 0:  # never returns to pytest
            try:
                _kill_after(calls)
                make_store(path, info)
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            assert os.WEXITSTATUS(status) == 0
            break
        assert os.WTERMSIG(status) == signal.SIGKILL
        done = sum(entry.name.isdigit() for entry in (path / "shards").glob("*"))
        complete.add(done)
        if done < info.shards:
            with pytest.raises(UserError, match=r"half-written|not a data set"):
                EpisodeStore(path)
        shutil.rmtree(path)
    assert complete == {0, 1, 2, 3} and calls > 10
    store = EpisodeStore(path)
    store.verify()
    assert store.fingerprint() == expected


def test_a_killed_collection_is_resumed(tmp_path: Path) -> None:
    info = make_info(3)
    make_store(tmp_path / "whole", info)
    path = tmp_path / "store"
    starts = 0
    while True:
        starts += 1
        child = os.fork()
        if child == 0:
            try:
                _kill_after(10)  # a shard takes fewer calls, so every start completes at least one
                make_store(path, info)
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status):
            break
    assert 1 < starts <= info.shards + 1
    assert EpisodeStore(path).fingerprint() == EpisodeStore(tmp_path / "whole").fingerprint()


def _kill_after(calls: int) -> None:
    """Let this process kill itself at its ``calls``-th fsync."""
    left = [calls]
    fsync = os.fsync

    def count(descriptor: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        fsync(descriptor)

    os.fsync = count


FULL_DISK = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.data.test_store import EpisodeStore, UserError, create_store, make_episode, make_info, write_shard
path, info = Path(sys.argv[1]) / "store", make_info(2, size=(64, 64))
create_store(path, info)
write_shard(path, 0, info, [make_episode(info, 0, 50)])
before = sorted(str(p) for p in path.rglob("*"))
try:
    write_shard(path, 1, info, [make_episode(info, 1, 1000)])
except UserError as error:
    print(error)
assert sorted(str(p) for p in path.rglob("*")) == before
write_shard(path, 1, info, [make_episode(info, 1, 20)])
store = EpisodeStore(path)
store.verify()
assert (store.episodes[0].frames == make_episode(info, 0, 50).frames).all()
"""


def test_full_disk_is_one_line_and_earlier_shards_stay(tmp_path: Path) -> None:
    mount = 'mount -t tmpfs -o size=3m tmpfs "$0"'
    if subprocess.run(["unshare", "-rm", "sh", "-c", mount, tmp_path], capture_output=True, check=False).returncode:
        pytest.skip("a file system cannot be mounted here")
    root = Path(__file__).parents[2]
    command: list[Any] = [
        "unshare",
        "-rm",
        "sh",
        "-c",
        f'{mount} && exec "$@"',
        tmp_path,
        sys.executable,
        "-c",
        FULL_DISK,
    ]
    done = subprocess.run([*command, tmp_path, root], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "the disk is full; what was there before is untouched" in done.stdout
    assert done.stdout.count("\n") == 1
