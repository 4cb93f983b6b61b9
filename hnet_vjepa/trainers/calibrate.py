"""Calibration of a trained model: energies of reached goals, the out-of-distribution detector, the goal bank."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hnet_vjepa.calibration.goal_bank import GoalBank
from hnet_vjepa.calibration.ood import OODDetector, describe
from hnet_vjepa.config import PhaseName
from hnet_vjepa.data.batch import clip_batches
from hnet_vjepa.data.store import EpisodeStore, Split
from hnet_vjepa.losses.energy import text_energy
from hnet_vjepa.losses.state_energy import StateEnergy
from hnet_vjepa.models.model import HNetVJEPA

REACHED_QUANTILE = 0.05
TEXT_QUANTILE = 0.05
PICTURES = 2000  # that the out-of-distribution detector is fitted to
SHRINKAGE = 0.1  # added to every variance of their features, in shares of the variance itself
IN_DISTRIBUTION_QUANTILE = 0.99  # share of held-out pictures that count as in distribution


def measure_reached(model: HNetVJEPA, store: EpisodeStore, trained: Sequence[PhaseName]) -> dict[str, float | None]:
    """The fields of a manifest that say when goals of each kind count as reached."""
    captioned = "language" in trained and any(any(e.captions) for e in store.split("held_out"))
    return {
        "reached_energy": reached_energy(model, store),
        "reached_text_energy": reached_text_energy(model, store) if captioned else None,
    }


@torch.no_grad()
def reached_energy(model: HNetVJEPA, store: EpisodeStore) -> float:
    """The energy below which a picture counts as reached: that of the nearest twentieth of consecutive frames.

    Needs no labels: a robot that is nearer to the goal than it nearly ever is to where it was one step ago has arrived,
    as far as the camera can tell.
    """
    energy, energies = StateEnergy.of(model), []
    for batch in clip_batches(store, model.robot.action, "held_out", 2, model.device):
        states, masks = model.states(batch.video)
        before, after = (states[:, t] for t in (0, 1))
        energies.append(energy(before, after, masks[:, 0], masks[:, 1]))
    return float(torch.cat(energies).quantile(REACHED_QUANTILE))


@torch.no_grad()
def reached_text_energy(model: HNetVJEPA, store: EpisodeStore) -> float:
    """The energy below which a sentence counts as true: that of the nearest twentieth of clips and their captions.

    What is said of a place holds in a whole region; only well inside it has the robot surely arrived.
    """
    energies = []
    for batch in clip_batches(store, model.robot.action, "held_out", model.config.language.clip_frames, model.device):
        video = model.projector(model.read(model.states(batch.video)[0]))
        for row, sentences in zip(video, batch.text, strict=True):
            if sentences:
                energies.append(text_energy(row, model.text.encode(sentences)))
    return float(torch.cat(energies).quantile(TEXT_QUANTILE))


@torch.no_grad()
def fit_ood_detector(model: HNetVJEPA, store: EpisodeStore) -> OODDetector:
    """Fit the Gaussian to training pictures and the limit to held-out ones."""

    def seen(split: Split) -> Tensor:
        batches = clip_batches(store, model.robot.action, split, 1, model.device, limit=PICTURES)
        return torch.cat([describe(model.backbone(batch.video).cells[:, 0]).cpu() for batch in batches]).double()

    known = seen("train")
    mean, scale = known.mean(0), known.std(0, unbiased=False).clamp(min=1e-6)
    normal = (known - mean) / scale  # N x F
    covariance = normal.T @ normal / len(normal) + SHRINKAGE * torch.eye(len(mean), dtype=torch.float64)
    whiten = torch.linalg.cholesky(torch.linalg.inv(covariance)) / scale[:, None]
    held_out = torch.linalg.vector_norm((seen("held_out") - mean) @ whiten, dim=-1)
    return OODDetector(mean.float(), whiten.float(), float(held_out.quantile(IN_DISTRIBUTION_QUANTILE)))


@torch.no_grad()
def build_goal_bank(model: HNetVJEPA, store: EpisodeStore) -> GoalBank:
    """Keep ``plan.goal_bank_size`` states, of pictures spread evenly over the training episodes."""
    batches = clip_batches(store, model.robot.action, "train", 1, model.device, limit=model.config.plan.goal_bank_size)
    return GoalBank(torch.cat([model.states(batch.video)[0][:, 0].cpu() for batch in batches]))
