"""What the planner must know of the energies' scale: when a goal counts as reached."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from hnet_vjepa.config import PhaseName
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.losses.energy import text_energy
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.planning.objectives import state_energy
from hnet_vjepa.trainers.measure import clip_batches

REACHED_QUANTILE = 0.05
TEXT_QUANTILE = 0.05


def measure_reached(model: HNetVJEPA, store: EpisodeStore, trained: Sequence[PhaseName]) -> dict[str, float | None]:
    """The fields of a manifest that say when goals of each kind count as reached."""
    told = "language" in trained and any(any(e.captions) for e in store.split("held_out"))
    return {
        "reached_energy": reached_energy(model, store),
        "reached_text_energy": reached_text_energy(model, store) if told else None,
    }


@torch.no_grad()
def reached_energy(model: HNetVJEPA, store: EpisodeStore) -> float:
    """The energy below which a picture counts as reached: that of the nearest twentieth of consecutive frames.

    Needs no labels: a robot that is nearer to the goal than it nearly ever is to where it was one step ago has arrived,
    as far as the camera can tell.
    """
    plan, energies = model.config.plan, []
    for batch in clip_batches(model, store, "held_out", 2):
        states, masks = model.states(batch.video)
        before, after = (states[:, t] for t in (0, 1))
        energies.append(state_energy(before, after, masks[:, 0], masks[:, 1], plan, model.world_model.steps))
    return float(torch.cat(energies).quantile(REACHED_QUANTILE))


@torch.no_grad()
def reached_text_energy(model: HNetVJEPA, store: EpisodeStore) -> float:
    """The energy below which a sentence counts as true: that of the nearest twentieth of clips and what was said of them.

    What is said of a place holds in a whole region; only well inside it has the robot surely arrived.
    """
    energies = []
    for batch in clip_batches(model, store, "held_out", model.config.language.clip_frames):
        video = model.projector(model.read(model.states(batch.video)[0]))
        for row, sentences in zip(video, batch.captions, strict=True):
            if sentences:
                energies.append(text_energy(row, model.text.encode(sentences)))
    return float(torch.cat(energies).quantile(TEXT_QUANTILE))
