"""The parts of a kind of goal: protocols that the modules of this package implement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from hnet_vjepa.config import PhaseName
from hnet_vjepa.planning.interface import Goal, ModelCard

if TYPE_CHECKING:
    from torch import Tensor

    from hnet_vjepa.models.model import HNetVJEPA
    from hnet_vjepa.planning.perception import Perception


class Objective(Protocol):
    """The goals of B queries, all of one group."""

    @property
    def goal_states(self) -> Tensor | None:
        """Goal states B x S x d that the policy prior can be conditioned on; None where there are none."""
        ...

    def __call__(self, states: Tensor, prev_state: Tensor) -> Tensor:
        """Energies B x N of states B x N x S x d (N candidates), given the states one step before each."""
        ...

    def reached(self, states: Tensor, prev_state: Tensor, energies: Tensor | None = None) -> Tensor:
        """Whether the goal is reached in states B x N x S x d, whose energies (B x N) may be known: B x N bool."""
        ...


@dataclass(frozen=True)
class GoalContext:
    """What objectives depend on: the model, its perception, and the masks of the B present states."""

    model: HNetVJEPA
    card: ModelCard
    perception: Perception
    mask: Tensor  # B x S, True = slot that holds nothing
    reached_energy: float  # energy below which a goal state counts as reached
    reached_text_energy: float  # the same for sentences


@dataclass(frozen=True)
class GoalKind:
    """One kind of goal. ``goal`` is its dataclass.

    Attributes:
        check: raises FieldError when a model can not be given a goal; its third argument precedes the field's name.
        group: goals of the same group share one search.
        objective: that of B goals of one group.
        phase: the phase that a checkpoint must have been trained in.
        modules: of the model, needed by this kind alone: a checkpoint without the phase is exported without them.
        parts: the goals that a goal consists of; itself, unless it combines several.
        single: a model lists it among the goals that it takes, and it can be a part of a combined goal.
    """

    name: str
    goal: type[Goal]
    check: Callable[[Any, ModelCard, str], None]
    group: Callable[[Any], tuple[str, ...]]
    objective: Callable[[Sequence[Any], GoalContext], Objective]
    phase: PhaseName = "action"
    modules: tuple[str, ...] = ()
    parts: Callable[[Any], tuple[Goal, ...]] = lambda goal: (goal,)
    single: bool = True
