"""Phase 4, action: what the planning state becomes if the robot does ``a``."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from hnet_vjepa.config import PhaseName, Stage
from hnet_vjepa.data.batch import Batch, clip_batches
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.losses.inverse import inverse_loss
from hnet_vjepa.losses.vicregl import covariance_loss, variance_loss
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.models.world_model import rollout
from hnet_vjepa.trainers.language_align import caption_retrieval, language_loss
from hnet_vjepa.trainers.linear_probe import fit_probe, median_cm, probe_error, sampled_states
from hnet_vjepa.trainers.probe_train import label_precision, probe_loss
from hnet_vjepa.utils.collectives import gather_rows

HORIZON = 10  # steps of the open-loop error


class Action:
    """Teacher-forced step, rollout, inverse dynamics, variance and covariance.

    ``rehearse`` names the phases trained before: their heads go on learning on detached states, so that words and
    labels stay valid while the states change, and no gradient of theirs reaches the states.

    State supervision of the encoder adaptation, where it is on, goes on here: on encoded states, so that the state
    decoder stays valid, and on imagined ones, so that the dynamics predict the recorded state.
    """

    name: Stage = "action"
    hindsight = False

    def __init__(self, rehearse: tuple[PhaseName, ...] = ()) -> None:
        self.rehearse = rehearse

    def modules(self, model: HNetVJEPA) -> list[nn.Module]:
        """Linear layer of the planning state, dynamics, inverse dynamics, backbone unless frozen, rehearsed heads."""
        world = model.world_model
        modules: list[nn.Module] = [world.readout, world.dynamics, world.inverse]
        if not model.config.action.frozen_encoder:
            modules.append(model.backbone)
        if model.state_decoder is not None:
            modules.append(model.state_decoder)
        if model.config.action.rehearsal and "language" in self.rehearse:
            modules += [model.projector, model.text]
        if model.config.action.rehearsal and "probe" in self.rehearse:
            modules.append(model.probe)
        return modules

    def ema(self, model: HNetVJEPA) -> float | None:
        """No target: the variance term and inverse dynamics prevent collapse."""
        return None

    def ready(self, store: EpisodeStore) -> str | None:
        """Needs actions that differ."""
        columns = list(store.info.action.active)
        if not columns:
            return "it has no actions"
        actions = np.concatenate(
            [e.actions[:, columns] for e in store.split("train")] or [np.zeros((1, 1), np.float32)]
        )
        return None if actions.std(0).max() > 0 else "its actions never change"

    def loss(self, model: HNetVJEPA, batch: Batch) -> dict[str, Tensor]:
        """Squared errors of prediction in the planning state, and what keeps the state informative."""
        config, world = model.config.action, model.world_model
        states = model.clip_states(batch.frames, batch.features)  # B x T x S x d
        # The first frame has no past, so it says nothing of the motion that the first prediction starts with.
        prev_state, now, after = (x.flatten(0, 1) for x in (states[:, :-2], states[:, 1:-1], states[:, 2:]))
        prev_action, actions = batch.actions[:, :-1], batch.actions[:, 1:]
        stepped = world.dynamics(now, prev_state, prev_action.flatten(0, 1), actions.flatten(0, 1))
        imagined = rollout(world.dynamics, states[:, 1], states[:, 0], prev_action[:, 0], actions)
        losses = {
            "one_step": (stepped - after).square().mean(),
            "rollout": config.rollout * (imagined - states[:, 2:]).square().mean(),
        }
        losses["inverse"] = config.inverse * inverse_loss(world.inverse, states, batch.actions)
        # Each slot around its own mean: otherwise slots that differ from each other, but never change, would do.
        rows = gather_rows(states.flatten(0, 1).flatten(1))  # (B*T over all ranks) x (S*d)
        content = (rows - rows.mean(0)).unflatten(1, states.shape[2:]).flatten(0, 1)  # (B*T*S) x d
        losses["variance"] = config.variance * variance_loss(content)
        losses["covariance"] = config.covariance * covariance_loss(content)
        if model.state_decoder is not None and model.config.encoder_adaptation is not None:
            encoded, predicted = (
                model.state_decoder.error(states, batch.states),
                model.state_decoder.error(imagined, batch.states[:, 2:]),
            )
            losses["states"] = model.config.encoder_adaptation.state_supervision * (encoded + predicted)
        if config.rehearsal and "language" in self.rehearse:
            terms = language_loss(model, model.read(states.detach()), batch.text, batch.keys)
            losses["language"] = config.rehearsal * torch.stack(list(terms.values())).sum()
        if config.rehearsal and "probe" in self.rehearse:
            terms = probe_loss(model, model.read(states.detach()), batch.labels)
            losses["probe"] = config.rehearsal * torch.stack(list(terms.values())).sum()
        return losses

    def evaluate(self, model: HNetVJEPA, store: EpisodeStore) -> dict[str, float]:
        """Open-loop error over 1..10 steps against "nothing moves"; and the heads once more."""
        metrics = open_loop_error(model, store)
        if "language" in self.rehearse:
            metrics |= caption_retrieval(model, store)
        if "probe" in self.rehearse:
            metrics |= label_precision(model, store)
        return metrics


@torch.no_grad()
def open_loop_error(model: HNetVJEPA, store: EpisodeStore) -> dict[str, float]:
    """Mean absolute error of the imagined planning state after 1..10 steps, beside "nothing moves".

    Where the data records positions in metres, the error of a linear probe in centimetres.
    """
    longest = max(len(e) for e in store.split("held_out")) if store.split("held_out") else 0
    frames = min(HORIZON + 2, longest)  # two to start from
    errors, still, positions, starts = [], [], [], []
    for batch in clip_batches(store, model.robot.action, "held_out", frames, model.device, limit=400):
        states = model.states(batch.video)[0]
        imagined = rollout(
            model.world_model.dynamics, states[:, 1], states[:, 0], batch.actions[:, 0], batch.actions[:, 1:]
        )
        errors.append((imagined - states[:, 2:]).abs().mean((2, 3)))
        still.append((states[:, 1:2] - states[:, 2:]).abs().mean((2, 3)))
        starts.append(batch.states[:, 1].double().cpu().numpy())
        positions.append((imagined.flatten(2).double().cpu().numpy(), batch.states[:, 2:].double().cpu().numpy()))
    error, baseline = torch.cat(errors).mean(0), torch.cat(still).mean(0)
    metrics = {f"open_loop/{h + 1}": float(error[h]) for h in range(frames - 2)}
    metrics |= {f"nothing_moves/{h + 1}": float(baseline[h]) for h in range(frames - 2)}
    metrics["open_loop_ratio"] = float((error / baseline.clamp(min=1e-9)).mean())
    metres = [i for i, name in enumerate(store.info.states) if name.endswith("[m]")]
    if metres:
        features, recorded = sampled_states(model, store, chunks=False)
        metrics |= {f"state_{k}": v for k, v in probe_error(features, recorded, store.info.states).items()}
        read, start = fit_probe(features["train"], recorded["train"]), np.concatenate(starts)
        for h in range(frames - 2):
            imagined_there = np.concatenate([read(imagined[:, h]) for imagined, _ in positions])
            there = np.concatenate([recorded_there[:, h] for _, recorded_there in positions])
            metrics[f"open_loop_cm/{h + 1}"] = median_cm((imagined_there - there)[:, metres])
            metrics[f"nothing_moves_cm/{h + 1}"] = median_cm((start - there)[:, metres])
    return metrics
