"""State decoder: from the planning state to the recorded state, for state supervision and the goal's energy."""

from __future__ import annotations

import torch
from torch import Tensor, nn

LEAST_STD = 1e-6  # standard deviation below which a recorded number counts as a constant and is left out


class StateDecoder(nn.Module):
    """A linear map from S slots of d numbers to N recorded numbers, each in units of its standard deviation."""

    mean: Tensor
    scale: Tensor

    def __init__(self, state_dim: int, slots: int, recorded: int) -> None:
        super().__init__()
        self.linear = nn.Linear(slots * state_dim, recorded)
        self.register_buffer("mean", torch.zeros(recorded))
        self.register_buffer("scale", torch.ones(recorded))  # one over the standard deviation; 0 for a constant

    @torch.no_grad()
    def fit(self, recorded: Tensor) -> None:
        """Fit mean and scale of the recorded numbers from M x N of them."""
        std = recorded.std(0, correction=0)
        self.mean.copy_(recorded.mean(0))
        self.scale.copy_(torch.where(std > LEAST_STD, 1 / std.clamp(min=LEAST_STD), 0))

    def error(self, states: Tensor, recorded: Tensor) -> Tensor:
        """Mean squared error: planning states ... x S x d, recorded numbers ... x N in their own units."""
        target = (recorded - self.mean) * self.scale
        return (self.decode(states) - target).square().mean()

    def decode(self, states: Tensor) -> Tensor:
        """Recorded numbers in standard deviations from the mean, constants as 0: ... x S x d -> ... x N."""
        found: Tensor = self.linear(states.flatten(-2)) * (self.scale > 0)
        return found.float()
