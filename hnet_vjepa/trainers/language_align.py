"""Phase 2, language: sentences and planning states that belong together come close."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from hnet_vjepa.config import Stage
from hnet_vjepa.data.batch import Batch
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.losses.contrastive import nt_xent
from hnet_vjepa.losses.energy import text_energy
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.trainers.measure import caption_retrieval


def language_loss(
    model: HNetVJEPA, read: Tensor, captions: list[tuple[str, ...]], keys: list[int]
) -> dict[str, Tensor]:
    """NT-Xent and energy between what is read of the clips (B x S x 2d, HNetVJEPA.read) and one caption each.

    A caption that is true of several clips counts as right for all of them. Clips without one are left out.
    """
    config = model.config.language
    told = [i for i, true in enumerate(captions) if true]
    if not told:  # nothing was said of these clips
        return {"nt_xent": model.projector(read).sum() * 0.0 + model.text.encode(["nothing"]).sum() * 0.0}
    read, captions, keys = read[told], [captions[i] for i in told], [keys[i] for i in told]
    pick = [np.random.default_rng([model.config.seed, key, 2]) for key in keys]
    chosen = [true[int(random.integers(len(true)))] for true, random in zip(captions, pick, strict=True)]
    positives = torch.tensor([[text in c for text in chosen] for c in captions])
    positives |= torch.eye(len(chosen), dtype=torch.bool)
    positives = positives.to(read.device)
    video, text = model.projector(read), model.text.encode(chosen)
    losses = {"nt_xent": nt_xent(video, text, config.temperature, positives)}
    if config.energy:
        losses["text_energy"] = config.energy * text_energy(video, text).mean()
    return losses


class Language:
    """NT-Xent + energy on frozen chunks; trains the state's read-out, the projection and the text tower."""

    name: Stage = "language"

    def modules(self, model: HNetVJEPA) -> list[nn.Module]:
        """Read-out of the planning state, projection, text tower."""
        return [model.world_model.readout, model.projector, model.text]

    def ema(self, model: HNetVJEPA) -> float | None:
        """No target."""
        return None

    def ready(self, store: EpisodeStore) -> str | None:
        """Needs captions."""
        return None if any(any(e.captions) for e in store.episodes) else "it has no captions"

    def loss(self, model: HNetVJEPA, batch: Batch) -> dict[str, Tensor]:
        """See language_loss."""
        return language_loss(model, model.read(model.states_of(batch.video)), batch.captions, batch.keys)

    def evaluate(self, model: HNetVJEPA, store: EpisodeStore) -> dict[str, float]:
        """Retrieval of the right caption among held-out ones, minimal pairs apart."""
        return caption_retrieval(model, store)
