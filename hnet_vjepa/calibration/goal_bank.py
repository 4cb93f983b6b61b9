"""The goal bank: planning states of the training, one of which is retrieved for a goal in words or labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor

NEAREST = 16  # states of lowest energy, of which the medoid is retrieved


@dataclass(frozen=True)
class GoalBank:
    """K planning states of training pictures."""

    states: Tensor  # K x S x d

    def retrieve(self, cost: Callable[[Tensor], Tensor], embed: Callable[[Tensor], Tensor]) -> Tensor:
        """A state that fulfils one goal, S x d: the medoid of the states with the lowest energy at rest.

        The state of lowest energy itself often lies at the edge of the training data; the medoid does not. ``cost``:
        states K x S x d -> K. ``embed``: states ... x S x d -> ... x E, where distances are control steps.
        """
        costs = cost(self.states)
        nearest = self.states[costs.topk(min(NEAREST, len(costs)), largest=False).indices]
        there = embed(nearest)
        return nearest[torch.cdist(there, there).sum(-1).argmin()]


def save_goal_bank(path: Path, goal_bank: GoalBank) -> None:
    """Write a safetensors file, in half precision."""
    path.write_bytes(safetensors.torch.save({"states": goal_bank.states.half().contiguous()}))


def load_goal_bank(path: Path) -> GoalBank:
    """Read what ``save_goal_bank`` wrote."""
    return GoalBank(safetensors.torch.load(path.read_bytes())["states"].float())
