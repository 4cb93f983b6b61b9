"""Encoder adaptation, optional before phase 4: the encoder learns to show what actions change, and keeps the rest."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from hnet_vjepa.config import EncoderAdaptationConfig, Stage
from hnet_vjepa.data.batch import Batch
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.losses.inverse import inverse_loss
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.models.vjepa.vit import Chunks
from hnet_vjepa.trainers.linear_probe import probe_error, sampled_states
from hnet_vjepa.trainers.pretrain import slot_places
from hnet_vjepa.utils.collectives import gather_rows

LEAST_STD = 1e-3  # deviation of a target below which it is a constant


class EncoderAdaptation:
    """Inverse dynamics through the encoder, with distillation of the encoder's output before the adaptation.

    Masked prediction can not predict where an actuated gripper goes, so pretraining loses small grippers. Inverse
    dynamics recovers them (Pathak et al. 2017; Sobal et al. 2025, PLDM), but carries little information on an object
    that seldom moves and would remove it from the features; a predictor must therefore reconstruct the output of the
    encoder before the adaptation, which the EMA target keeps.

    Neither shows how an object is turned (push-t). Where the recording has it, state supervision adds the error of a
    linear state decoder on the planning state, here and in the action phase. Planning sees pictures alone.
    """

    name: Stage = "encoder_adaptation"
    hindsight = False

    def modules(self, model: HNetVJEPA) -> list[nn.Module]:
        """Backbone, linear layer of the planning state, and the modules of those loss terms that have a weight."""
        settings = _settings(model)
        trained: list[nn.Module] = [model.backbone, model.world_model.readout]
        trained += [model.world_model.inverse] if settings.inverse else []
        trained += [model.predictor] if settings.distillation else []
        return [*trained, *([] if model.state_decoder is None else [model.state_decoder])]

    def ema(self, model: HNetVJEPA) -> float | None:
        """A target that stays where it is."""
        return 1.0

    def ready(self, store: EpisodeStore) -> str | None:
        """What the action phase is trained on will do."""
        return None

    def prepare(self, model: HNetVJEPA, store: EpisodeStore) -> None:
        """Measure the scales of the recorded state."""
        if model.state_decoder is not None:
            recorded = np.concatenate([e.states for e in store.split("train") if e.states is not None])
            model.state_decoder.fit(torch.from_numpy(recorded).double())

    def loss(self, model: HNetVJEPA, batch: Batch) -> dict[str, Tensor]:
        """Squared errors of actions between states, of what the target shows, and of the recorded state."""
        settings = _settings(model)
        chunks = model.backbone(batch.video)
        states = model.world_model.readout(chunks.tokens).float()  # B x T x S x d
        losses = {}
        if settings.inverse:
            losses["inverse"] = settings.inverse * inverse_loss(model.world_model.inverse, states, batch.actions)
        if settings.distillation:
            with torch.no_grad():
                target = model.target(batch.video)
            wanted = standardised(target.tokens.float().flatten(0, 1))  # BT x S x D
            losses["distillation"] = (
                settings.distillation * (self._reconstruct(model, chunks).float() - wanted).square().mean()
            )
        if model.state_decoder is not None:
            losses["states"] = settings.state_supervision * model.state_decoder.error(states, batch.states)
        return losses

    @staticmethod
    def _reconstruct(model: HNetVJEPA, chunks: Chunks) -> Tensor:
        """What the predictor makes of every frame's chunks by themselves, at the places of the slots: BT x S x D."""
        tokens = chunks.tokens.flatten(0, 1)  # BT x S x D
        places, sizes = slot_places(model.backbone, chunks)  # B x TS x 3, B x TS
        slots = tokens.shape[1]
        anchors = places[:1, :slots].expand(len(tokens), -1, -1)  # of the first frame: a frame has no time here
        weights = sizes[:1, :slots].expand(len(tokens), -1)
        found: Tensor = model.predictor(tokens, anchors, weights, chunks.mask.flatten(0, 1), anchors, weights)
        return found

    def evaluate(self, model: HNetVJEPA, store: EpisodeStore) -> dict[str, float]:
        """Linear probe of the recorded state from held-out chunks, as in pretraining."""
        features, states = sampled_states(model, store, chunks=True)
        found = probe_error(features, states, store.info.states) if states["train"].shape[1] else {}
        return {f"adapted_{name}": value for name, value in found.items()}


def _settings(model: HNetVJEPA) -> EncoderAdaptationConfig:
    settings = model.config.encoder_adaptation
    assert settings is not None  # the pipeline makes this phase of that section alone
    return settings


def standardised(tokens: Tensor) -> Tensor:
    """Every number of every slot with mean 0 and deviation 1 over all rows and ranks: N x S x D -> N x S x D.

    What a small object changes is little next to what tells one slot from another; without this it would not count.
    """
    rows = gather_rows(tokens.flatten(1))  # (N over all ranks) x SD
    mean, std = rows.mean(0), rows.std(0, correction=0)
    return ((tokens.flatten(1) - mean) / std.clamp(min=LEAST_STD)).unflatten(1, tokens.shape[1:])
