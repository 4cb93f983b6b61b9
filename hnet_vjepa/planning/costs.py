"""What a plan costs: terms that are added up, each a cost of every imagined step.

The search minimises their sum over the steps. The energy of the goal is one of the terms (planning.goals).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from hnet_vjepa.planning.goals.base import Objective
from hnet_vjepa.planning.goals.label import label_logits
from hnet_vjepa.planning.interface import Cost

LONGEST_STEP = 1.5  # largest temporal distance of one imagined step without a cost; consecutive frames have about 1


@dataclass(frozen=True)
class ImaginedRollout:
    """N candidates for each of B queries: the state after each of H actions, the one before it, and the action."""

    states: Tensor  # B x N x H x S x d
    prev_state: Tensor  # B x N x H x S x d
    actions: Tensor  # B x N x H x A, in -1..1

    def starts(self, state: Tensor, prev_state: Tensor) -> tuple[Tensor, Tensor]:
        """The state that every action starts from and the one before it, both B x N x H x S x d.

        ``state`` and ``prev_state`` are the present ones, B x S x d.
        """
        now, earlier = (x[:, None, None].expand_as(self.states[:, :, :1]) for x in (state, prev_state))
        here = torch.cat([now, self.states[:, :, :-1]], 2)
        return here, torch.cat([earlier, here[:, :, :-1]], 2)


class Term(Protocol):
    """One of the terms of a plan's cost."""

    def __call__(self, rollout: ImaginedRollout) -> Tensor:
        """Costs B x N x H, of which the sum over the steps counts."""
        ...


@dataclass(frozen=True)
class GoalTerm:
    """The energy of every imagined state."""

    objective: Objective

    def __call__(self, rollout: ImaginedRollout) -> Tensor:
        """See Term."""
        states, prev_state = (x.flatten(1, 2) for x in (rollout.states, rollout.prev_state))
        return self.objective(states, prev_state).unflatten(1, rollout.actions.shape[1:3])


@dataclass(frozen=True)
class ClosestTerm:
    """The energy of the closest approach alone, at the step where it happens."""

    goal: GoalTerm

    def __call__(self, rollout: ImaginedRollout) -> Tensor:
        """See Term."""
        energies = self.goal(rollout)
        closest = energies.argmin(-1, keepdim=True)  # argmin returns a NaN where there is one, so it is not lost
        return torch.zeros_like(energies).scatter(-1, closest, energies.gather(-1, closest))


@dataclass(frozen=True)
class StepWeightedTerm:
    """The energy of every state, weighted by ``(h / H)^exponent`` after h of H actions.

    With exponent 0 all states count the same, so that a detour at the beginning is costly; with a large one only the
    last state counts, so that arriving early has no advantage.
    """

    goal: GoalTerm
    exponent: float

    def __call__(self, rollout: ImaginedRollout) -> Tensor:
        """See Term."""
        return step_weights(rollout.actions.shape[2], self.exponent) * self.goal(rollout)


def step_weights(horizon: int, exponent: float) -> Tensor:
    """Weights of the energies after each of H actions: H, the last 1."""
    return (torch.arange(1.0, horizon + 1) / horizon) ** exponent


@dataclass(frozen=True)
class ControlTerm:
    """The squared difference of actions from holding still."""

    weight: float
    hold: Tensor  # B x A in -1..1, the action that changes nothing

    def __call__(self, rollout: ImaginedRollout) -> Tensor:
        """See Term."""
        return self.weight * (rollout.actions - self.hold[:, None, None]).square().sum(-1)


@dataclass(frozen=True)
class BehaviourPriorTerm:
    """Deviation of actions from the policy prior.

    ``weight / A sum_a ((u_a - mean_a) / std_a)^2`` with the policy prior's mean and standard deviation at every
    imagined state: up to a constant, the negative log likelihood of the action (planning as inference with a learnt
    prior). It helps where the energy does not reflect that an object must be moved first.
    """

    weight: float
    policy_prior: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
    to_model: Callable[[Tensor], Tensor]  # actions in -1..1 to the model's units
    state: Tensor  # B x S x d, now
    prev_state: Tensor  # B x S x d, one step before
    prev_action: Tensor  # B x A, between the two, the model's units
    goal: Tensor  # B x S x d

    def __call__(self, rollout: ImaginedRollout) -> Tensor:
        """See Term."""
        here, earlier = rollout.starts(self.state, self.prev_state)
        actions = self.to_model(rollout.actions)  # B x N x H x A
        last = torch.cat([self.prev_action[:, None, None].expand_as(actions[:, :, :1]), actions[:, :, :-1]], 2)
        mean, log_std = self.policy_prior(here, earlier, last, self.goal[:, None, None].expand_as(here))
        return self.weight * ((actions - mean) * (-log_std).exp()).square().mean(-1)


@dataclass(frozen=True)
class TemporalConsistencyTerm:
    """Cost of imagined steps that the temporal distance says take longer than one action.

    ``weight sum_{j <= h} max(0, d(s_j-1, s_j) - 1.5)`` with the temporal distance d: from the first such step on, every
    step costs. Where states that are many steps apart look alike, the dynamics may confuse them, and a search exploits
    that.
    """

    weight: float
    embed: Callable[[Tensor], Tensor]  # states ... x S x d to ... x E, where distances are control steps
    state: Tensor  # B x S x d, now

    def __call__(self, rollout: ImaginedRollout) -> Tensor:
        """See Term."""
        there = self.embed(rollout.states)  # B x N x H x E
        now = self.embed(self.state)[:, None, None].expand_as(there[:, :, :1])
        steps = torch.linalg.vector_norm(there - torch.cat([now, there[:, :, :-1]], 2), dim=-1)  # B x N x H
        return self.weight * F.relu(steps - LONGEST_STEP).cumsum(-1)


@dataclass(frozen=True)
class AvoidTerm:
    """The probability of being in places that are to be avoided."""

    weight: float
    probe: Callable[[Tensor], Tensor]
    places: Tensor  # P x L, 1 where the label must hold in the place

    @classmethod
    def of(cls, cost: Cost, labels: Sequence[str], probe: Callable[[Tensor], Tensor]) -> AvoidTerm | None:
        """The term for a query's cost; None when no place is to be avoided."""
        if not cost.avoid:
            return None
        places = torch.tensor([[float(label in place) for label in labels] for place in cost.avoid])
        return cls(cost.avoid_weight, probe, places)

    def __call__(self, rollout: ImaginedRollout) -> Tensor:
        """See Term."""
        states, prev_state = (x.flatten(1, 2) for x in (rollout.states, rollout.prev_state))
        probability = self.inside(states, prev_state).sum(-1)  # a state in two such places costs twice
        return self.weight * probability.unflatten(1, rollout.actions.shape[1:3])

    def inside(self, states: Tensor, prev_state: Tensor) -> Tensor:
        """Probability of each place in states B x N x S x d: B x N x P. Labels are taken to be independent."""
        return (F.logsigmoid(label_logits(self.probe, states, prev_state)) @ self.places.T).exp()


def goal_term(goal: GoalTerm, cost: Cost, exponent: float) -> Term:
    """How the goal's energies enter the cost: all of them, weighted by step, or the closest alone."""
    if cost.over_steps == "closest":
        return ClosestTerm(goal)
    return StepWeightedTerm(goal, exponent) if exponent else goal


def total(terms: Sequence[Term], rollout: ImaginedRollout) -> Tensor:
    """The sum of the terms, B x N x H."""
    first, *others = (term(rollout) for term in terms)
    return sum(others, first)
