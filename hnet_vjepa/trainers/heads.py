"""The second half of phase 4: heads on the planning states of the first half, which are frozen."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hnet_vjepa.config import Stage
from hnet_vjepa.data.batch import Batch, clip_batches
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.losses.macro_dynamics import macro_dynamics_loss
from hnet_vjepa.losses.policy_prior import policy_prior_loss
from hnet_vjepa.losses.temporal import temporal_distance_loss
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.trainers.linear_probe import sampled_states
from hnet_vjepa.utils.collectives import gather_rows

WHITENED = 6000  # pictures that whitenings are fitted on, for a few hundred directions


class Heads:
    """Temporal distance, policy prior and macro dynamics.

    None of them trains the states that it is learnt on, so they wait until the states are fixed: the small differences
    that tell some goals apart are learnt slowly, and not at all while the states still change. Frames are encoded once,
    so a step costs a fraction of one of the first half.
    """

    name: Stage = "heads"
    hindsight = True

    def modules(self, model: HNetVJEPA) -> list[nn.Module]:
        """The modules of the world model that guide the search."""
        world = model.world_model
        macro_dynamics: list[nn.Module] = [] if world.macro_dynamics is None else [world.macro_dynamics]
        return [world.temporal_distance, world.policy_prior, *macro_dynamics]

    def ema(self, model: HNetVJEPA) -> float | None:
        """No target."""
        return None

    def ready(self, store: EpisodeStore) -> str | None:
        """Whatever the first half was trained on will do."""
        return None

    def prepare(self, model: HNetVJEPA, store: EpisodeStore) -> None:
        """Fit the whitening of the inputs of temporal distance and policy prior, unless they were trained before."""
        world = model.world_model
        fresh = [w for w in (world.temporal_distance.whitening, world.policy_prior.whitening) if not w.fitted]
        if fresh:
            features, _ = sampled_states(model, store, chunks=False, limit=WHITENED)
            for whitening in fresh:
                whitening.fit(torch.from_numpy(features["train"]).to(whitening.mean.device))

    def loss(self, model: HNetVJEPA, batch: Batch) -> dict[str, Tensor]:
        """Losses of the temporal distance, of the policy prior with hindsight goals, and of the macro dynamics."""
        world = model.world_model
        with torch.no_grad():
            states = model.clip_states(batch.frames, batch.features)  # B x T x S x d
            assert batch.hindsight_goal is not None
            goal = (batch.hindsight_goal, None) if batch.features is None else (None, batch.hindsight_goal)
            hindsight_goal = model.clip_states(*goal)[:, 0]  # B x S x d
        embedded = gather_rows(world.temporal_distance.embed(states))  # pairs are those of all ranks
        losses = {
            "temporal_distance": temporal_distance_loss(embedded),
            "policy_prior": policy_prior_loss(world.policy_prior, states, batch.actions, hindsight_goal),
        }
        if world.macro_dynamics is not None:
            losses["macro_dynamics"] = macro_dynamics_loss(
                world.macro_dynamics, states[:, 0], states[:, -1], batch.keys
            )
        return losses

    def evaluate(self, model: HNetVJEPA, store: EpisodeStore) -> dict[str, float]:
        """Error of the policy prior's mean action, beside the mean action of the data."""
        return policy_prior_error(model, store)


@torch.no_grad()
def policy_prior_error(model: HNetVJEPA, store: EpisodeStore) -> dict[str, float]:
    """Mean squared error of the policy prior's mean action, normalised, on held-out clips whose last frame is the goal.

    ``policy_prior_mse``, beside ``policy_prior_mean_mse``: always the mean of the training.
    """
    frames, errors, spreads = model.config.heads.clip_frames, [], []
    for batch in clip_batches(store, model.robot.action, "held_out", frames, model.device):
        states, done = model.clip_states(batch.frames, batch.features), batch.actions[:, 1:]
        goal = states[:, -1:].expand_as(states[:, 1:-1])
        mean, _ = model.world_model.policy_prior(states[:, 1:-1], states[:, :-2], batch.actions[:, :-1], goal)
        errors.append((mean - done).square().mean((1, 2)))
        spreads.append(done.square().mean((1, 2)))
    return {
        "policy_prior_mse": float(torch.cat(errors).mean()),
        "policy_prior_mean_mse": float(torch.cat(spreads).mean()),
    }
