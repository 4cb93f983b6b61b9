"""The write loop that all importers share, with a source made here, and the bytes that the two importers write."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from hnet_vjepa.data.importers import base
from hnet_vjepa.data.importers.base import Damaged, EpisodeSource, Skipped, Survey, write_store
from hnet_vjepa.data.importers.folder import import_folder
from hnet_vjepa.data.importers.rlds import import_rlds
from hnet_vjepa.data.store import Episode, EpisodeStore, plan_shards
from hnet_vjepa.errors import UserError
from tests.data.test_folder import T, csv, record
from tests.data.test_rlds import episode, picture, write
from tests.data.test_store import make_episode, make_info, same
from tests.data.test_video import moving_frames, write_pictures


@pytest.fixture(autouse=True)
def one_episode_per_shard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "plan_shards", partial(plan_shards, target=1))


class MadeSource:
    """Episodes of ``tests.data.test_store``; it notes which were decoded."""

    def __init__(self, episodes: int = 5) -> None:
        info = make_info()
        self.made = [make_episode(info, index) for index in range(episodes)]
        self.decoded: list[int] = []
        self.survey = Survey(
            format="made",
            camera=info.camera,
            action=info.action,
            lengths=[len(e) for e in self.made],
            fingerprint="a",
            states=info.states,
            labels=info.labels,
            settings={"speed": 2.5},
            skipped=[Skipped("file 7", "it is empty"), Skipped("file 9", "it is damaged")],
            notes=["first", "second"],
        )

    def decode(self, indices: Sequence[int]) -> Iterator[Episode]:
        for index in indices:
            self.decoded.append(index)
            yield self.made[index]


def quiet(source: EpisodeSource, out: Path) -> EpisodeStore:
    return EpisodeStore(write_store(source, out, progress=False))


def test_a_source_is_written_as_it_is(tmp_path: Path) -> None:
    source = MadeSource()
    notes: list[str] = []
    store = EpisodeStore(write_store(source, tmp_path / "store", notes.append, progress=False))
    assert notes == ["2 episodes are left out; the first is file 7: it is empty", "first", "second"]
    assert (store.info.source, store.info.shards) == ("made", 5)
    assert store.info.settings == {"episodes": 5, "speed": 2.5, "content": "a"}
    assert all(same(a, b) for a, b in zip(store.episodes, source.made, strict=True))


def test_only_missing_shards_are_decoded(tmp_path: Path) -> None:
    source = MadeSource()
    fingerprint = quiet(source, tmp_path / "store").fingerprint()
    for number in (1, 4):
        shutil.rmtree(tmp_path / "store" / "shards" / f"{number:05d}")
    again = MadeSource()
    assert quiet(again, tmp_path / "store").fingerprint() == fingerprint
    assert again.decoded == [1, 4]
    quiet(again, tmp_path / "store")
    assert again.decoded == [1, 4]


def test_an_error_in_the_source_keeps_the_shards_before_it(tmp_path: Path) -> None:
    source = MadeSource()
    source.made[3] = replace(source.made[3], labels=None)
    with pytest.raises(UserError, match="episode 3: labels of shape None"):
        quiet(source, tmp_path / "store")
    assert sorted(p.name for p in (tmp_path / "store" / "shards").iterdir()) == ["00000", "00001", "00002"]


def test_other_inputs_are_not_mixed_into_a_store(tmp_path: Path) -> None:
    source = MadeSource()
    quiet(source, tmp_path / "store")
    source.survey = replace(source.survey, fingerprint="b")
    with pytest.raises(UserError, match=r"holds other episodes \(settings differ\)"):
        quiet(source, tmp_path / "store")


@pytest.mark.parametrize("how", ["too few", "another"])
def test_a_source_that_changes_while_it_is_read_is_refused(tmp_path: Path, how: str) -> None:
    source = MadeSource()
    source.made[4] = source.made[0]
    if how == "too few":
        source.decode = lambda indices: iter(source.made[:4])  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"the recordings changed while .* import them again"):
        quiet(source, tmp_path / "store")
    with pytest.raises(UserError, match="half-written: 1 of 5"):
        EpisodeStore(tmp_path / "store")


def test_the_bytes_of_imported_stores(tmp_path: Path) -> None:
    """Resumed imports and checkpoints compare stores by their bytes: a change here makes existing stores unusable.

    The pictures are BMP files and not scaled, so no codec's version matters. The hashes are those of the stores that
    the importers wrote before they shared a write loop.
    """
    robot = {"names": ["x", "y", "grip"], "low": [-1, -1, 0], "high": [2, 9, 1], "active": [0, 2], "absolute": [2]}
    for number in (10, 2):
        folder = record(
            tmp_path / "in",
            f"episode-{number}",
            actions=csv("time,y,x,grip", T - 1, lambda row, column, n=number: [row, 5, row / n, 1][column]),  # type: ignore[misc]
            captions="move it\n" if number == 2 else "one\n\nthree\nfour\nfive\n",
            states=csv("angle [rad],speed", T),
            labels=csv("done,held", T, lambda row, column: int(row == T - 1)) if number == 2 else "done,held\n0,1\n",
        )
        for file in folder.glob("*.png"):
            file.unlink()
        write_pictures(folder, moving_frames(), "{:04d}.bmp")
    bare = tmp_path / "bare"
    shutil.copytree(tmp_path / "in" / "episode-2", bare / "a")
    (bare / "a" / "actions.csv").write_text(csv("x,y", T))
    (tmp_path / "in" / "robot.json").write_text(json.dumps(robot))
    (tmp_path / "rlds").mkdir()
    for file in range(2):
        texts = ("put it there", "", "open the drawer")
        episodes = [*(episode(3 * file + n, 3 + n, text) for n, text in enumerate(texts)), episode(9, 1)]
        for n, made in enumerate(episodes):
            del made["steps/observation/image_1"]
            steps = range(len(made["steps/is_first"]))
            made["steps/observation/image_0"] = [picture(9 * t + n, (20, 12), "BMP") for t in steps]
        write(tmp_path / "rlds" / f"a.tfrecord-{file}", episodes)
    stores = {
        "robot.json": import_folder(tmp_path / "in", tmp_path / "a", (48, 64), 0.2, progress=False),
        "no robot.json": import_folder(bare, tmp_path / "b", (48, 64), 0.1, progress=False),
        "rlds": import_rlds(tmp_path / "rlds", tmp_path / "c", progress=False),
    }
    assert {name: directory_hash(store) for name, store in stores.items()} == {
        "robot.json": "fd8af0bb390d731d",
        "no robot.json": "92ca6f0a80818401",
        "rlds": "1c4de83efd84dc41",
    }


def directory_hash(folder: Path) -> str:
    """SHA-256 over names and contents of the shards, its first 16 digits."""
    digest = hashlib.sha256()
    for file in sorted(file for file in (folder / "shards").rglob("*") if file.is_file()):
        digest.update(f"{file.relative_to(folder)} {file.stat().st_size}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]


def test_stores_hold_frames_that_are_not_square(tmp_path: Path) -> None:
    record(tmp_path / "in")
    store = EpisodeStore(import_folder(tmp_path / "in", tmp_path / "store", (24, 36), 0.2, progress=False))
    assert store.episodes[0].frames.shape == (T, 24, 36, 3)
    assert np.asarray(store.episodes[0].frames)[0, 4, 4].tolist() != store.episodes[0].frames[0, 20, 30].tolist()


def test_damaged_episodes_are_left_out_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "plan_shards", plan_shards)  # all in one shard
    source = MadeSource()
    bad = Damaged(3, Skipped("file 3", "it stops"))
    source.decode = lambda indices: iter([*source.made[:3], bad, source.made[4]])  # type: ignore[method-assign]
    notes: list[str] = []
    store = EpisodeStore(write_store(source, tmp_path / "store", notes.append, progress=False))
    assert [e.index for e in store.episodes] == [0, 1, 2, 4]
    assert notes[-1] == "1 damaged episodes are left out; the first is file 3: it stops"
    monkeypatch.setattr(base, "plan_shards", partial(plan_shards, target=1))
    with pytest.raises(UserError, match="1 episodes in a row are damaged, too many to go on; file 3: it stops"):
        write_store(source, tmp_path / "one by one", progress=False)
