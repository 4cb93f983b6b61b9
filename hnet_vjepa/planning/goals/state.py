"""Goals that are a planning state: that of a picture or a stored one; all of it or a part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.errors import FieldError
from hnet_vjepa.planning.goals.base import GoalContext, GoalKind, Objective
from hnet_vjepa.planning.goals.checks import LARGEST, check_weights
from hnet_vjepa.planning.goals.factory import register
from hnet_vjepa.planning.goals.region import Region, check_region
from hnet_vjepa.planning.interface import Goal

if TYPE_CHECKING:
    from torch import Tensor

    from hnet_vjepa.config import PlanConfig
    from hnet_vjepa.losses.state_energy import GoalFeatures, StateEnergy
    from hnet_vjepa.planning.interface import ModelCard


@dataclass(frozen=True)
class ImageGoal(Goal):
    """Reach the state of this picture, or the part of it that ``region`` or ``slot_weights`` select.

    ``frame``: H x W x 3 uint8, from the robot's own camera. ``slot_weights``: S weights of the slots of the
    planning state. ``region``: the weights are the shares of the slots' attention in it.
    """

    frame: NDArray[np.uint8]
    region: Region | None = None
    slot_weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class LatentGoal(Goal):
    """Reach a stored planning state. ``state``: S x d float32, as PlanResult.state gave it; weights as in ImageGoal."""

    state: NDArray[np.float32]
    slot_weights: tuple[float, ...] | None = None


StateGoal = ImageGoal | LatentGoal


def check_image(goal: ImageGoal, card: ModelCard, where: str) -> None:
    """Raise FieldError unless the picture is the camera's and at most one of region and weights is given, and valid."""
    if goal.frame.ndim != 3:
        raise FieldError(f"{where}.image", f"shape {goal.frame.shape}; expected H x W x 3")
    card.camera.check(goal.frame, f"{where}.image")
    if goal.region is not None:
        if goal.slot_weights is not None:
            raise FieldError(f"{where}.region", "give a region or slot_weights, not both")
        check_region(goal.region, card.camera, f"{where}.region")
    _check_slot_weights(goal, card, where)


def check_latent(goal: LatentGoal, card: ModelCard, where: str) -> None:
    """Raise FieldError unless the state has the model's shape and finite numbers."""
    size = f"{card.state_shape[0]} x {card.state_shape[1]}"
    if goal.state.shape != card.state_shape:
        given = " x ".join(map(str, goal.state.shape))
        raise FieldError(f"{where}.state", f"{given} numbers; expected {size} finite numbers")
    if not (np.abs(goal.state) <= LARGEST).all():  # so NaN is refused
        raise FieldError(f"{where}.state", f"expected {size} finite numbers, none beyond {LARGEST:g}")
    _check_slot_weights(goal, card, where)


def _check_slot_weights(goal: StateGoal, card: ModelCard, where: str) -> None:
    if goal.slot_weights is not None:
        check_weights(goal.slot_weights, card.state_shape[0], "slots", f"{where}.slot_weights")


def is_partial(goal: StateGoal) -> bool:
    """Whether only a part of the goal's state counts."""
    return (isinstance(goal, ImageGoal) and goal.region is not None) or goal.slot_weights is not None


def group(goal: StateGoal) -> tuple[str, ...]:
    """Pictures and stored states share a search; goals of which a part counts have another energy."""
    return ("part of a state" if is_partial(goal) else "state",)


@dataclass(frozen=True)
class StateObjective:
    """Energy to a goal state; independent of the previous state."""

    goal: Tensor  # B x S x d
    goal_mask: Tensor  # B x S, True = slot that holds nothing
    mask: Tensor  # B x S, of the state that the search starts from; imagined states keep it
    energy: StateEnergy
    near: float  # energy below which the goal is reached

    @property
    def goal_states(self) -> Tensor:
        """See Objective."""
        return self.goal

    def __call__(self, states: Tensor, prev_state: Tensor) -> Tensor:
        """See Objective."""
        goal, here, there = (x[:, None] for x in (self.goal, self.mask, self.goal_mask))
        return self.energy(states, goal, here, there, self._features)

    @cached_property
    def _features(self) -> GoalFeatures:
        """Those of the goals, B x 1 x ..."""
        return self.energy.features(self.goal[:, None])

    def reached(self, states: Tensor, prev_state: Tensor, energies: Tensor | None = None) -> Tensor:
        """The energy is below the calibrated one."""
        return (self(states, prev_state) if energies is None else energies) < self.near


@dataclass(frozen=True)
class PartialStateObjective:
    """Weighted mean of the latent distances of slots.

    The temporal distance is left out: it is a function of all slots together. The calibrated threshold does not apply
    without it, so such a goal never counts as reached.
    """

    goal: Tensor  # B x S x d
    goal_mask: Tensor  # B x S, True = slot that holds nothing
    mask: Tensor  # B x S, of the state that the search starts from
    weights: Tensor  # B x S, not negative
    plan: PlanConfig

    @property
    def goal_states(self) -> Tensor:
        """See Objective."""
        return self.goal

    def __call__(self, states: Tensor, prev_state: Tensor) -> Tensor:
        """See Objective."""
        from hnet_vjepa.losses.energy import energy

        goal, here, there, weights = (x[:, None] for x in (self.goal, self.mask, self.goal_mask, self.weights))
        return energy(states, goal, self.plan.distance, here, there, weights, self.plan.unmatched)

    def reached(self, states: Tensor, prev_state: Tensor, energies: Tensor | None = None) -> Tensor:
        """Not known, so False."""
        import torch

        return torch.zeros(states.shape[:2], dtype=torch.bool)


def objective(goals: Sequence[StateGoal], context: GoalContext) -> Objective:
    """Energies to B pictures or stored states, which may be mixed."""
    import torch

    from hnet_vjepa.losses.state_energy import StateEnergy

    encoded = [_goal_state(goal, context, row) for row, goal in enumerate(goals)]
    states, masks = (torch.stack(parts) for parts in zip(*encoded, strict=True))
    if is_partial(goals[0]):
        weights = torch.stack([_slot_weights(goal, context) for goal in goals])
        return PartialStateObjective(states, masks, context.mask, weights, context.model.config.plan)
    return StateObjective(states, masks, context.mask, StateEnergy.of(context.model), context.reached_energy)


def _goal_state(goal: StateGoal, context: GoalContext, row: int) -> tuple[Tensor, Tensor]:
    """Planning state (S x d) and mask (S) of a goal.

    A stored state has no mask and is compared in the slots that hold something now.
    """
    import torch

    if isinstance(goal, LatentGoal):
        return torch.from_numpy(goal.state), context.mask[row]
    seen = context.perception.pictures([goal.frame])
    return seen.states[0], seen.masks[0]


def _slot_weights(goal: StateGoal, context: GoalContext) -> Tensor:
    """How much each slot counts: S. Raises FieldError when no slot reads anything of the region."""
    import torch

    if isinstance(goal, ImageGoal) and goal.region is not None:
        shares = context.perception.region_shares(goal.frame.tobytes(), goal.region)
        if not shares.any():
            raise FieldError("goal.region", "no slot of the goal picture attends to it; take a larger one")
        return shares
    return torch.tensor(goal.slot_weights, dtype=torch.float32)


IMAGE = register(GoalKind("image", ImageGoal, check_image, group, objective))
LATENT = register(GoalKind("latent", LatentGoal, check_latent, group, objective))
