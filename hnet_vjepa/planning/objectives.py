"""What a goal costs: energies of imagined planning states, one number per query and candidate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor

from hnet_vjepa.losses.energy import Distance, energy, text_energy

Objective = Callable[[Tensor], Tensor]
"""States B x N x S x d (B queries, N candidates) -> energies B x N."""


@dataclass(frozen=True)
class StateObjective:
    """Distance to a goal state (from an image, or stored), slot by slot."""

    goal: Tensor  # B x S x d
    kind: Distance

    def __call__(self, states: Tensor) -> Tensor:
        """B x N x S x d -> B x N."""
        return energy(states, self.goal[:, None], self.kind)


@dataclass(frozen=True)
class TextObjective:
    """Disagreement with a sentence."""

    project: Callable[[Tensor], Tensor]
    text: Tensor  # B x E, unit vectors

    def __call__(self, states: Tensor) -> Tensor:
        """B x N x S x d -> B x N, 0 (agrees) to 2."""
        return text_energy(self.project(states), self.text[:, None])


@dataclass(frozen=True)
class LabelObjective:
    """How unlikely it is that all wanted labels hold: minus the mean log probability of the wanted ones."""

    probe: Callable[[Tensor], Tensor]
    wanted: Tensor  # B x L, 1 where the label is wanted

    def __call__(self, states: Tensor) -> Tensor:
        """B x N x S x d -> B x N."""
        logits = self.probe(states.flatten(0, 1)).unflatten(0, states.shape[:2])  # B x N x L
        wanted = self.wanted[:, None]
        return -(F.logsigmoid(logits.float()) * wanted).sum(-1) / wanted.sum(-1)
