"""What the planner must know of the energy's scale: when a goal counts as reached."""

from __future__ import annotations

import torch

from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.losses.energy import energy
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.trainers.measure import clip_batches

REACHED_QUANTILE = 0.05


@torch.no_grad()
def reached_energy(model: HNetVJEPA, store: EpisodeStore) -> float:
    """The energy below which a goal counts as reached: that of the nearest twentieth of consecutive frames.

    Needs no labels: a robot that is nearer to the goal than it nearly ever is to where it was one step ago has arrived,
    as far as the camera can tell.
    """
    energies = []
    for batch in clip_batches(model, store, "held_out", 2):
        states, masks = model.states(batch.video)
        before, after = (states[:, t] for t in (0, 1))
        plan = model.config.plan
        energies.append(energy(before, after, plan.distance, masks[:, 0], masks[:, 1], unmatched=plan.unmatched))
    return float(torch.cat(energies).quantile(REACHED_QUANTILE))
