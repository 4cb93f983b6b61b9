"""The registry of goal kinds: the kind of a goal, its check against a model, and its objective."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from hnet_vjepa.errors import FieldError
from hnet_vjepa.planning.goals.base import GoalContext, GoalKind, Objective
from hnet_vjepa.planning.interface import Goal

if TYPE_CHECKING:
    from hnet_vjepa.planning.interface import ModelCard

KINDS: dict[str, GoalKind] = {}


def register(kind: GoalKind) -> GoalKind:
    """Register a kind under its name. Raises ValueError when the name or the dataclass is taken."""
    if kind.name in KINDS or any(kind.goal is known.goal for known in KINDS.values()):
        raise ValueError(f"goal kind '{kind.name}' ({kind.goal.__name__}) is registered already")
    KINDS[kind.name] = kind
    return kind


def kind_of(goal: Goal, where: str = "goal") -> GoalKind:
    """The kind of a goal. Raises FieldError when no kind has its class."""
    for kind in KINDS.values():
        if type(goal) is kind.goal:
            return kind
    known = ", ".join(kind.goal.__name__ for kind in KINDS.values())
    raise FieldError(where, f"a {type(goal).__name__} is no goal; give one of: {known}")


def trained_kinds(phases: Collection[str]) -> tuple[str, ...]:
    """Names of the kinds of single goals that a checkpoint with these phases takes."""
    return tuple(kind.name for kind in _in_order() if kind.single and kind.phase in phases)


def unneeded_modules(phases: Collection[str]) -> tuple[str, ...]:
    """Modules of the model that only goals of untrained phases would need."""
    return tuple(module for kind in _in_order() if kind.phase not in phases for module in kind.modules)


def check_goal(goal: Goal, card: ModelCard, where: str = "goal") -> None:
    """Raise FieldError when a model can not be given a goal, naming the field (``goal.labels.1``)."""
    kind = kind_of(goal, where)
    if kind.single and kind.name not in card.goals:
        raise FieldError(
            f"{where}.kind",
            f"this model takes no {kind.name} goals (phases trained: {', '.join(card.phases)}); "
            f"it takes: {', '.join(card.goals)}",
        )
    kind.check(goal, card, where)


def goal_group(goal: Goal) -> tuple[str, ...]:
    """The group of a goal: goals of the same group share one search."""
    return kind_of(goal).group(goal)


def goal_parts(goal: Goal) -> tuple[Goal, ...]:
    """The single goals that a goal consists of: itself, or the several that it combines."""
    return kind_of(goal).parts(goal)


def make_objective(goals: Sequence[Goal], context: GoalContext) -> Objective:
    """The objective of B goals of one group."""
    return kind_of(goals[0]).objective(goals, context)


def _in_order() -> list[GoalKind]:
    """Kinds by the phase that they need: those of every planning checkpoint first."""
    order = ("action", "language", "probe")
    return sorted(KINDS.values(), key=lambda kind: order.index(kind.phase) if kind.phase in order else len(order))
