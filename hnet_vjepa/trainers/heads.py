"""The second half of phase 4: what is learnt on the planning states that the first half leaves, and moves no more."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hnet_vjepa.config import Stage
from hnet_vjepa.data.batch import Batch
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.losses.macro_dynamics import macro_dynamics_loss
from hnet_vjepa.losses.policy_prior import policy_prior_loss
from hnet_vjepa.losses.temporal import temporal_distance_loss
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.trainers.measure import policy_prior_error, sampled_states

WHITENED = 6000  # pictures that whitenings are fitted on, for a few hundred directions


class Heads:
    """Temporal distance, proposal and coarse model.

    None of them shapes the states that it is learnt on, so they wait until these stand still: small differences of
    states, which are all that tells some goals apart, are learnt late, and not at all while everything drifts. Frames
    are encoded once, so a step costs a fraction of one of the first half.
    """

    name: Stage = "heads"

    def modules(self, model: HNetVJEPA) -> list[nn.Module]:
        """Those of the world model that plans are led by."""
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
        """Fit the whitenings that temporal distance and proposal see through, unless they have learnt to already."""
        world = model.world_model
        fresh = [w for w in (world.temporal_distance.whitening, world.policy_prior.whitening) if not w.fitted]
        if fresh:
            features, _ = sampled_states(model, store, chunks=False, limit=WHITENED)
            for whitening in fresh:
                whitening.fit(torch.from_numpy(features["train"]).to(whitening.mean.device))

    def loss(self, model: HNetVJEPA, batch: Batch) -> dict[str, Tensor]:
        """How far apart states are, what was done on the way to what was reached, and where several steps lead."""
        world = model.world_model
        with torch.no_grad():
            states = model.states_of(batch.video)  # B x T x S x d
            hindsight_goal = model.states_of(batch.hindsight_goal[:, None])[:, 0]  # B x S x d
        losses = {
            "steps": temporal_distance_loss(world.temporal_distance.embed(states)),
            "proposal": policy_prior_loss(world.policy_prior, states, batch.actions, hindsight_goal),
        }
        if world.macro_dynamics is not None:
            losses["coarse"] = macro_dynamics_loss(world.macro_dynamics, states[:, 0], states[:, -1], batch.keys)
        return losses

    def evaluate(self, model: HNetVJEPA, store: EpisodeStore) -> dict[str, float]:
        """How far proposed actions are from those that were done, beside always proposing the mean."""
        return policy_prior_error(model, store)
