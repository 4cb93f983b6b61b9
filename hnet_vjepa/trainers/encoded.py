"""What a backbone that does not learn makes of every frame, computed once: its phases then train on many more clips."""

from __future__ import annotations

import torch

from hnet_vjepa.data.batch import ClipSampler, normalise_frames
from hnet_vjepa.models.model import HNetVJEPA

LARGEST = 4 * 2**30  # bytes of tokens that are kept in memory; beyond, frames are encoded at every step


def encode_once(model: HNetVJEPA, sampler: ClipSampler) -> bool:
    """Let ``sampler`` draw clips of tokens in place of pictures, where that comes to the same; say whether it does.

    It does when the backbone does not learn, looks at one frame at a time, and every clip shows its frames as they were
    recorded. The tokens are computed in full precision, because motion is the small difference of two of them.
    """
    backbone = model.backbone
    learns = any(p.requires_grad for p in backbone.parameters())
    frames = sum(len(e) for e in sampler.episodes)
    bytes_needed = frames * model.config.model.backbone.slots * backbone.dim * torch.finfo(torch.float16).bits // 8
    if learns or backbone.encoder.history or sampler.shift or sampler.brightness or bytes_needed > LARGEST:
        return False
    device = next(backbone.parameters()).device
    with torch.no_grad():
        sampler.tokens = {
            e.index: backbone(normalise_frames(e.frames)[:, None].to(device)).tokens[:, 0].half().cpu()  # T x S x D
            for e in sampler.episodes
        }
    return True
