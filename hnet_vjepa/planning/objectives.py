"""What a goal costs: energies of imagined planning states, one number per query and candidate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from hnet_vjepa.losses.energy import Distance, energy, text_energy
from hnet_vjepa.models.world_model import with_motion

Objective = Callable[[Tensor, Tensor], Tensor]
"""States B x N x S x d (B queries, N candidates) and the states one step before each -> energies B x N."""


@dataclass(frozen=True)
class StateObjective:
    """Distance to a goal state (from an image, or stored), slot by slot."""

    goal: Tensor  # B x S x d
    goal_mask: Tensor  # B x S, True = slot that holds nothing
    mask: Tensor  # B x S, of the state the search starts from; what is imagined keeps it
    kind: Distance
    unmatched: float

    def __call__(self, states: Tensor, before: Tensor) -> Tensor:
        """B x N x S x d -> B x N. How the robot came there does not matter."""
        goal = self.goal[:, None].expand_as(states)
        here, there = (m[:, None].expand(states.shape[:-1]) for m in (self.mask, self.goal_mask))
        return energy(states, goal, self.kind, here, there, unmatched=self.unmatched)


@dataclass(frozen=True)
class TextObjective:
    """Disagreement with a sentence."""

    project: Callable[[Tensor], Tensor]
    text: Tensor  # B x E, unit vectors

    def __call__(self, states: Tensor, before: Tensor) -> Tensor:
        """B x N x S x d -> B x N, 0 (agrees) to 2."""
        return text_energy(self.project(with_motion(states, before)), self.text[:, None])


@dataclass(frozen=True)
class LabelObjective:
    """How unlikely it is that all wanted labels hold: minus the mean log probability of the wanted ones."""

    probe: Callable[[Tensor], Tensor]
    wanted: Tensor  # B x L, 1 where the label is wanted

    def __call__(self, states: Tensor, before: Tensor) -> Tensor:
        """B x N x S x d -> B x N."""
        logits = self.probe(with_motion(states, before).flatten(0, 1)).unflatten(0, states.shape[:2])  # B x N x L
        wanted = self.wanted[:, None]
        return -(F.logsigmoid(logits.float()) * wanted).sum(-1) / wanted.sum(-1)
