"""A learnt proposal: what a robot that was on its way to the goal did here, as a first guess for the search."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hnet_vjepa.models.whitening import Whitening

Step = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # state, the one before, the last action, action -> next
LOG_STD = (-3.0, 0.5)  # of normalised actions
RIDGE = 0.5  # see Whitening: with less it learns by heart, with more it does not see where a small object is


class PolicyPrior(nn.Module):
    """A Gaussian over the next action, given where the robot is, how it moves and where it shall go.

    Learnt from what recorded episodes did on the way to what they later showed (hindsight, Andrychowicz et al. 2017;
    goal-conditioned imitation, Ghosh et al. 2021). A search that begins with it need not find by chance what takes
    several right actions in a row, such as going round a cube to push it. It sees states whitened, with ``whitening``
    fitted to them first.
    """

    def __init__(self, state_dim: int, slots: int, action_dim: int, width: int) -> None:
        super().__init__()
        self.whitening = Whitening(slots * state_dim, RIDGE)
        self.mlp = nn.Sequential(
            nn.Linear(3 * slots * state_dim + action_dim, width),
            nn.GELU(),
            nn.LayerNorm(width),
            nn.Linear(width, width),
            nn.GELU(),
            nn.LayerNorm(width),
            nn.Linear(width, 2 * action_dim),
        )

    def forward(self, state: Tensor, prev_state: Tensor, prev_action: Tensor, goal: Tensor) -> tuple[Tensor, Tensor]:
        """States ... x S x d (now, a step before, wanted), last action ... x A -> mean and log deviation, ... x A."""
        now, past, there = (self.whitening(x.flatten(-2)) for x in (state, prev_state, goal))  # ... x Sd
        mean, log_std = self.mlp(torch.cat([now, now - past, there, prev_action], -1)).chunk(2, -1)
        return mean, log_std.clamp(*LOG_STD)

    def fold(self) -> None:
        """Make the whitening part of the first layer: the same proposals, at less cost, and no learning any more."""
        first = self.mlp[0]
        assert isinstance(first, nn.Linear)
        self.whitening.fold(first, places=3, motions=(1,))


def sample_prior(
    policy_prior: PolicyPrior,
    dynamics: Step,
    state: Tensor,
    prev_state: Tensor,
    prev_action: Tensor,
    goal: Tensor,
    noise: Tensor,
) -> Tensor:
    """Follow the proposal through imagined states.

    States B x S x d, last action B x A, white noise B x H x A (zeros: the most likely way) -> actions B x H x A.
    """
    actions: list[Tensor] = []
    for step in noise.unbind(1):
        if actions:  # what the last action leads to, nobody asks
            state, prev_state, prev_action = dynamics(state, prev_state, prev_action, actions[-1]), state, actions[-1]
        mean, log_std = policy_prior(state, prev_state, prev_action, goal)
        actions.append(mean + log_std.exp() * step)
    return torch.stack(actions, 1)
