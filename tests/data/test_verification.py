"""A training looks once at its data's files, and again when one has changed."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from hnet_vjepa.data import verification
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.data.verification import verified
from hnet_vjepa.errors import UserError
from hnet_vjepa.pipeline import run_pipeline
from tests import toy


@pytest.fixture
def store(tmp_path: Path, toy_store: Path) -> Path:
    copy = Path(shutil.copytree(toy_store, tmp_path / "store"))
    (copy / verification.NOTE).unlink(missing_ok=True)  # another test may have trained on the original
    return copy


def flip_a_bit(store: Path) -> None:
    file = store / "shards" / "00000" / "frames.npy"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def test_a_flipped_bit_stops_the_training(tmp_path: Path, store: Path) -> None:
    flip_a_bit(store)
    with pytest.raises(UserError, match=r"frames\.npy is damaged \(its content is not what was written\)"):
        run_pipeline(toy.config(), store, tmp_path / "run", ("pretrain",), progress=False)
    assert not (tmp_path / "run" / "pretrain").exists()


def test_files_are_read_again_only_when_they_changed(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []
    true = EpisodeStore.verify
    monkeypatch.setattr(EpisodeStore, "verify", lambda self: (reads.append("read"), true(self))[1])
    for _ in range(2):
        with verified(EpisodeStore(store)) as check:
            check()
    assert reads == ["read"]
    os.utime(store / "shards" / "00000" / "actions.npy", ns=(1, 1))
    with verified(EpisodeStore(store)):
        pass
    assert reads == ["read"] * 2
    (store / verification.NOTE).write_text("[1]")
    with verified(EpisodeStore(store)):
        pass
    assert reads == ["read"] * 3


def test_a_large_store_is_read_beside_the_work(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "AT_ONCE", 0)
    flip_a_bit(store)
    begun = False
    with pytest.raises(UserError, match="is damaged"), verified(EpisodeStore(store)) as check:
        begun = True
        while True:
            check()
    assert begun


def test_numbers_that_are_none_are_named(store: Path) -> None:
    file = store / "shards" / "00000" / "actions.npy"
    actions = np.load(file)
    actions[5, 1] = np.nan
    np.save(file, actions)
    with pytest.raises(UserError, match=r"00000 is damaged \(ValueError: actions\.npy: row 5, column 1 is nan\)"):
        EpisodeStore(store)
