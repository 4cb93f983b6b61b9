"""Phase 3, probe: which labels hold, with a probability; goals and stop conditions as labels."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from hnet_vjepa.config import Stage
from hnet_vjepa.data.batch import Batch, clip_batches
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.utils.collectives import gather_rows


def probe_loss(model: HNetVJEPA, read: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """BCE with logits, and coherence: states with equal labels should look alike to the probe.

    ``read`` B x S x 2d (HNetVJEPA.read), labels B x L. Coherence is the logits' spread within groups of equal labels.
    """
    logits = model.probe(read).float()
    losses = {"bce": F.binary_cross_entropy_with_logits(logits, labels)}
    weight = model.config.probe.coherence
    if weight:
        logits, labels = gather_rows(logits), gather_rows(labels)  # groups are those of all ranks
        same = (labels[:, None] == labels[None]).all(-1).float()  # B x B
        centre = same @ logits / same.sum(-1, keepdim=True)
        losses["coherence"] = weight * F.smooth_l1_loss(logits, centre)
    return losses


class Probe:
    """BCE on an attentive probe over the frozen planning state."""

    name: Stage = "probe"
    hindsight = False

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
        return probe_loss(model, model.read(model.clip_states(batch.frames, batch.features).detach()), batch.labels)

    def evaluate(self, model: HNetVJEPA, store: EpisodeStore) -> dict[str, float]:
        """Average precision per label on held-out episodes, beside the label's frequency (what chance gives)."""
        return label_precision(model, store)


@torch.no_grad()
def label_precision(model: HNetVJEPA, store: EpisodeStore) -> dict[str, float]:
    """Average precision of every label, beside how often it holds (which is what guessing gives)."""
    frames = model.config.probe.clip_frames
    scores, truth = [], []
    for batch in clip_batches(store, model.robot.action, "held_out", frames, model.device):
        scores.append(model.probe(model.read(model.states(batch.video)[0])).double().cpu())
        truth.append(batch.labels.cpu())
    logits, labels = torch.cat(scores).numpy(), torch.cat(truth).numpy()
    metrics = {}
    for i, name in enumerate(store.info.labels):
        if 0 < labels[:, i].sum() < len(labels):
            metrics[f"ap/{name}"] = average_precision(logits[:, i], labels[:, i] > 0)
            metrics[f"frequency/{name}"] = float(labels[:, i].mean())
    if metrics:
        metrics["mean_ap"] = float(np.mean([v for k, v in metrics.items() if k.startswith("ap/")]))
        metrics["mean_frequency"] = float(np.mean([v for k, v in metrics.items() if k.startswith("frequency/")]))
    return metrics


def average_precision(scores: NDArray[np.floating], truth: NDArray[np.bool_]) -> float:
    """Mean over the positives of the precision at their rank: area under the precision-recall steps."""
    order = np.argsort(-scores, kind="stable")
    hits = truth[order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())
