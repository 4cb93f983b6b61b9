"""Phase 3, probe: which labels hold, with a probability; goals and stop conditions as labels."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from hnet_vjepa.config import Stage
from hnet_vjepa.data.batch import Batch
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.trainers.measure import label_precision


def probe_loss(model: HNetVJEPA, read: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """BCE with logits, and coherence: states with equal labels should look alike to the probe.

    ``read`` B x S x 2d (HNetVJEPA.read), labels B x L. Coherence is the logits' spread within groups of equal labels.
    """
    logits = model.probe(read).float()
    losses = {"bce": F.binary_cross_entropy_with_logits(logits, labels)}
    weight = model.config.probe.coherence
    if weight:
        same = (labels[:, None] == labels[None]).all(-1).float()  # B x B
        centre = same @ logits / same.sum(-1, keepdim=True)
        losses["coherence"] = weight * F.smooth_l1_loss(logits, centre)
    return losses


class Probe:
    """BCE on an attentive probe over the frozen planning state."""

    name: Stage = "probe"

    def modules(self, model: HNetVJEPA) -> list[nn.Module]:
        """The probe alone."""
        return [model.probe]

    def ema(self, model: HNetVJEPA) -> float | None:
        """No target."""
        return None

    def ready(self, store: EpisodeStore) -> str | None:
        """Needs labels."""
        return None if store.info.labels else "it has no labels"

    def loss(self, model: HNetVJEPA, batch: Batch) -> dict[str, Tensor]:
        """See probe_loss."""
        return probe_loss(model, model.read(model.states_of(batch.video).detach()), batch.labels)

    def evaluate(self, model: HNetVJEPA, store: EpisodeStore) -> dict[str, float]:
        """Average precision per label on held-out episodes, beside the label's frequency (what chance gives)."""
        return label_precision(model, store)
