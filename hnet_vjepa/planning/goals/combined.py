"""Several goals at once: the weighted sum of their energies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hnet_vjepa.errors import FieldError
from hnet_vjepa.planning.goals.base import GoalContext, GoalKind, Objective
from hnet_vjepa.planning.goals.checks import check_weights
from hnet_vjepa.planning.goals.factory import check_goal, goal_group, kind_of, make_objective, register
from hnet_vjepa.planning.interface import Goal

if TYPE_CHECKING:
    from torch import Tensor

    from hnet_vjepa.planning.interface import ModelCard


@dataclass(frozen=True)
class AllGoals(Goal):
    """Reach all of several goals: their energies are added, each times its weight.

    ``weights``: one for each goal, by default 1. Energies of different kinds are on different scales.
    """

    goals: tuple[Goal, ...]
    weights: tuple[float, ...] | None = None


def check(goal: AllGoals, card: ModelCard, where: str) -> None:
    """Raise FieldError unless there are single goals, each valid, with a weight for each or none at all."""
    if not goal.goals:
        raise FieldError(f"{where}.goals", "is empty; give at least one goal")
    for i, part in enumerate(goal.goals):
        if not kind_of(part, f"{where}.goals.{i}").single:
            raise FieldError(f"{where}.goals.{i}", "is itself several goals; put them all into one list")
        check_goal(part, card, f"{where}.goals.{i}")
    if goal.weights is not None:
        check_weights(goal.weights, len(goal.goals), "goals", f"{where}.weights")


def group(goal: AllGoals) -> tuple[str, ...]:
    """Goals with the same groups of parts, in order, share a search."""
    return ("all", *(name for part in goal.goals for name in goal_group(part)))


@dataclass(frozen=True)
class AllObjective:
    """The weighted sum of several energies; reached when all goals are."""

    parts: tuple[Objective, ...]
    weights: Tensor  # B x parts

    @property
    def goal_states(self) -> Tensor | None:
        """Those of the first part that has some."""
        return next((part.goal_states for part in self.parts if part.goal_states is not None), None)

    def __call__(self, states: Tensor, prev_state: Tensor) -> Tensor:
        """See Objective."""
        import torch

        energies = torch.stack([part(states, prev_state) for part in self.parts], -1)  # B x N x parts
        return (energies * self.weights[:, None]).sum(-1)

    def reached(self, states: Tensor, prev_state: Tensor, energies: Tensor | None = None) -> Tensor:
        """Every one of them."""
        import torch

        return torch.stack([part.reached(states, prev_state) for part in self.parts]).all(0)


def objective(goals: Sequence[AllGoals], context: GoalContext) -> Objective:
    """Energies of B goals whose parts are of the same groups."""
    import torch

    columns = zip(*(goal.goals for goal in goals), strict=True)
    rows = [(1.0,) * len(goal.goals) if goal.weights is None else goal.weights for goal in goals]
    parts = tuple(make_objective(list(column), context) for column in columns)
    return AllObjective(parts, torch.tensor(rows, dtype=torch.float32))


ALL = register(GoalKind("all", AllGoals, check, group, objective, parts=lambda goal: goal.goals, single=False))
