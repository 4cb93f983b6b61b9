"""The policy prior: a goal-conditioned policy learnt from recorded episodes, which gives the search candidates."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from hnet_vjepa.models.whitening import Whitening

Step = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # state, previous state, previous action, action -> next
LOG_STD = (-3.0, 0.5)  # of normalised actions
RIDGE = 0.5  # see Whitening: with less it overfits, with more it does not see a small object's position


class PolicyPrior(nn.Module):
    """A Gaussian over the next action, given state, motion, previous action and goal state.

    Trained by imitation of recorded episodes with hindsight goals (Andrychowicz et al. 2017; Ghosh et al. 2021). Random
    candidates seldom contain several right actions in a row, such as going round a cube to push it; samples of the
    prior do. Its input states are whitened; ``whitening`` is fitted before training.
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
        """States ... x S x d (now, a step before, goal), previous action ... x A -> mean and log std, both ... x A."""
        now, past, there = (self.whitening(x.flatten(-2)) for x in (state, prev_state, goal))  # ... x Sd
        mean, log_std = self.mlp(torch.cat([now, now - past, there, prev_action], -1)).chunk(2, -1)
        return mean, log_std.clamp(*LOG_STD)

    def fold(self) -> None:
        """Fold the whitening into the first layer: equal outputs at less cost; training is over then."""
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
    """Sample action sequences from the prior, step by step along the rollout of the dynamics.

    States B x S x d, previous action B x A, white noise B x H x A (zeros: the most likely sequence) -> normalised
    actions B x H x A.
    """
    actions: list[Tensor] = []
    for step in noise.unbind(1):
        if actions:  # the state after the last action is not needed
            state, prev_state, prev_action = dynamics(state, prev_state, prev_action, actions[-1]), state, actions[-1]
        mean, log_std = policy_prior(state, prev_state, prev_action, goal)
        actions.append(mean + log_std.exp() * step)
    return torch.stack(actions, 1)
