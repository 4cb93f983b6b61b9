"""Text and label goals name no state; where the checkpoint has a goal bank, they get a state from it to go for.

The energy says where a plan should end but not how to get there. Once a state is known in which a sentence or labels
hold, the policy prior and the behaviour prior can be conditioned on it.
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
