"""The energy between planning states: how far a state is from a goal state."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hnet_vjepa.config import PlanConfig
from hnet_vjepa.losses.energy import energy
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.models.state_decoder import StateDecoder
from hnet_vjepa.models.temporal_distance import TemporalDistance


@dataclass(frozen=True)
class GoalFeatures:
    """What the energy computes of goal states once, for many candidates. None where the term has no weight."""

    embedded: Tensor | None  # ... x E, for the temporal distance
    decoded: Tensor | None  # ... x N, for the distance of decoded states


@dataclass(frozen=True)
class StateEnergy:
    """Weighted sum of up to three distances between a planning state s and a goal state g.

    The latent distance of equal slots (``plan.latent``); the temporal distance, a learnt number of control steps
    (``plan.temporal_distance``); and the distance ``|D s - D g|`` of the decoded states in standard deviations
    (``plan.decoded_state``), D the linear state decoder.
    """

    plan: PlanConfig
    temporal_distance: TemporalDistance
    state_decoder: StateDecoder | None

    @classmethod
    def of(cls, model: HNetVJEPA) -> StateEnergy:
        """The energy that a model's configuration describes."""
        return cls(model.config.plan, model.world_model.temporal_distance, model.state_decoder)

    def features(self, goal: Tensor) -> GoalFeatures:
        """The terms of the energy that depend on goal states ... x S x d alone."""
        embedded = self.temporal_distance.embed(goal) if self.plan.temporal_distance else None
        decoding = self.plan.decoded_state and self.state_decoder is not None
        return GoalFeatures(embedded, self.state_decoder.decode(goal) if decoding and self.state_decoder else None)

    def __call__(
        self, states: Tensor, goal: Tensor, mask: Tensor, goal_mask: Tensor, features: GoalFeatures | None = None
    ) -> Tensor:
        """Energies ... of states ... x S x d for goals ... x S x d.

        Masks ... x S are True for slots that hold nothing. Goals and masks are broadcast. ``features``: those of the
        goal, where they are known.
        """
        plan, cost = self.plan, states.new_zeros(states.shape[:-2])
        known = self.features(goal) if features is None else features
        if plan.latent:
            cost = plan.latent * energy(states, goal, plan.distance, mask, goal_mask, unmatched=plan.unmatched)
        if known.embedded is not None:
            apart = torch.linalg.vector_norm(self.temporal_distance.embed(states) - known.embedded, dim=-1)
            cost = cost + plan.temporal_distance * apart
        if known.decoded is not None and self.state_decoder is not None:
            apart = torch.linalg.vector_norm(self.state_decoder.decode(states) - known.decoded, dim=-1)
            cost = cost + plan.decoded_state * apart
        return cost
