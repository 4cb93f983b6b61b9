"""What a backbone that does not learn makes of every frame, computed once: its phases then train on many more clips."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from hnet_vjepa.data.batch import ClipSampler, normalise_frames
from hnet_vjepa.data.store import Episode
from hnet_vjepa.models.model import HNetVJEPA

LARGEST = 4 * 2**30  # bytes of tokens that are kept in memory; beyond, frames are encoded at every step


class Encoded:
    """The tokens of one store's episodes by the backbone that was asked last. Phases that leave it as it is share them.

    They are computed in full precision, because motion is the small difference of two of them.
    """

    def __init__(self) -> None:
        self._weights = ""
        self._tokens: dict[int, Tensor] = {}  # by episode index, T x S x D

    @torch.no_grad()
    def by(self, model: HNetVJEPA, episodes: Sequence[Episode]) -> dict[int, Tensor]:
        """Tokens T x S x D by episode index, in half precision on the CPU; what is known already is not computed."""
        weights = _fingerprint(model.backbone)
        if weights != self._weights:
            self._weights, self._tokens = weights, {}
        device = next(model.backbone.parameters()).device
        for e in episodes:
            if e.index not in self._tokens:
                video = normalise_frames(e.frames)[:, None].to(device)
                self._tokens[e.index] = model.backbone(video).tokens[:, 0].half().cpu()
        return self._tokens


def encode_once(model: HNetVJEPA, sampler: ClipSampler, encoded: Encoded) -> bool:
    """Let ``sampler`` draw clips of tokens in place of pictures, where that comes to the same; say whether it does.

    It does when the backbone does not learn, looks at one frame at a time, and every clip shows its frames as they were
    recorded.
    """
    backbone = model.backbone
    learns = any(p.requires_grad for p in backbone.parameters())
    frames = sum(len(e) for e in sampler.episodes)
    bytes_needed = frames * model.config.model.backbone.slots * backbone.dim * torch.finfo(torch.float16).bits // 8
    if learns or backbone.encoder.history or sampler.shift or sampler.brightness or bytes_needed > LARGEST:
        return False
    sampler.features = encoded.by(model, sampler.episodes)
    return True


def _fingerprint(module: nn.Module) -> str:
    """SHA-256 of a module's weights."""
    found = hashlib.sha256()
    for name, tensor in module.state_dict().items():
        found.update(name.encode())
        found.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()
