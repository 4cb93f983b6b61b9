"""Dynamics that predict the states after each of several actions in one pass, each from a prefix of the actions."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class PrefixDynamics(nn.Module):
    """The state after h actions as the present state plus a change, which these h actions make together.

    A block-masked linear layer gives row h the actions 1 to h; then all rows go through the same residual network as
    one batch. (One pass over action prefixes is the idea of Fast-LeWM, which uses a transformer.) Predicted states are
    not fed back, so errors do not accumulate within a span; but the effect of a step is learnt separately for every h.
    ``span`` is the largest h: longer sequences continue from the last predicted states.
    """

    known: Tensor  # (span * width) x (span * A): 1 where a row depends on an action, else 0

    def __init__(self, state_dim: int, slots: int, action_dim: int, width: int, depth: int, span: int) -> None:
        super().__init__()
        self.span = span
        self.embed = nn.Linear(2 * slots * state_dim + action_dim, width)
        self.prefix = nn.Linear(span * action_dim, span * width)
        known = torch.ones(span, span).tril().repeat_interleave(width, 0).repeat_interleave(action_dim, 1)
        self.register_buffer("known", known, persistent=False)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.change = nn.Linear(width, slots * state_dim)
        nn.init.zeros_(self.change.weight)  # starts as "nothing moves", the baseline it has to beat
        nn.init.zeros_(self.change.bias)

    def forward(self, state: Tensor, prev_state: Tensor, prev_action: Tensor, action: Tensor) -> Tensor:
        """One step: see Dynamics."""
        return self.rollout(state, prev_state, prev_action, action[:, None])[:, 0]

    def rollout(self, state: Tensor, prev_state: Tensor, prev_action: Tensor, actions: Tensor) -> Tensor:
        """The states after each of H actions: see rollout."""
        predicted = []
        for part in actions.split(self.span, 1):
            states = self._span(state, prev_state, prev_action, part)
            past = torch.cat([state[:, None], states], 1)
            prev_state, state, prev_action = past[:, -2], past[:, -1], part[:, -1]
            predicted.append(states)
        return torch.cat(predicted, 1)

    def _span(self, state: Tensor, prev_state: Tensor, prev_action: Tensor, actions: Tensor) -> Tensor:
        """The same for at most ``span`` actions, B x h x A."""
        _, count, action_dim = actions.shape
        rows, columns = count * self.embed.out_features, count * action_dim
        weight = (self.prefix.weight * self.known)[:rows, :columns]
        done = functional.linear(actions.flatten(1), weight, self.prefix.bias[:rows]).unflatten(1, (count, -1))
        seen = torch.cat([state.flatten(1), (state - prev_state).flatten(1), prev_action], 1)
        x = self.embed(seen)[:, None] + done  # B x h x width
        for block in self.blocks:
            x = x + block(x)
        changed: Tensor = state[:, None] + self.change(self.norm(x)).unflatten(2, state.shape[1:])
        return changed
