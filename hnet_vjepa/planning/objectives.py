"""What a goal costs, and when it is reached: energies of imagined planning states, one per query and candidate."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from hnet_vjepa.config import PlanConfig
from hnet_vjepa.losses.energy import energy, text_energy
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.models.state_decoder import StateDecoder
from hnet_vjepa.models.temporal_distance import TemporalDistance
from hnet_vjepa.models.world_model import with_motion


class Objective(Protocol):
    """The goals of B queries, all of one kind."""

    @property
    def goal_states(self) -> Tensor | None:
        """Goal states B x S x d to which actions can be proposed; None where there are none."""
        ...

    def __call__(self, states: Tensor, prev_state: Tensor) -> Tensor:
        """Energies B x N of states B x N x S x d (N candidates), given the states one step before each."""
        ...

    def reached(self, states: Tensor, prev_state: Tensor, energies: Tensor | None = None) -> Tensor:
        """Whether the goal is reached in states B x N x S x d, whose energies (B x N) may be known: B x N bool."""
        ...


@dataclass(frozen=True)
class StateEnergy:
    """How far planning states are from a goal's, as the configuration weighs three ways to say it.

    How different they look, slot by slot; how many steps lie between them; and how far apart they are in what the
    encoder was told of the recorded state, where it was: ``|G s - G g|``, in deviations, G the map that it was told by.
    """

    plan: PlanConfig
    steps: TemporalDistance
    state_decoder: StateDecoder | None

    @classmethod
    def of(cls, model: HNetVJEPA) -> StateEnergy:
        """That of a model."""
        return cls(model.config.plan, model.world_model.temporal_distance, model.state_decoder)

    def shown(self, goal: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """What the energy needs of goal states ... x S x d once: their embedding (... x E) and gauge (... x N)."""
        embedded = self.steps.embed(goal) if self.plan.temporal_distance else None
        return embedded, self.state_decoder.read(
            goal
        ) if self.plan.decoded_state and self.state_decoder is not None else None

    def __call__(
        self,
        states: Tensor,
        goal: Tensor,
        mask: Tensor,
        goal_mask: Tensor,
        shown: tuple[Tensor | None, Tensor | None] | None = None,
    ) -> Tensor:
        """Energy of states ... x S x d for goals ... x S x d; masks ... x S, True = slot that holds nothing.

        Goals and masks are broadcast. ``shown``: that of the goal, where it is known, so that many states have it once.
        """
        plan, cost = self.plan, states.new_zeros(states.shape[:-2])
        embedded, read = self.shown(goal) if shown is None else shown
        if plan.latent:
            cost = plan.latent * energy(states, goal, plan.distance, mask, goal_mask, unmatched=plan.unmatched)
        if embedded is not None:
            cost = cost + plan.temporal_distance * torch.linalg.vector_norm(self.steps.embed(states) - embedded, dim=-1)
        if read is not None and self.state_decoder is not None:
            cost = cost + plan.decoded_state * torch.linalg.vector_norm(self.state_decoder.read(states) - read, dim=-1)
        return cost


@dataclass(frozen=True)
class StateObjective:
    """Distance to a goal state (from an image, or stored). How the robot came there does not matter."""

    goal: Tensor  # B x S x d
    goal_mask: Tensor  # B x S, True = slot that holds nothing
    mask: Tensor  # B x S, of the state the search starts from; what is imagined keeps it
    energy: StateEnergy
    near: float  # energy below which the goal is reached

    @property
    def goal_states(self) -> Tensor:
        """See Objective."""
        return self.goal

    def __call__(self, states: Tensor, prev_state: Tensor) -> Tensor:
        """See Objective."""
        goal, here, there = (x[:, None] for x in (self.goal, self.mask, self.goal_mask))
        return self.energy(states, goal, here, there, self._shown)

    @cached_property
    def _shown(self) -> tuple[Tensor | None, Tensor | None]:
        """What the energy needs of the goals, B x 1 x ...: one for all that is asked of them."""
        return self.energy.shown(self.goal[:, None])

    def reached(self, states: Tensor, prev_state: Tensor, energies: Tensor | None = None) -> Tensor:
        """Nearer than the calibrated energy."""
        return (self(states, prev_state) if energies is None else energies) < self.near


@dataclass(frozen=True)
class PartObjective:
    """Distance to a goal state in some of its slots: how different those look, as a weighted mean.

    The number of steps to the goal is left out: it is learnt of all slots together, and would ask for the rest of the
    goal state too. Without it the calibrated energy means nothing, so such a goal never counts as reached.
    """

    goal: Tensor  # B x S x d
    goal_mask: Tensor  # B x S, True = slot that holds nothing
    mask: Tensor  # B x S, of the state the search starts from
    weights: Tensor  # B x S, not negative
    plan: PlanConfig

    @property
    def goal_states(self) -> Tensor:
        """See Objective."""
        return self.goal

    def __call__(self, states: Tensor, prev_state: Tensor) -> Tensor:
        """See Objective."""
        goal, here, there, weights = (x[:, None] for x in (self.goal, self.mask, self.goal_mask, self.weights))
        return energy(states, goal, self.plan.distance, here, there, weights, self.plan.unmatched)

    def reached(self, states: Tensor, prev_state: Tensor, energies: Tensor | None = None) -> Tensor:
        """Not known."""
        return torch.zeros(states.shape[:2], dtype=torch.bool)


@dataclass(frozen=True)
class TextObjective:
    """Disagreement with a sentence, 0 (agrees) to 2."""

    project: Callable[[Tensor], Tensor]
    text: Tensor  # B x E, unit vectors
    near: float
    goal_states: None = None

    def __call__(self, states: Tensor, prev_state: Tensor) -> Tensor:
        """See Objective."""
        return text_energy(self.project(with_motion(states, prev_state)), self.text[:, None])

    def reached(self, states: Tensor, prev_state: Tensor, energies: Tensor | None = None) -> Tensor:
        """As near as sentences that are true usually are."""
        return (self(states, prev_state) if energies is None else energies) < self.near


def label_logits(probe: Callable[[Tensor], Tensor], states: Tensor, prev_state: Tensor) -> Tensor:
    """What a probe says of states B x N x S x d, given the states one step before each: B x N x L."""
    logits: Tensor = probe(with_motion(states, prev_state).flatten(0, 1)).float().unflatten(0, states.shape[:2])
    return logits


@dataclass(frozen=True)
class LabelObjective:
    """How unlikely the wanted labels are: minus the mean log probability of those that are wanted."""

    probe: Callable[[Tensor], Tensor]
    wanted: Tensor  # B x L, 1 where the label is wanted
    goal_states: None = None

    def __call__(self, states: Tensor, prev_state: Tensor) -> Tensor:
        """See Objective."""
        wanted = self.wanted[:, None]
        return -(F.logsigmoid(label_logits(self.probe, states, prev_state)) * wanted).sum(-1) / wanted.sum(-1)

    def reached(self, states: Tensor, prev_state: Tensor, energies: Tensor | None = None) -> Tensor:
        """Every wanted label is more likely than not."""
        return ((label_logits(self.probe, states, prev_state) > 0) | (self.wanted[:, None] == 0)).all(-1)


@dataclass(frozen=True)
class AllObjective:
    """Several goals at once: the weighted sum of their energies; reached when all are."""

    parts: tuple[Objective, ...]
    weights: Tensor  # B x parts

    @property
    def goal_states(self) -> Tensor | None:
        """That of the first goal that has one."""
        return next((part.goal_states for part in self.parts if part.goal_states is not None), None)

    def __call__(self, states: Tensor, prev_state: Tensor) -> Tensor:
        """See Objective."""
        energies = torch.stack([part(states, prev_state) for part in self.parts], -1)  # B x N x parts
        return (energies * self.weights[:, None]).sum(-1)

    def reached(self, states: Tensor, prev_state: Tensor, energies: Tensor | None = None) -> Tensor:
        """Every one of them."""
        return torch.stack([part.reached(states, prev_state) for part in self.parts]).all(0)
