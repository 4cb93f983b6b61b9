"""Recorded episodes on disk: memory-mapped uint8 frames, actions, and what is known about each frame.

A store is a directory::

    store.json                what the episodes are (StoreInfo); written first
    shards/00000/frames.npy   N x H x W x 3 uint8, the frames of some episodes one after another
                 actions.npy  N x dim float32; row t moves frame t to t + 1 (an episode's last row is zero)
                 states.npy   N x S float32, optional: what a simulator or a robot says of itself (to measure with)
                 labels.npy   N x L uint8 (0 or 1), optional: which of StoreInfo.labels hold at that frame
                 shard.json   per episode: index, seed, length and which captions each frame has; the shard's
                              different captions; the SHA-256 of every array file

A shard is renamed into place when it is whole, so an interrupted collection is a store with shards missing:
collecting again fills the gaps, and reading it is refused until then. One command writes a store at a time (its
worker processes may write different shards).
"""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from hnet_vjepa.errors import UserError, one_of
from hnet_vjepa.specs import ActionSpec, CameraSpec, explain
from hnet_vjepa.utils.files import (
    directory_atomic,
    disk_errors,
    remove_stale,
    sha256,
    write_bytes_atomic,
    write_json_atomic,
)

FORMAT = 1
FOLDS, HELD_OUT_FOLD = 10, 9  # by default every tenth episode is held out, beginning with number 9

Split = Literal["train", "held_out", "all"]
Captions = tuple[str, ...]  # the sentences that are true of one frame


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

    @field_validator("format")
    @classmethod
    def _readable(cls, value: int) -> int:
        if value != FORMAT:
            raise ValueError(f"the data set has format {value}; this version of hnet reads format {FORMAT}")
        return value


@dataclass(frozen=True)
class Episode:
    """One recorded episode of T frames. Frames are a view of the memory map; nothing is read until it is used."""

    index: int
    seed: int
    frames: NDArray[np.uint8]  # T x H x W x 3
    actions: NDArray[np.float32]  # T - 1 x dim
    captions: tuple[Captions, ...]  # T lists of sentences that are true of the frame; may be empty lists
    states: NDArray[np.float32] | None = None  # T x S
    labels: NDArray[np.uint8] | None = None  # T x L

    def __len__(self) -> int:
        return len(self.frames)


def plan_shards(sizes: Sequence[int], target: int = 2**28, most: int = 256) -> list[range]:
    """Cut episodes of ``sizes`` bytes of frames into runs of about ``target`` bytes: one shard each.

    A shard is held in memory while it is written, so its size is bounded; every shard costs the reader an open
    file, so there are at most about ``most``, which are larger then.
    """
    target = max(target, sum(sizes) // most)
    shards, start, filled = [], 0, 0
    for index, size in enumerate(sizes):
        if index > start and filled + size > target:
            shards.append(range(start, index))
            start, filled = index, 0
        filled += size
    return [*shards, range(start, len(sizes))]


def create_store(path: Path, info: StoreInfo) -> set[int]:
    """Start a store, or take up one that was interrupted; return the numbers of the shards that are already there.

    Raises UserError when the path is not a directory, or holds something else or a store made with other settings.
    """
    if (path / "store.json").is_file():
        old = read_info(path)
        if changed := [name for name in StoreInfo.model_fields if getattr(old, name) != getattr(info, name)]:
            raise UserError(
                f"{path} holds other episodes ({', '.join(changed)} differ); name another directory or delete this one"
            )
    else:
        with disk_errors(path):
            if path.exists() and not path.is_dir():
                raise UserError(f"{path} is a file; a data set is a directory: name another")
            # Names with a dot are what a killed writer left behind.
            if path.is_dir() and any(not entry.name.startswith(".") for entry in path.iterdir()):
                raise UserError(f"{path} is not empty and not a data set; name a new directory")
        write_json_atomic(path / "store.json", info.model_dump(mode="json"))
    remove_stale(path)
    remove_stale(path / "shards")
    return {number for number in range(info.shards) if _shard(path, number).is_dir()}


def write_shard(path: Path, number: int, info: StoreInfo, episodes: Sequence[Episode]) -> None:
    """Write one shard of a store in one atomic step.

    Raises UserError when an episode does not fit ``info`` (shape, type, NaN) or the disk is full.
    """
    if not episodes:
        raise UserError(f"{path}: shard {number} has no episodes")
    for episode in episodes:
        _check_episode(info, episode, f"{path}: episode {episode.index}")
    end = np.zeros((1, info.action.dim), np.float32)
    arrays: dict[str, list[NDArray[Any]]] = {
        "frames.npy": [e.frames for e in episodes],
        "actions.npy": [np.concatenate([np.asarray(e.actions, np.float32), end]) for e in episodes],
    }
    if info.states:
        arrays["states.npy"] = [np.asarray(e.states, np.float32) for e in episodes]
    if info.labels:
        arrays["labels.npy"] = [np.asarray(e.labels, np.uint8) for e in episodes]
    # Most frames share their captions with others: write each different list once.
    table: dict[Captions, int] = {}
    described = [
        {
            "index": e.index,
            "seed": e.seed,
            "length": len(e),
            "captions": [table.setdefault(tuple(c), len(table)) for c in e.captions],
        }
        for e in episodes
    ]
    with directory_atomic(_shard(path, number)) as folder:
        for name, rows in arrays.items():
            _save_rows(folder / name, rows)
        hashes = {name: sha256(folder / name) for name in arrays}
        summary = {"episodes": described, "captions": list(table), "sha256": hashes}
        write_bytes_atomic(folder / "shard.json", json.dumps(summary, allow_nan=False).encode())


def read_info(path: Path) -> StoreInfo:
    """Read a store's description. Raises UserError when there is none or it is broken."""
    described = path / "store.json"
    try:
        return StoreInfo.model_validate_json(described.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(
            f"{path} is not a data set (it has no store.json); make one with 'hnet data collect' or 'hnet data import'"
        ) from error
    except ValidationError as error:
        raise UserError(f"{described} is damaged or not ours: {explain(error)}") from error
    except OSError as error:
        raise UserError(f"cannot read {described}: {error.strerror}") from error


class EpisodeStore:
    """A complete store, open for reading.

    Frames stay on disk behind memory maps (one open file per shard); actions, states and labels are in memory.

    Attributes: ``path``, ``info`` (StoreInfo), ``episodes`` (in order of their index).
    Raises UserError when the store is missing, empty, half-written or damaged.
    """

    def __init__(self, path: Path | str, folds: int = FOLDS, held_out_fold: int = HELD_OUT_FOLD) -> None:
        self.path, self.folds, self.held_out_fold = Path(path), folds, held_out_fold
        self.info = read_info(self.path)
        missing = [n for n in range(self.info.shards) if not _shard(self.path, n).is_dir()]
        if missing:
            raise UserError(
                f"{self.path} is half-written: {len(missing)} of {self.info.shards} shards are missing (the first is "
                f"{missing[0]:05d}); run the command that made it again, it takes up where it stopped"
            )
        self._hashes: list[dict[str, str]] = []
        episodes = [e for n in range(self.info.shards) for e in self._read_shard(_shard(self.path, n))]
        self.episodes = sorted(episodes, key=lambda e: e.index)
        for before, after in zip(self.episodes, self.episodes[1:], strict=False):
            if before.index == after.index:
                raise UserError(f"{self.path} is damaged: two episodes have the index {after.index}; make it again")

    def _read_shard(self, folder: Path) -> list[Episode]:
        info = self.info
        try:
            summary = json.loads((folder / "shard.json").read_bytes())
            lengths = [int(entry["length"]) for entry in summary["episodes"]]
            total = sum(lengths)
            if not lengths or min(lengths) < 2:
                raise ValueError("an episode needs at least 2 frames")

            frames = _open_rows(folder / "frames.npy", (total, info.camera.height, info.camera.width, 3), np.uint8)
            actions = _open_rows(folder / "actions.npy", (total, info.action.dim), np.float32).copy()
            states = labels = None
            if info.states:
                states = _open_rows(folder / "states.npy", (total, len(info.states)), np.float32).copy()
            if info.labels:
                labels = _open_rows(folder / "labels.npy", (total, len(info.labels)), np.uint8).copy()
            for name, numbers in (("actions", actions), ("states", states)):
                if numbers is not None and len(wrong := np.argwhere(~np.isfinite(numbers))):
                    row, column = wrong[0]
                    raise ValueError(f"{name}.npy: row {row}, column {column} is {numbers[row, column]}")
            table = [tuple(str(sentence) for sentence in captions) for captions in summary["captions"]]

            episodes, start = [], 0
            for entry, length in zip(summary["episodes"], lengths, strict=True):
                rows = slice(start, start + length)
                start += length
                if len(entry["captions"]) != length:
                    raise ValueError(
                        f"episode {entry['index']} has {len(entry['captions'])} captions for {length} frames"
                    )
                episodes.append(
                    Episode(
                        index=int(entry["index"]),
                        seed=int(entry["seed"]),
                        frames=frames[rows],
                        actions=actions[rows][:-1],
                        captions=tuple(table[number] for number in entry["captions"]),
                        states=None if states is None else states[rows],
                        labels=None if labels is None else labels[rows],
                    )
                )
            self._hashes.append({str(name): str(value) for name, value in summary["sha256"].items()})
        except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
            if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
                raise UserError(
                    f"cannot open {folder}: too many open files; raise the limit with 'ulimit -n 65536'"
                ) from error
            if isinstance(error, PermissionError):
                raise UserError(f"cannot read {error.filename}: permission denied") from error
            what = " ".join(f"{type(error).__name__}: {error}".split())
            raise UserError(
                f"{folder} is damaged ({what}); delete it and run the command that made the data set again"
            ) from error
        return episodes

    def split(self, which: Split) -> list[Episode]:
        """Episodes to train on, those held out (every ``folds``-th), or all. A small store may hold out none."""
        if which not in ("train", "held_out", "all"):
            raise one_of("split", which, ("train", "held_out", "all"))
        return [
            e
            for e in self.episodes
            if which in ("all", "held_out" if e.index % self.folds == self.held_out_fold else "train")
        ]

    def fingerprint(self) -> str:
        """SHA-256 over the description, the hash of every array file, and all captions: which data this is.

        It reads no frames: the hashes were taken when the shards were written (``verify`` compares them).
        """
        digest = hashlib.sha256(self.info.model_dump_json().encode())
        digest.update(json.dumps(self._hashes, sort_keys=True).encode())
        for episode in self.episodes:
            digest.update(json.dumps([episode.index, episode.seed, len(episode)]).encode())
            before: Captions | None = None
            for captions in episode.captions:
                # Only changes, so that a long episode under one instruction costs nothing.
                digest.update(b"." if captions == before else json.dumps(captions).encode())
                before = captions
        return digest.hexdigest()

    def verify(self) -> None:
        """Read every array file and compare it with its hash. Raises UserError naming the first that differs."""
        for number, hashes in enumerate(self._hashes):
            for name, expected in hashes.items():
                file = _shard(self.path, number) / name
                if sha256(file) != expected:
                    raise UserError(
                        f"{file} is damaged (its content is not what was written); delete the directory {file.parent} "
                        "and run the command that made the data set again"
                    )


def _shard(path: Path, number: int) -> Path:
    return path / "shards" / f"{number:05d}"


def _check_episode(info: StoreInfo, episode: Episode, where: str) -> None:
    """Raise UserError when ``episode`` is not what ``info`` describes."""
    info.camera.check(episode.frames, where)
    actions = info.action.check(episode.actions, where)
    length = len(episode)
    if episode.frames.ndim != 4 or length < 2 or actions.ndim != 2 or len(actions) != length - 1:
        raise UserError(
            f"{where}: frames of shape {episode.frames.shape} and actions of shape {actions.shape}; "
            "needs at least 2 frames (T x H x W x 3) and one action less (T - 1 x dim)"
        )
    if len(episode.captions) != length or any(isinstance(captions, str) for captions in episode.captions):
        raise UserError(
            f"{where}: {len(episode.captions)} caption lists for {length} frames; needs a (maybe empty) list per frame"
        )
    idle = sorted(set(range(info.action.dim)) - set(info.action.active))
    if actions[:, idle].any():
        moved = ", ".join(info.action.names[column] for column in idle if actions[:, column].any())
        raise UserError(f"{where}: the action moves {moved}, which the action spec does not list as active (must be 0)")
    for kind, array, names in (("states", episode.states, info.states), ("labels", episode.labels, info.labels)):
        shape = None if array is None else array.shape
        if shape != ((length, len(names)) if names else None):
            raise UserError(f"{where}: {kind} of shape {shape}; the data set has {len(names)} {kind} per frame")
    if episode.states is not None and not np.isfinite(episode.states).all():
        raise UserError(f"{where}: a state holds NaN or infinity; every number must be finite")
    if episode.labels is not None and not np.isin(episode.labels, (0, 1)).all():
        raise UserError(f"{where}: a label is neither 0 nor 1")


def _save_rows(file: Path, parts: Sequence[NDArray[Any]]) -> None:
    """Write ``parts`` as one .npy file without joining them in memory.

    Raises OSError with its errno; numpy's own writer loses it, so that a full disk could not be told from a bug.
    """
    header = {
        "descr": np.lib.format.dtype_to_descr(parts[0].dtype),
        "fortran_order": False,
        "shape": (sum(map(len, parts)), *parts[0].shape[1:]),
    }
    with file.open("wb") as stream:
        np.lib.format.write_array_header_1_0(stream, header)
        for part in parts:
            stream.write(np.ascontiguousarray(part).data)


def _open_rows(file: Path, shape: tuple[int, ...], dtype: type[np.generic]) -> NDArray[Any]:
    """Memory-map a .npy file, read-only. Raises ValueError when it holds other than ``shape`` and ``dtype``."""
    array = np.lib.format.open_memmap(file, mode="r")
    if array.shape != shape or array.dtype != dtype:
        raise ValueError(f"{file.name} holds {array.shape} of {array.dtype}, not {shape} of {np.dtype(dtype)}")
    return array
