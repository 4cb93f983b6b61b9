"""Goals in words: reach a state of which a sentence is true."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hnet_vjepa.errors import FieldError
from hnet_vjepa.planning.goals.base import GoalContext, GoalKind, Objective
from hnet_vjepa.planning.goals.factory import register
from hnet_vjepa.planning.interface import Goal
from hnet_vjepa.tokenization import tokenize

if TYPE_CHECKING:
    from torch import Tensor

    from hnet_vjepa.planning.interface import ModelCard


@dataclass(frozen=True)
class TextGoal(Goal):
    """Reach a state of which this sentence is true."""

    text: str


def check(goal: TextGoal, card: ModelCard, where: str) -> None:
    """Raise FieldError for a sentence without words."""
    if not tokenize(goal.text):
        raise FieldError(f"{where}.text", "is empty or blank; write a sentence that is true at the goal")


@dataclass(frozen=True)
class TextObjective:
    """Disagreement of state and sentence, ``1 - cos`` of their embeddings: 0 (agree) to 2."""

    project: Callable[[Tensor], Tensor]  # states with motion ... x S x 2d -> unit vectors ... x E
    text: Tensor  # B x E, unit vectors
    near: float  # energy below which the sentence counts as true
    goal_states: None = None

    def __call__(self, states: Tensor, prev_state: Tensor) -> Tensor:
        """See Objective."""
        from hnet_vjepa.losses.energy import text_energy
        from hnet_vjepa.models.world_model import with_motion

        return text_energy(self.project(with_motion(states, prev_state)), self.text[:, None])

    def reached(self, states: Tensor, prev_state: Tensor, energies: Tensor | None = None) -> Tensor:
        """The energy is below the calibrated one of true sentences."""
        return (self(states, prev_state) if energies is None else energies) < self.near


def objective(goals: Sequence[TextGoal], context: GoalContext) -> Objective:
    """Energies of B sentences."""
    model = context.model
    return TextObjective(model.projector, model.text.encode([g.text for g in goals]), context.reached_text_energy)


def unknown_words(goals: Sequence[Goal], vocabulary: frozenset[str]) -> list[str]:
    """Words of text goals that no training caption contained, in order; none when the vocabulary is not known."""
    words = [word for goal in goals if isinstance(goal, TextGoal) for word in tokenize(goal.text)]
    return list(dict.fromkeys(word for word in words if vocabulary and word not in vocabulary))


TEXT = register(GoalKind("text", TextGoal, check, lambda goal: ("text",), objective, "language", ("text", "projector")))
