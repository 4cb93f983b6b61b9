"""Recorded episodes on disk: memory-mapped uint8 frames, actions, and what is known about each frame.

A store is a directory::

    store.json                what the episodes are (StoreInfo); written first
    shards/00000/frames.npy   N x H x W x 3 uint8, the frames of some episodes one after another
                 actions.npy  N x dim float32; row t moves frame t to t + 1 (an episode's last row is zero)
                 states.npy   N x S float32, optional: what a simulator or a robot says of itself (only measured with)
                 labels.npy   N x L uint8, optional: which of StoreInfo.labels hold at that frame
                 episodes.json  per episode: length, seed, captions of every frame

A shard is renamed into place when it is whole, so an interrupted collection is a store with shards missing:
collecting again fills the gaps, and reading it is refused until then.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hnet_vjepa.errors import UserError
from hnet_vjepa.specs import ActionSpec, CameraSpec
from hnet_vjepa.utils.files import directory_atomic, write_json_atomic

FORMAT = 1
HELD_OUT_EVERY = 10  # every tenth episode is held out

Split = Literal["train", "held_out", "all"]


class StoreInfo(BaseModel):
    """What all episodes of a store have in common."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    source: str = Field(description="where the episodes come from: a task's name, 'folder', 'rlds'")
    camera: CameraSpec
    action: ActionSpec
    shards: int = Field(gt=0, description="how many shards a complete store has")
    states: tuple[str, ...] = Field(default=(), description="names of the state's numbers, with units")
    labels: tuple[str, ...] = Field(default=(), description="names of the labels")
    settings: dict[str, str | int | float] = Field(default_factory=dict, description="how it was collected (seed, ...)")


@dataclass(frozen=True)
class Episode:
    """One recorded episode of T frames. Frames are a view of the memory map; nothing is read until it is used."""

    index: int
    seed: int
    frames: NDArray[np.uint8]  # T x H x W x 3
    actions: NDArray[np.float32]  # T - 1 x dim
    captions: tuple[tuple[str, ...], ...]  # T lists of sentences that are true of the frame; may be empty lists
    states: NDArray[np.float32] | None = None  # T x S
    labels: NDArray[np.uint8] | None = None  # T x L

    def __len__(self) -> int:
        return len(self.frames)


def create_store(path: Path, info: StoreInfo) -> set[int]:
    """Start a store, or take up one that was interrupted; return the numbers of the shards that are already there.

    Raises UserError when the directory holds a store made with other settings.
    """
    described = path / "store.json"
    if described.exists():
        if read_info(path) != info:
            raise UserError(f"{path} holds other episodes (other task, seed, size or count); name another directory")
    else:
        if path.exists() and any(path.iterdir()):
            raise UserError(f"{path} is not empty and not a data set; name a new directory")
        write_json_atomic(described, info.model_dump(mode="json"))
    return {int(shard.name) for shard in (path / "shards").glob("[0-9]*")}


def write_shard(path: Path, number: int, info: StoreInfo, episodes: Sequence[Episode]) -> None:
    """Write one shard of a store in one atomic step. Raises UserError on a wrong shape or a full disk."""
    if not episodes:
        raise UserError(f"{path}: shard {number} has no episodes")
    for episode in episodes:
        where = f"{path}: episode {episode.index}"
        info.camera.check(episode.frames, where)
        info.action.check(episode.actions, where)
        if len(episode) < 2 or len(episode.actions) != len(episode) - 1 or len(episode.captions) != len(episode):
            raise UserError(
                f"{where}: {len(episode)} frames, {len(episode.actions)} actions, {len(episode.captions)} caption lists; "
                "needs at least 2 frames, one action less than frames, and a (maybe empty) caption list per frame"
            )
        for name, array, names in (("states", episode.states, info.states), ("labels", episode.labels, info.labels)):
            if (array is None) != (not names) or (array is not None and array.shape != (len(episode), len(names))):
                got = None if array is None else array.shape
                raise UserError(f"{where}: {name} of shape {got}; the data set has {len(names)} {name} per frame")
    with directory_atomic(path / "shards" / f"{number:05d}") as folder:
        np.save(folder / "frames.npy", np.concatenate([e.frames for e in episodes]))
        last = np.zeros((1, info.action.dim), np.float32)
        np.save(folder / "actions.npy", np.concatenate([a for e in episodes for a in (e.actions, last)]).astype(np.float32))
        if info.states:
            np.save(folder / "states.npy", np.concatenate([e.states for e in episodes if e.states is not None]))
        if info.labels:
            np.save(folder / "labels.npy", np.concatenate([e.labels for e in episodes if e.labels is not None]))
        described = [{"index": e.index, "seed": e.seed, "length": len(e), "captions": e.captions} for e in episodes]
        write_json_atomic(folder / "episodes.json", described)


def read_info(path: Path) -> StoreInfo:
    """Read a store's description. Raises UserError when there is none or it is broken."""
    described = path / "store.json"
    if not described.is_file():
        raise UserError(f"{path} is not a data set (it has no store.json); make one with 'hnet data collect' or 'hnet data import'")
    try:
        return StoreInfo.model_validate_json(described.read_bytes())
    except ValidationError as error:
        first = error.errors()[0]
        raise UserError(f"{described}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


class EpisodeStore:
    """A complete store, open for reading.

    Attributes: ``path``, ``info`` (StoreInfo), ``episodes`` (in order of their index).
    Raises UserError when the store is missing, empty, half-written or damaged.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.info = read_info(self.path)
        missing = [n for n in range(self.info.shards) if not (self.path / "shards" / f"{n:05d}").is_dir()]
        if missing:
            raise UserError(
                f"{self.path} is half-written: {len(missing)} of {self.info.shards} shards are missing "
                "(the first is {:05d}); run the command that made it again, it takes up where it stopped".format(missing[0])
            )
        episodes = [e for n in range(self.info.shards) for e in self._read_shard(self.path / "shards" / f"{n:05d}")]
        self.episodes = sorted(episodes, key=lambda e: e.index)
        if not self.episodes:
            raise UserError(f"{self.path} has no episodes")

    def _read_shard(self, folder: Path) -> list[Episode]:
        def load(name: str, width: int) -> NDArray[np.generic] | None:
            return np.load(folder / name, mmap_mode="r", allow_pickle=False) if width else None

        try:
            described = json.loads((folder / "episodes.json").read_text())
            frames, actions = load("frames.npy", 1), load("actions.npy", 1)
            states, labels = load("states.npy", len(self.info.states)), load("labels.npy", len(self.info.labels))
            total = sum(entry["length"] for entry in described)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{folder} is damaged ({error}); delete it and run the command that made the data set again") from error
        assert frames is not None and actions is not None
        for name, array in (("frames", frames), ("actions", actions), ("states", states), ("labels", labels)):
            if array is not None and len(array) != total:
                raise UserError(f"{folder}/{name}.npy has {len(array)} rows; episodes.json says {total}")
        self.info.camera.check(frames, str(folder / "frames.npy"))  # type: ignore[arg-type]
        episodes, start = [], 0
        for entry in described:
            rows = slice(start, start + entry["length"])
            start = rows.stop
            episodes.append(
                Episode(
                    index=entry["index"],
                    seed=entry["seed"],
                    frames=frames[rows],  # type: ignore[arg-type]
                    actions=actions[rows][:-1],  # type: ignore[arg-type]
                    captions=tuple(tuple(c) for c in entry["captions"]),
                    states=None if states is None else states[rows],  # type: ignore[arg-type]
                    labels=None if labels is None else labels[rows],  # type: ignore[arg-type]
                )
            )
        return episodes

    def split(self, which: Split) -> list[Episode]:
        """Episodes to train on, those held out (every tenth), or all."""
        if which == "all":
            return self.episodes
        return [e for e in self.episodes if (e.index % HELD_OUT_EVERY == HELD_OUT_EVERY - 1) == (which == "held_out")]

    def fingerprint(self) -> str:
        """SHA-256 over the description and every action, state, label and frame count: which data this is."""
        digest = hashlib.sha256(self.info.model_dump_json().encode())
        for episode in self.episodes:
            digest.update(f"{episode.index} {episode.seed} {len(episode)}".encode())
            digest.update(np.ascontiguousarray(episode.actions).tobytes())
            digest.update(np.ascontiguousarray(episode.frames[0]).tobytes())
        return digest.hexdigest()
