"""States that the training saw: a goal in words or labels, which is no state, is given one of them to go for.

Words say where a search should end but not how to get there. Once a state is known in which they hold, all that is
learnt of goal states leads there too: the proposal, and what habit says.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

from hnet_vjepa.planning.objectives import Objective

SUITING = 16  # remembered states that cost a goal least, of which the most central is recalled


@dataclass(frozen=True)
class GoalBank:
    """K states of training pictures."""

    states: Tensor  # K x S x d

    def retrieve(self, goal: Objective, embed: Callable[[Tensor], Tensor]) -> Tensor:
        """A state that suits one goal, S x d: of those that it costs least to rest in, the nearest to all the others.

        The best of all lies as far out as the training ever came, where the robot may hardly get; the medoid does not.
        ``embed``: states ... x S x d to where distances are steps, ... x E.
        """
        known = self.states[None]  # 1 x K x S x d
        costs = goal(known, known)[0]  # K
        suiting = self.states[costs.topk(min(SUITING, len(costs)), largest=False).indices]
        there = embed(suiting)
        return suiting[torch.cdist(there, there).sum(-1).argmin()]


@dataclass(frozen=True)
class RetrievedGoal:
    """A goal that is no state, with a remembered state to go for. What it costs and when it is reached stay its own."""

    goal: Objective
    goal_states: Tensor  # B x S x d

    def __call__(self, states: Tensor, prev_state: Tensor) -> Tensor:
        """See Objective."""
        return self.goal(states, prev_state)

    def reached(self, states: Tensor, prev_state: Tensor, energies: Tensor | None = None) -> Tensor:
        """See Objective."""
        return self.goal.reached(states, prev_state, energies)


def save_goal_bank(path: Path, goal_bank: GoalBank) -> None:
    """Write a safetensors file, in half precision."""
    path.write_bytes(safetensors.torch.save({"states": goal_bank.states.half().contiguous()}))


def load_goal_bank(path: Path) -> GoalBank:
    """Read what ``save_memory`` wrote."""
    return GoalBank(safetensors.torch.load(path.read_bytes())["states"].float())
