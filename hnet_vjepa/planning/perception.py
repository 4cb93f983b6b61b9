"""From frames to planning states: encoding, caches of what was encoded, and out-of-distribution pictures."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hnet_vjepa.calibration.ood import OODDetector
from hnet_vjepa.data.batch import normalise_frames
from hnet_vjepa.models.hnet.encoder import Cache
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.planning.encoder_cache import EncoderCache
from hnet_vjepa.planning.goals.region import Region, slot_shares
from hnet_vjepa.planning.jit import Function, jit_trace

CACHED_PICTURES = 512  # goals, and the frames of the robots that ask for plans
CACHED_REGIONS = 64


@dataclass(frozen=True)
class Seen:
    """Planning states of pictures; the leading axes are those of the pictures."""

    states: Tensor  # ... x S x d
    masks: Tensor  # ... x S, True = slot that holds nothing
    ood: Tensor  # ..., True = out of distribution; all False where that is not known


@dataclass(frozen=True)
class Present:
    """The present states of B robots, with the previous states and the actions in between."""

    state: Tensor  # B x S x d
    prev_state: Tensor  # B x S x d, one control step before
    mask: Tensor  # B x S, True = slot that holds nothing
    prev_action: Tensor  # B x A, the model's units, between the two
    ood: Tensor  # B, True = the last frame is out of distribution

    def rows(self, rows: list[int]) -> Present:
        """Some of the robots."""
        return Present(self.state[rows], self.prev_state[rows], self.mask[rows], self.prev_action[rows], self.ood[rows])


class Perception:
    """The encoder of one checkpoint. Encodings of pictures, regions and running cameras are cached."""

    def __init__(self, model: HNetVJEPA, detector: OODDetector | None) -> None:
        self._model, self._detector = model, detector
        self._encoded: Function = self._encode
        self._pictures: OrderedDict[bytes, tuple[Tensor, ...]] = OrderedDict()
        self.region_shares = lru_cache(CACHED_REGIONS)(self._region_shares)
        history = model.backbone.encoder.history
        self._cache = EncoderCache(self._see, history) if history else None

    @property
    def detects_ood(self) -> bool:
        """Whether the checkpoint has an out-of-distribution detector."""
        return self._detector is not None

    def compile(self) -> None:
        """Trace the encoding of one picture."""
        camera = self._model.robot.camera
        self._encoded = jit_trace(self._encode, [((1, 1, camera.height, camera.width, 3),)])

    def present(self, clips: Sequence[NDArray[np.uint8]], prev_action: Tensor) -> Present:
        """The present states, from B equally long clips (T x H x W x 3). A single frame is taken to be at rest."""
        if self._cache is None:  # a state depends on its own frame alone
            seen = self.pictures([frame for clip in clips for frame in clip[-2:]])
            states, masks, ood = (x.unflatten(0, (len(clips), -1)) for x in (seen.states, seen.masks, seen.ood))
        else:
            states, masks, ood = self._cache.last_two(clips)
        past = max(0, states.shape[1] - 2)
        return Present(states[:, -1], states[:, past], masks[:, -1], prev_action, ood[:, -1])

    def pictures(self, pictures: Sequence[NDArray[np.uint8]]) -> Seen:
        """Planning states of N single pictures (H x W x 3)."""
        keys = [picture.tobytes() for picture in pictures]
        new = {key: picture for key, picture in zip(keys, pictures, strict=True) if key not in self._pictures}
        if new:
            seen = self._see(np.stack(list(new.values()))[:, None])
            self._pictures.update(zip(new, zip(*(x[:, 0] for x in seen), strict=True), strict=True))
        known = [self._pictures[key] for key in keys]
        for key in keys:
            self._pictures.move_to_end(key)
        while len(self._pictures) > CACHED_PICTURES:
            self._pictures.popitem(last=False)
        return Seen(*(torch.stack(parts) for parts in zip(*known, strict=True)))

    def _region_shares(self, picture: bytes, region: Region) -> Tensor:
        """See ``slot_shares``; ``picture`` holds the bytes of H x W x 3 pixels."""
        camera = self._model.robot.camera
        frame = np.frombuffer(picture, np.uint8).reshape(1, 1, camera.height, camera.width, 3)
        return slot_shares(self._model.backbone(normalise_frames(frame)), region, camera.height, camera.width)

    def _encode(self, video: Tensor, cache: Cache | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised video B x T x H x W x 3 -> states B x T x S x d, masks B x T x S and cells B x T x N x D."""
        chunks = self._model.backbone(video, cache=cache)
        return self._model.world_model.readout(chunks.tokens).float(), chunks.mask, chunks.cells

    def _see(self, clips: NDArray[np.uint8], cache: Cache | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """States, masks and out-of-distribution flags (B x T) of clips B x T x H x W x 3.

        ``cache``: the encoder's past of running cameras, whose next frames the clips are.
        """
        video = normalise_frames(clips)
        states, masks, cells = self._encoded(video) if cache is None else self._encode(video, cache)
        ood = torch.zeros(masks.shape[:2], dtype=torch.bool)
        if self._detector is not None:
            ood = self._detector.out_of_distribution(cells)
        return states, masks, ood
