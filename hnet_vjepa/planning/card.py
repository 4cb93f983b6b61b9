"""The card of a checkpoint: what a client must know of it."""

from __future__ import annotations

from hnet_vjepa.checkpoint import Checkpoint
from hnet_vjepa.data.batch import PIXEL_MEAN, PIXEL_STD
from hnet_vjepa.planning.goals.factory import trained_kinds
from hnet_vjepa.planning.interface import ModelCard, SearchSettings


def model_card(checkpoint: Checkpoint) -> ModelCard:
    """Describe a checkpoint that plans."""
    model, trained = checkpoint.model, checkpoint.manifest.trained()
    plan = model.config.plan
    return ModelCard(
        name=model.config.name,
        camera=model.robot.camera,
        action=model.robot.action,
        phases=trained,
        goals=trained_kinds(trained),
        labels=model.robot.labels if "probe" in trained else (),
        history=model.backbone.encoder.history + 1,  # the dynamics needs the state before, with its own past
        state_shape=(model.config.model.backbone.slots, model.config.model.world_model.state_dim),
        search=SearchSettings(plan.candidates, plan.iterations, plan.horizon, plan.elites),
        parameters=sum(
            p.numel()
            for name, p in model.named_parameters()
            if not (name.startswith("target.") or checkpoint.manifest.lacks(name))
        ),
        fingerprint=checkpoint.fingerprint,
        pixel_mean=(PIXEL_MEAN,) * 3,
        pixel_std=(PIXEL_STD,) * 3,
        task=checkpoint.manifest.phases[-1].data,
    )
