"""Track the chunks of a clip from frame to frame: which cells each has, its centroid, and the number of chunks."""

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

BATCH_FRAMES = 16  # frames encoded together; the encoder is causal, so the result does not depend on it


@dataclass(frozen=True)
class ChunkCounts:
    """Statistics of the number of chunks per frame of a clip."""

    least: int
    median: float
    most: int
    mean: float
    frames: int
    prototypes: int  # upper bound of the number of chunks

    def __str__(self) -> str:
        return (
            f"{self.least} at least, {self.median:g} in the median, {self.most} at most "
            f"({self.frames} frames, {self.prototypes} prototypes)"
        )


@dataclass(frozen=True)
class ChunkTrack:
    """The chunks of T frames of H' x W' cells each, among K prototypes."""

    owners: NDArray[np.int64]  # T x H' x W', index of the chunk with the largest assignment weight
    centroids: NDArray[np.float32]  # T x K x 2 (y, x), from -1 (top, left) to 1
    live: NDArray[np.bool_]  # T x K, whether the chunk owns a cell

    @property
    def counts(self) -> NDArray[np.int64]:
        """Number of live chunks of each frame: T."""
        return self.live.sum(1)

    def statistics(self) -> ChunkCounts:
        """Statistics of ``counts``."""
        counts = self.counts
        return ChunkCounts(
            least=int(counts.min()),
            median=float(np.median(counts)),
            most=int(counts.max()),
            mean=float(counts.mean()),
            frames=len(counts),
            prototypes=self.live.shape[1],
        )


@torch.no_grad()
def track_chunks(backbone: HNetViT, frames: Iterable[NDArray[np.uint8]]) -> ChunkTrack:
    """Encode frames (H x W x 3 each, of the model's camera) as a running camera would and return their chunks.

    Each frame is routed by itself, with the encoder's cache of earlier frames. Chunks merged under a token budget are
    renumbered by ``match_chunks``, so that a chunk keeps its index over time. Raises ValueError without frames.
    """
    parts = list(_encode(backbone, frames))
    if not parts:
        raise ValueError("there are no frames to track chunks in")
    track = ChunkTrack(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))
    return match_chunks(track) if isinstance(backbone.routing, BudgetedChunks) else track


def match_chunks(track: ChunkTrack) -> ChunkTrack:
    """Renumber the chunks of each frame like the chunks of the previous frame that they overlap most.

    A merged chunk has the index of its first prototype, which may change although the chunk hardly does. Pairs are
    matched greedily by the number of shared cells. An unmatched chunk keeps its index if that is free, otherwise it
    gets the lowest free one.
    """
    owners, centroids, live = track.owners.copy(), track.centroids.copy(), track.live.copy()
    count = live.shape[1]
    for t in range(1, len(owners)):
        overlap = np.zeros((count, count), np.int64)  # cells shared by chunk (row) of t - 1 and chunk (column) of t
        np.add.at(overlap, (owners[t - 1].ravel(), track.owners[t].ravel()), 1)
        index_of: dict[int, int] = {}
        for pair in np.argsort(-overlap, axis=None, kind="stable")[: np.count_nonzero(overlap)]:
            previous, current = divmod(int(pair), count)
            if current not in index_of and previous not in index_of.values():
                index_of[current] = previous
        for current in np.flatnonzero(track.live[t]).tolist():
            if current not in index_of:
                free = set(range(count)) - set(index_of.values())
                index_of[current] = current if current in free else min(free)
        new = np.array([index_of.get(k, -1) for k in range(count)])
        owners[t] = new[track.owners[t]]
        old = np.flatnonzero(track.live[t])
        live[t], live[t, new[old]] = False, True
        centroids[t, new[old]] = track.centroids[t, old]
    return ChunkTrack(owners, centroids, live)


def _encode(
    backbone: HNetViT, frames: Iterable[NDArray[np.uint8]]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]]:
    """Owners, centroids and live chunks of BATCH_FRAMES frames at a time."""
    cache: Cache = {}
    device = next(backbone.parameters()).device
    remaining = iter(frames)
    while batch := list(islice(remaining, BATCH_FRAMES)):
        chunks = backbone(normalise_frames(np.stack(batch))[None].to(device), cache=cache)
        owners = chunks.assignment[0].argmax(-1).unflatten(1, chunks.grid[1:])  # t x H' x W'
        centroids = chunks.chunk_centroids[0, ..., 1:].float()
        yield owners.cpu().numpy(), centroids.cpu().numpy(), ~chunks.chunk_mask[0].cpu().numpy()
