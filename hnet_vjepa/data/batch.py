"""The batch contract, and the sampler that fills it: which clips a step sees is a pure function of (seed, step)."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hnet_vjepa.data.store import Episode, EpisodeStore, Split
from hnet_vjepa.data.transforms import augment
from hnet_vjepa.errors import UserError
from hnet_vjepa.specs import ActionSpec

PIXEL_MEAN = 0.5
PIXEL_STD = 0.5
CLIPS = 1500  # per split; enough for a linear probe of a few hundred dimensions


@dataclass(frozen=True)
class Batch:
    """B clips of T frames, as pictures (``frames``) or, where the backbone is frozen, as its tokens (``features``).

    ``keys`` names each draw, for choices that must depend on the sample alone.
    """

    frames: Tensor | None  # B x T x H x W x 3, float, normalised
    features: Tensor | None  # B x T x S x D
    hindsight_goal: (
        Tensor | None
    )  # B x 1 x ..., a later frame of each clip's episode, of the same kind; where asked for
    actions: Tensor  # B x (T - 1) x A, active dimensions, normalised
    text: list[tuple[str, ...]]  # B tuples of captions that are true of the last frame
    labels: Tensor  # B x L float, what holds at the last frame (L may be 0)
    states: Tensor  # B x T x N float (N may be 0), recorded: for linear probes and state supervision
    keys: list[int]

    @property
    def video(self) -> Tensor:
        """The clips' pictures, B x T x H x W x 3. Raises ValueError for a batch of features."""
        if self.frames is None:
            raise ValueError("this batch holds the backbone's features, not frames")
        return self.frames

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        moved: dict[str, Any] = {
            field.name: value.to(device)
            for field in dataclasses.fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return dataclasses.replace(self, **moved)


def normalise_frames(frames: NDArray[np.uint8] | Tensor) -> Tensor:
    """Pixels 0..255 (... x 3, uint8) to floats of mean about 0 and range -1..1."""
    pixels = torch.from_numpy(np.array(frames)) if isinstance(frames, np.ndarray) else frames  # a copy, for torch
    return (pixels.float() / 255 - PIXEL_MEAN) / PIXEL_STD


def normalise_actions(actions: NDArray[np.float32], spec: ActionSpec) -> NDArray[np.float32]:
    """Robot units ... x dim to the model's ... x A: active dimensions, zero mean, unit deviation."""
    if spec.mean is None or spec.std is None:
        raise ValueError("the action spec has no normalisation; measure it with ActionSpec.normalised_by")
    chosen = actions[..., list(spec.active)]
    mean, std = np.array(spec.mean, np.float32), np.array(spec.std, np.float32)
    return ((chosen - mean) / std).astype(np.float32)


class ClipSampler:
    """Draw clips of ``frames`` frames from the episodes of a split.

    Epoch e visits every clip once, in an order that depends on (seed, e) alone, so that a resumed run and a run on
    another number of ranks see the same batches. ``shift`` and ``brightness`` are those of ``transforms.augment``.
    ``hindsight``: batches have a hindsight goal. Raises UserError when no episode is long enough.

    Attributes: ``features``, by episode index T x S x D; when they are set, clips are made of these and not of frames.
    """

    def __init__(
        self,
        store: EpisodeStore,
        spec: ActionSpec,
        split: Split,
        frames: int,
        seed: int,
        shift: int = 0,
        brightness: float = 0.0,
        hindsight: bool = False,
    ) -> None:
        self.spec, self.frames, self.seed, self.shift, self.brightness = spec, frames, seed, shift, brightness
        self.hindsight = hindsight
        self.features: dict[int, Tensor] | None = None
        self.episodes = [e for e in store.split(split) if len(e) >= frames]
        if not self.episodes:
            longest = max(len(e) for e in store.episodes)
            if not store.split(split):
                raise UserError(
                    f"{store.path}: none of its {len(store.episodes)} episodes is {split.replace('_', '-')} when every "
                    f"{store.folds}th from number {store.held_out_fold} is held out; "
                    f"record more, or give --set data.folds={len(store.episodes)} "
                    f"--set data.held_out_fold={len(store.episodes) - 1}"
                )
            raise UserError(
                f"{store.path}: no {split.replace('_', '-')} episode has the {frames} frames that a clip needs "
                f"(the longest of {len(store.episodes)} episodes has {longest}); record more or set clip_frames lower"
            )
        self.starts = np.cumsum([0] + [len(e) - frames + 1 for e in self.episodes])

    def __len__(self) -> int:
        """Number of different clips."""
        return int(self.starts[-1])

    def batch(self, step: int, size: int, rank: int = 0, world: int = 1) -> Batch:
        """The ``rank``-th of ``world`` equal parts of global batch number ``step`` of ``size`` clips."""
        first = step * size + rank * (size // world)
        keys = list(range(first, first + size // world))
        return self.clips([self.clip_of(key) for key in keys], keys)

    def describe(self, key: int) -> str:
        """Episode and frames of draw ``key``, for messages."""
        number = self.clip_of(key)
        place = int(np.searchsorted(self.starts, number, "right")) - 1
        first = number - int(self.starts[place])
        return f"episode {self.episodes[place].index}, frames {first} to {first + self.frames - 1}"

    def clips(self, numbers: Sequence[int], keys: list[int] | None = None) -> Batch:
        """The clips of these numbers (0 .. len - 1)."""
        places = [(int(np.searchsorted(self.starts, n, "right")) - 1, n) for n in numbers]
        return self.gather([(self.episodes[e], n - int(self.starts[e])) for e, n in places], keys or list(numbers))

    def gather(self, places: Sequence[tuple[Episode, int]], keys: list[int]) -> Batch:
        """The clips that begin at these (episode, frame)."""
        rows = [(e, slice(s, s + self.frames)) for e, s in places]
        stack = lambda arrays: torch.from_numpy(np.stack(arrays).astype(np.float32))  # noqa: E731
        last = [s + self.frames - 1 for _, s in places]
        empty = np.zeros(0, np.float32)
        shown = [(e, [*range(r.start, r.stop)]) for e, r in rows]
        if self.hindsight:
            goals = [_later_frame(self.seed, key, t, len(e)) for key, t, (e, _) in zip(keys, last, rows, strict=True)]
            shown = [(e, [*numbers, goal]) for (e, numbers), goal in zip(shown, goals, strict=True)]
        clips = self._clips(shown, keys)
        clips, goal_frames = (clips[:, :-1], clips[:, -1:]) if self.hindsight else (clips, None)
        return Batch(
            frames=clips if self.features is None else None,
            features=None if self.features is None else clips,
            hindsight_goal=goal_frames,
            actions=stack([normalise_actions(e.actions[r.start : r.stop - 1], self.spec) for e, r in rows]),
            text=[e.captions[t] for (e, _), t in zip(rows, last, strict=True)],
            labels=stack([empty if e.labels is None else e.labels[t] for (e, _), t in zip(rows, last, strict=True)]),
            states=stack([np.zeros((self.frames, 0)) if e.states is None else e.states[r] for e, r in rows]),
            keys=keys,
        )

    def _clips(self, shown: Sequence[tuple[Episode, list[int]]], keys: list[int]) -> Tensor:
        """Frames by number of B episodes: pictures B x T x H x W x 3 or features B x T x S x D."""
        if self.features is not None:
            return torch.stack([self.features[e.index][numbers] for e, numbers in shown]).float()
        clips = np.stack([e.frames[numbers] for e, numbers in shown])
        return normalise_frames(augment(clips, keys, self.seed, self.shift, self.brightness))

    def clip_of(self, key: int) -> int:
        """The number of the clip of draw ``key``."""
        epoch, place = divmod(key, len(self))
        return int(_order(self.seed, epoch, len(self))[place])


def _later_frame(seed: int, key: int, last: int, length: int) -> int:
    """A frame number from ``last`` to the end of an episode, the same for the same draw."""
    return int(np.random.default_rng([seed, key, 1]).integers(last, length))


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, clips: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(clips)


def clip_batches(
    store: EpisodeStore, spec: ActionSpec, split: Split, frames: int, device: torch.device, limit: int = CLIPS
) -> Iterator[Batch]:
    """At most ``limit`` clips of a split, evenly spread over its episodes, in batches on a device."""
    sampler = ClipSampler(store, spec, split, frames, seed=0)
    numbers = np.unique(np.linspace(0, len(sampler) - 1, min(limit, len(sampler))).astype(int))
    for start in range(0, len(numbers), 100):
        yield sampler.clips(numbers[start : start + 100].tolist()).to(device)
