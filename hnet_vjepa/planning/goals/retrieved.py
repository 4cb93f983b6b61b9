"""Text and label goals name no state; where the checkpoint has a goal bank, a retrieved state becomes their goal state.

The policy prior and the behaviour prior are conditioned on it; the energy stays that of the words or labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from hnet_vjepa.planning.goals.base import Objective

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class RetrievedGoal:
    """An objective with goal states from the goal bank. Energy and when it is reached stay the goal's own."""

    goal: Objective
    goal_states: Tensor  # B x S x d

    def __call__(self, states: Tensor, prev_state: Tensor) -> Tensor:
        """See Objective."""
        return self.goal(states, prev_state)

    def reached(self, states: Tensor, prev_state: Tensor, energies: Tensor | None = None) -> Tensor:
        """See Objective."""
        return self.goal.reached(states, prev_state, energies)
