"""Decoded episodes of a shard that is not whole yet, kept in the store so that a kill costs a few seconds of work."""

from __future__ import annotations

import json
import shutil
import time
import zipfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from hnet_vjepa.data.store import Episode
from hnet_vjepa.utils.files import disk_errors

EVERY = 2.0  # seconds of work that a kill may cost


class PartialShard:
    """Episodes in the directory ``.partial`` of the store ``out``; a reader of stores does not see them."""

    def __init__(self, out: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._folder, self._clock = out / ".partial", clock
        self._pending: list[Episode] = []
        self._saved = clock()

    def indices(self) -> set[int]:
        """The episodes that are kept and whole."""
        return {int(file.stem) for file in self._folder.glob("[0-9]*.npz") if _whole(file)}

    def load(self, index: int) -> Episode:
        """An episode that is kept."""
        with np.load(self._folder / f"{index}.npz", allow_pickle=False) as arrays:
            told = json.loads(arrays["told"].tobytes())
            return Episode(
                index=index,
                seed=told["seed"],
                frames=arrays["frames"],
                actions=arrays["actions"],
                captions=tuple(tuple(captions) for captions in told["captions"]),
                states=arrays.get("states"),
                labels=arrays.get("labels"),
            )

    def add(self, episode: Episode) -> None:
        """Note an episode, and write all that were noted when the last time was long ago."""
        self._pending.append(episode)
        if self._clock() - self._saved < EVERY:
            return
        with disk_errors(self._folder):
            self._folder.mkdir(exist_ok=True)
            for each in self._pending:
                self._write(each)
        self._pending, self._saved = [], self._clock()

    def clear(self, indices: Iterable[int]) -> None:
        """Forget these episodes: their shard is written."""
        self._pending = []
        for index in indices:
            (self._folder / f"{index}.npz").unlink(missing_ok=True)
        if not self.indices():
            shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, episode: Episode) -> None:
        told = json.dumps({"seed": episode.seed, "captions": episode.captions}).encode()
        arrays = {name: getattr(episode, name) for name in ("frames", "actions", "states", "labels")}
        present: dict[str, Any] = {name: array for name, array in arrays.items() if array is not None}
        temporary = self._folder / f".{episode.index}.tmp"
        with temporary.open("wb") as stream:
            np.savez(stream, allow_pickle=False, told=np.frombuffer(told, np.uint8), **present)
        temporary.replace(self._folder / f"{episode.index}.npz")


def _whole(file: Path) -> bool:
    """Whether a file survived: after a power cut its name may be there without its content."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.testzip() is None
    except (OSError, zipfile.BadZipFile):
        return False
