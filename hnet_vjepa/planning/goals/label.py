"""Goals as labels: reach a state in which all of some labels hold."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hnet_vjepa.errors import FieldError
from hnet_vjepa.planning.goals.base import GoalContext, GoalKind, Objective
from hnet_vjepa.planning.goals.checks import check_labels
from hnet_vjepa.planning.goals.factory import register
from hnet_vjepa.planning.interface import Goal

if TYPE_CHECKING:
    from torch import Tensor

    from hnet_vjepa.planning.interface import ModelCard


@dataclass(frozen=True)
class LabelGoal(Goal):
    """Reach a state in which all of these labels hold."""

    labels: tuple[str, ...]


def check(goal: LabelGoal, card: ModelCard, where: str) -> None:
    """Raise FieldError unless there is at least one label and the model knows all."""
    if isinstance(goal.labels, str):
        raise FieldError(f"{where}.labels", f"is one string; give a tuple of labels: ('{goal.labels}',)")
    if not goal.labels:
        raise FieldError(f"{where}.labels", f"is empty; choose from: {', '.join(card.labels)}")
    check_labels(goal.labels, card, f"{where}.labels")


def label_logits(probe: Callable[[Tensor], Tensor], states: Tensor, prev_state: Tensor) -> Tensor:
    """Logits B x N x L of a probe for states B x N x S x d, given the states one step before each."""
    from hnet_vjepa.models.world_model import with_motion

    logits: Tensor = probe(with_motion(states, prev_state).flatten(0, 1)).float().unflatten(0, states.shape[:2])
    return logits


@dataclass(frozen=True)
class LabelObjective:
    """Minus the mean log probability of the wanted labels."""

    probe: Callable[[Tensor], Tensor]
    wanted: Tensor  # B x L, 1 where the label is wanted
    goal_states: None = None

    def __call__(self, states: Tensor, prev_state: Tensor) -> Tensor:
        """See Objective."""
        from torch.nn.functional import logsigmoid

        wanted = self.wanted[:, None]
        return -(logsigmoid(label_logits(self.probe, states, prev_state)) * wanted).sum(-1) / wanted.sum(-1)

    def reached(self, states: Tensor, prev_state: Tensor, energies: Tensor | None = None) -> Tensor:
        """Every wanted label is more likely than not."""
        return ((label_logits(self.probe, states, prev_state) > 0) | (self.wanted[:, None] == 0)).all(-1)


def objective(goals: Sequence[LabelGoal], context: GoalContext) -> Objective:
    """Energies of B goals."""
    import torch

    wanted = torch.zeros(len(goals), len(context.card.labels))
    for row, goal in enumerate(goals):
        wanted[row, [context.card.labels.index(name) for name in goal.labels]] = 1
    return LabelObjective(context.model.probe, wanted)


LABEL = register(GoalKind("label", LabelGoal, check, lambda goal: ("label",), objective, "probe", ("probe",)))
