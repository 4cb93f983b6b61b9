"""The chunks of a whole clip, frame by frame: who owns which cell, where the chunks lie, and how many there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from hnet_vjepa.data.batch import normalise_frames
from hnet_vjepa.models.hnet.encoder import Cache
from hnet_vjepa.models.hnet.tokenizers import BudgetedChunks
from hnet_vjepa.models.vjepa.vit import HNetViT

AT_ONCE = 16  # frames that are encoded together; what a frame becomes does not depend on it


@dataclass(frozen=True)
class Distribution:
    """How many chunks the frames of a clip have."""

    least: int
    median: float
    most: int
    mean: float
    frames: int
    prototypes: int  # no frame can have more

    def __str__(self) -> str:
        return (
            f"{self.least} at least, {self.median:g} in the median, {self.most} at most "
            f"({self.frames} frames, {self.prototypes} prototypes)"
        )


@dataclass(frozen=True)
class Track:
    """The chunks of T frames, of H' x W' cells each, among K prototypes."""

    owners: NDArray[np.int64]  # T x H' x W', the prototype that has most of a cell
    centroids: NDArray[np.float32]  # T x K x 2 (y, x), from -1 (first row, left column) to 1
    live: NDArray[np.bool_]  # T x K, whether the prototype has won a cell

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many chunks each frame has: T."""
        return self.live.sum(1)

    def distribution(self) -> Distribution:
        """How many chunks the frames have."""
        counts = self.counts
        return Distribution(
            least=int(counts.min()),
            median=float(np.median(counts)),
            most=int(counts.max()),
            mean=float(counts.mean()),
            frames=len(counts),
            prototypes=self.live.shape[1],
        )


@torch.no_grad()
def track(backbone: HNetViT, frames: Iterable[NDArray[np.uint8]]) -> Track:
    """Follow the chunks through frames (H x W x 3 each, of the model's camera) as a running camera would see them.

    Every frame is a window of its own, encoded with the past before it; only the chunks are kept. Chunks that were
    joined to a budget are numbered anew, so that they keep their numbers over time (see ``steady``). Raises ValueError
    when there is no frame.
    """
    parts = list(_parts(backbone, frames))
    if not parts:
        raise ValueError("there are no frames to follow chunks through")
    seen = Track(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    return steady(seen) if isinstance(backbone.routing, BudgetedChunks) else seen


def steady(seen: Track) -> Track:
    """The same chunks, each with the number of the chunk of the frame before that it shares most cells with.

    A joined chunk is called by the first of its prototypes, and that may change while the chunk hardly does. The pairs
    that share most are served first; a chunk without partner keeps its number if that is free, else gets the lowest.
    """
    owners, centroids, live = seen.owners.copy(), seen.centroids.copy(), seen.live.copy()
    count = live.shape[1]
    for t in range(1, len(owners)):
        shared = np.zeros((count, count), np.int64)  # before x now
        np.add.at(shared, (owners[t - 1].ravel(), seen.owners[t].ravel()), 1)
        named: dict[int, int] = {}
        for pair in np.argsort(-shared, axis=None, kind="stable")[: np.count_nonzero(shared)]:
            before, now = divmod(int(pair), count)
            if now not in named and before not in named.values():
                named[now] = before
        for now in np.flatnonzero(seen.live[t]).tolist():
            if now not in named:
                free = set(range(count)) - set(named.values())
                named[now] = now if now in free else min(free)
        new = np.array([named.get(k, -1) for k in range(count)])
        owners[t] = new[seen.owners[t]]
        kept = np.flatnonzero(seen.live[t])
        live[t], live[t, new[kept]] = False, True
        centroids[t, new[kept]] = seen.centroids[t, kept]
    return Track(owners, centroids, live)


def _parts(
    backbone: HNetViT, frames: Iterable[NDArray[np.uint8]]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]]:
    """Owners, centroids and live chunks of some frames at a time."""
    cache: Cache = {}
    device = next(backbone.parameters()).device
    rest = iter(frames)
    while some := list(islice(rest, AT_ONCE)):
        chunks = backbone(normalise_frames(np.stack(some))[None].to(device), cache=cache)
        owners = chunks.assignment[0].argmax(-1).unflatten(1, chunks.grid[1:])  # t x H' x W'
        centroids = chunks.chunk_centroids[0, ..., 1:].float()
        yield owners.cpu().numpy(), centroids.cpu().numpy(), ~chunks.chunk_mask[0].cpu().numpy()
