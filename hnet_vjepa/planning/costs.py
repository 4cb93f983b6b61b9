"""What a plan costs: terms that are added up, each a cost of every imagined step.

The search minimises their sum over the steps. What a goal costs is one of the terms (planning.objectives).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from hnet_vjepa.planning.objectives import Objective, label_logits


@dataclass(frozen=True)
class Imagined:
    """N candidates for each of B queries: the state after each of H actions, the one before it, and the action."""

    states: Tensor  # B x N x H x S x d
    before: Tensor  # B x N x H x S x d
    actions: Tensor  # B x N x H x A, in -1..1


class Term(Protocol):
    """One of the things that cost."""

    def __call__(self, imagined: Imagined) -> Tensor:
        """Costs B x N x H, of which the sum over the steps counts."""
        ...


@dataclass(frozen=True)
class GoalTerm:
    """The energy of every state."""

    objective: Objective

    def __call__(self, imagined: Imagined) -> Tensor:
        """See Term."""
        states, before = (x.flatten(1, 2) for x in (imagined.states, imagined.before))
        return self.objective(states, before).unflatten(1, imagined.actions.shape[1:3])


@dataclass(frozen=True)
class ClosestTerm:
    """The energy of the closest approach alone, at the step where it happens."""

    goal: GoalTerm

    def __call__(self, imagined: Imagined) -> Tensor:
        """See Term."""
        energies = self.goal(imagined)
        closest = energies.argmin(-1, keepdim=True)  # NaN is taken for the smallest, and stays
        return torch.zeros_like(energies).scatter(-1, closest, energies.gather(-1, closest))


@dataclass(frozen=True)
class ControlTerm:
    """The squared size of what an action changes."""

    weight: float
    hold: Tensor  # B x A in -1..1, the action that changes nothing

    def __call__(self, imagined: Imagined) -> Tensor:
        """See Term."""
        return self.weight * (imagined.actions - self.hold[:, None, None]).square().sum(-1)


@dataclass(frozen=True)
class AvoidTerm:
    """The probability of being in places that are to be avoided, each the more so the more surely its labels hold."""

    weight: float
    probe: Callable[[Tensor], Tensor]
    places: Tensor  # P x L, 1 where the label must hold in the place

    def __call__(self, imagined: Imagined) -> Tensor:
        """See Term."""
        states, before = (x.flatten(1, 2) for x in (imagined.states, imagined.before))
        probability = self.inside(states, before).sum(-1)  # a state in two such places is twice as bad
        return self.weight * probability.unflatten(1, imagined.actions.shape[1:3])

    def inside(self, states: Tensor, before: Tensor) -> Tensor:
        """Probability of each place in states B x N x S x d: B x N x P. Labels are taken to be independent."""
        return (F.logsigmoid(label_logits(self.probe, states, before)) @ self.places.T).exp()


def total(terms: Sequence[Term], imagined: Imagined) -> Tensor:
    """The sum of the terms, B x N x H."""
    first, *others = (term(imagined) for term in terms)
    return sum(others, first)
