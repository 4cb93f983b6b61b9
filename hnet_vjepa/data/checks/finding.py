"""What a check finds, and the recordings that it looks at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.data.importers.pictures import ArrayPictures, Rows
from hnet_vjepa.data.importers.tracks import Recordings, Track
from hnet_vjepa.data.store import Episode, EpisodeStore

Severity = Literal["error", "warning"]


@dataclass(frozen=True)
class Finding:
    """Something that is, or may be, wrong with recordings. Errors would spoil a training."""

    severity: Severity
    kind: str  # such as "time" or "outlier"
    where: str  # episode and row where they are known, or ""
    detail: str

    def __str__(self) -> str:
        return f"{self.severity}: {self.kind}: {f'{self.where}: ' if self.where else ''}{self.detail}"


def longest_run(flags: NDArray[np.bool_]) -> tuple[int, int]:
    """Length and first place of the longest run of true values; (0, 0) where there is none."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(int), [0]])))
    runs = [(int(end - start), int(start)) for start, end in zip(edges[::2], edges[1::2], strict=True)]
    return max(runs, key=lambda run: run[0], default=(0, 0))


def store_recordings(store: EpisodeStore) -> Recordings:
    """A store's episodes as recordings: the last row's action, which a store does not have, repeats the one before."""
    info = store.info
    return Recordings(
        format=info.source,
        camera=info.camera.name,
        tracks=[_track(episode, info.camera.dt, len(info.states)) for episode in store.episodes],
        files=(),
        root=store.path,
        action_names=info.action.names,
        action_units=info.action.units,
        absolute=info.action.absolute,
        state_names=info.states,
        labels=info.labels,
    )


def _track(episode: Episode, dt: float, states: int) -> Track:
    actions = np.asarray(episode.actions, np.float32)
    return Track(
        where=f"episode {episode.index}",
        number=episode.index,
        times=np.arange(len(episode), dtype=np.float64) * dt,
        pictures=ArrayPictures(len(episode), _Frames(episode)),
        actions=np.concatenate([actions, actions[-1:]]),
        states=np.zeros((len(episode), states), np.float32) if episode.states is None else episode.states,
        captions=episode.captions,
    )


@dataclass(frozen=True)
class _Frames:
    episode: Episode

    def __call__(self, rows: Rows) -> NDArray[np.uint8]:
        return np.asarray(self.episode.frames[np.asarray(rows, np.int64)])
