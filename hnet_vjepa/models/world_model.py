"""Action-conditioned world model: the planning state, its dynamics, and the one rollout of training and planning."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from hnet_vjepa.config import WorldModelConfig
from hnet_vjepa.models.macro_dynamics import MacroDynamics
from hnet_vjepa.models.policy_prior import PolicyPrior, Step
from hnet_vjepa.models.prefix_dynamics import PrefixDynamics
from hnet_vjepa.models.temporal_distance import TemporalDistance
from hnet_vjepa.models.transformer import Attention, Block


class CrossAttentionFuser(nn.Module):
    """Fuse actions into chunk slots: every slot attends to one token per action dimension.

    Attention over a single token would be constant; with one token per dimension a slot can attend to the dimensions
    that move it.
    """

    def __init__(self, width: int, heads: int, action_dim: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.randn(action_dim, width) * 0.5)
        self.offset = nn.Parameter(torch.randn(action_dim, width) * 0.5)
        self.norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)

    def forward(self, slots: Tensor, action: Tensor) -> Tensor:
        """Slots B x S x width and normalised actions B x A -> B x S x width."""
        tokens = action[..., None] * self.scale + self.offset  # B x A x width
        return slots + self.attention(self.norm(slots), tokens)


class Dynamics(nn.Module):
    """One step: the planning state after an action, as the present state plus a change.

    Further inputs are the previous state and the previous action: the velocity is not visible in one picture, and two
    pictures determine the mean velocity between them; the present one also depends on the force in between (of a mass
    moved by a force a_t, x_t+1 = 2 x_t - x_t-1 + (a_t-1 + a_t) / 2).
    """

    def __init__(self, state_dim: int, slots: int, action_dim: int, width: int, depth: int, heads: int) -> None:
        super().__init__()
        self.embed = nn.Linear(2 * state_dim, width)
        self.slot = nn.Parameter(torch.randn(slots, width) * 0.5)
        self.fuser = CrossAttentionFuser(width, heads, 2 * action_dim)
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)
        self.change = nn.Linear(width, state_dim)
        nn.init.zeros_(self.change.weight)  # starts as "nothing moves", the baseline it has to beat
        nn.init.zeros_(self.change.bias)

    def forward(self, state: Tensor, prev_state: Tensor, prev_action: Tensor, action: Tensor) -> Tensor:
        """State and previous state (B x S x d), the action between them and the next (B x A) -> B x S x d.

        Actions are normalised.
        """
        x = self.fuser(self.embed(with_motion(state, prev_state)) + self.slot, torch.cat([prev_action, action], 1))
        for block in self.blocks:
            x = block(x)
        changed: Tensor = state + self.change(self.norm(x))
        return changed


class FlatDynamics(nn.Module):
    """One step as Dynamics makes it, by a residual network on all slots at once.

    Slots have a fixed order, so one matrix over all of them can replace attention between them, with a fifth of the
    operations.
    """

    def __init__(self, state_dim: int, slots: int, action_dim: int, width: int, depth: int) -> None:
        super().__init__()
        self.embed = nn.Linear(2 * (slots * state_dim + action_dim), width)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, width), nn.GELU(), nn.Linear(width, width))
            for _ in range(depth)
        )
        self.norm = nn.LayerNorm(width)
        self.change = nn.Linear(width, slots * state_dim)
        nn.init.zeros_(self.change.weight)  # starts as "nothing moves", the baseline it has to beat
        nn.init.zeros_(self.change.bias)

    def forward(self, state: Tensor, prev_state: Tensor, prev_action: Tensor, action: Tensor) -> Tensor:
        """See Dynamics."""
        x = self.embed(torch.cat([with_motion(state, prev_state).flatten(1), prev_action, action], 1))  # B x width
        for block in self.blocks:
            x = x + block(x)
        changed: Tensor = state + self.change(self.norm(x)).view_as(state)
        return changed


class InverseDynamics(nn.Module):
    """Predicts the action between two states; the representation then retains what the robot controls (PLDM, eb_jepa).

    The previous state is an input too: a force is visible only as a change of velocity.
    """

    def __init__(self, state_dim: int, slots: int, action_dim: int, width: int) -> None:
        super().__init__()
        self.mlp = nn.Sequential(
            nn.Linear(3 * slots * state_dim, width),
            nn.GELU(),
            nn.Linear(width, width),
            nn.GELU(),
            nn.Linear(width, action_dim),
        )

    def forward(self, prev_state: Tensor, state: Tensor, next_state: Tensor) -> Tensor:
        """Three consecutive states, each ... x S x d -> the normalised action between the last two ... x A."""
        seen = torch.cat([x.flatten(-2) for x in (state, state - prev_state, next_state - state)], -1)
        action: Tensor = self.mlp(seen)
        return action


class WorldModel(nn.Module):
    """Planning state and dynamics. S slots of d numbers each; ``action_dim`` counts the active dimensions.

    ``trained_steps``: actions of the longest rollout in training.
    """

    def __init__(self, dim: int, slots: int, action_dim: int, config: WorldModelConfig, trained_steps: int) -> None:
        super().__init__()
        self.readout = nn.Linear(dim, config.state_dim)
        self.dynamics = _dynamics(slots, action_dim, config, trained_steps)
        self.inverse = InverseDynamics(config.state_dim, slots, action_dim, config.inverse_width)
        self.temporal_distance = TemporalDistance(config.state_dim, slots)
        self.policy_prior = PolicyPrior(config.state_dim, slots, action_dim, config.policy_prior_width)
        self.macro_dynamics = (
            MacroDynamics(config.state_dim, slots, config.macro_latent_dim) if config.macro_latent_dim else None
        )

    def fold(self) -> None:
        """Fold every whitening into the layer that follows it: equal outputs at less cost; training is over then."""
        self.temporal_distance.fold()
        self.policy_prior.fold()


def _dynamics(slots: int, action_dim: int, config: WorldModelConfig, trained_steps: int) -> nn.Module:
    dim, depth = config.state_dim, config.depth
    if config.dynamics == "transformer":
        return Dynamics(dim, slots, action_dim, config.width, depth, config.heads)
    if config.dynamics == "prefix":
        return PrefixDynamics(dim, slots, action_dim, config.flat_width, depth, trained_steps)
    return FlatDynamics(dim, slots, action_dim, config.flat_width, depth)


def with_motion(state: Tensor, prev_state: Tensor) -> Tensor:
    """State and motion: the input of the dynamics and of the heads for words and labels.

    A state and the one a step before it (... x S x d) -> ... x S x 2d. The planning state itself need not encode
    the motion: a goal picture shows none.
    """
    return torch.cat([state, state - prev_state], -1)


def rollout(dynamics: Step, state: Tensor, prev_state: Tensor, prev_action: Tensor, actions: Tensor) -> Tensor:
    """The predicted states after each of H actions. Training and planning use this one function.

    State and previous state B x S x d, the action between them B x A, normalised actions B x H x A -> B x H x S x d.
    """
    if isinstance(dynamics, PrefixDynamics):  # sees all actions at once
        return dynamics.rollout(state, prev_state, prev_action, actions)
    states = []
    for action in actions.unbind(1):
        state, prev_state, prev_action = dynamics(state, prev_state, prev_action, action), state, action
        states.append(state)
    return torch.stack(states, 1)
