"""What a goal costs, and when it is reached: energies of imagined planning states, one per query and candidate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch.nn.functional as F
from torch import Tensor

from hnet_vjepa.config import PlanConfig
from hnet_vjepa.losses.energy import energy, text_energy
from hnet_vjepa.models.temporal_distance import TemporalDistance
from hnet_vjepa.models.world_model import with_motion


class Objective(Protocol):
    """The goals of B queries, all of one kind."""

    def __call__(self, states: Tensor, before: Tensor) -> Tensor:
        """Energies B x N of states B x N x S x d (N candidates), given the states one step before each."""
        ...

    def reached(self, states: Tensor, before: Tensor) -> Tensor:
        """Whether the goal is reached in states B x N x S x d: B x N bool."""
        ...


def state_energy(
    states: Tensor, goal: Tensor, mask: Tensor, goal_mask: Tensor, plan: PlanConfig, steps: TemporalDistance
) -> Tensor:
    """Energy of states ... x S x d for goal states ... x S x d; masks ... x S, True = slot that holds nothing.

    Goals and masks are broadcast, so that a goal that many states have is embedded once.
    """
    cost = states.new_zeros(states.shape[:-2])
    if plan.latent:
        cost = plan.latent * energy(states, goal, plan.distance, mask, goal_mask, unmatched=plan.unmatched)
    if plan.steps:
        cost = cost + plan.steps * steps(states, goal)
    return cost


@dataclass(frozen=True)
class StateObjective:
    """Distance to a goal state (from an image, or stored). How the robot came there does not matter.

    How different it looks, slot by slot, and how many steps away it is, as the configuration weighs them.
    """

    goal: Tensor  # B x S x d
    goal_mask: Tensor  # B x S, True = slot that holds nothing
    mask: Tensor  # B x S, of the state the search starts from; what is imagined keeps it
    plan: PlanConfig
    steps: TemporalDistance
    near: float  # energy below which the goal is reached

    def __call__(self, states: Tensor, before: Tensor) -> Tensor:
        """See Objective."""
        goal, here, there = (x[:, None] for x in (self.goal, self.mask, self.goal_mask))
        return state_energy(states, goal, here, there, self.plan, self.steps)

    def reached(self, states: Tensor, before: Tensor) -> Tensor:
        """Nearer than the calibrated energy."""
        return self(states, before) < self.near


@dataclass(frozen=True)
class TextObjective:
    """Disagreement with a sentence, 0 (agrees) to 2."""

    project: Callable[[Tensor], Tensor]
    text: Tensor  # B x E, unit vectors
    near: float

    def __call__(self, states: Tensor, before: Tensor) -> Tensor:
        """See Objective."""
        return text_energy(self.project(with_motion(states, before)), self.text[:, None])

    def reached(self, states: Tensor, before: Tensor) -> Tensor:
        """As near as sentences that are true usually are."""
        return self(states, before) < self.near


@dataclass(frozen=True)
class LabelObjective:
    """How unlikely the wanted labels are: minus the mean log probability of those that are wanted."""

    probe: Callable[[Tensor], Tensor]
    wanted: Tensor  # B x L, 1 where the label is wanted

    def _logits(self, states: Tensor, before: Tensor) -> Tensor:
        read = with_motion(states, before).flatten(0, 1)  # (B*N) x S x 2d
        logits: Tensor = self.probe(read).float().unflatten(0, states.shape[:2])  # B x N x L
        return logits

    def __call__(self, states: Tensor, before: Tensor) -> Tensor:
        """See Objective."""
        wanted = self.wanted[:, None]
        return -(F.logsigmoid(self._logits(states, before)) * wanted).sum(-1) / wanted.sum(-1)

    def reached(self, states: Tensor, before: Tensor) -> Tensor:
        """Every wanted label is more likely than not."""
        return ((self._logits(states, before) > 0) | (self.wanted[:, None] == 0)).all(-1)
