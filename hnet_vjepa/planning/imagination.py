"""Rollouts of candidate actions with the dynamics, and candidates sampled from the policy prior."""

from __future__ import annotations

import torch
from torch import Tensor

from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.models.policy_prior import sample_prior
from hnet_vjepa.models.world_model import rollout
from hnet_vjepa.planning.action_space import ActionSpace
from hnet_vjepa.planning.cem import SamplePrior
from hnet_vjepa.planning.costs import ImaginedRollout
from hnet_vjepa.planning.jit import Function, Shapes, jit_trace
from hnet_vjepa.planning.perception import Present


class Imagination:
    """Dynamics and policy prior of one checkpoint, for actions in -1..1."""

    def __init__(self, model: HNetVJEPA, actions: ActionSpace) -> None:
        self._model, self._actions = model, actions
        self._rolled_out: Function = self._rollout
        self._sampled: Function = self._sample

    def compile(self) -> None:
        """Trace the shapes of a plan for one query with the checkpoint's own search settings."""
        config, dims = self._model.config, len(self._actions.spec.active)
        plan, state = config.plan, (config.model.backbone.slots, config.model.world_model.state_dim)
        sampled = min(plan.prior_candidates, plan.candidates - 1)

        def shapes(rows: int, *more: tuple[int, ...]) -> Shapes:
            """A state, the one before it, the action between them, and more, of so many rows."""
            return (rows, *state), (rows, *state), (rows, dims), *((rows, *shape) for shape in more)

        rows = (1, plan.candidates)  # holding still, and an iteration of the search
        self._rolled_out = jit_trace(self._rollout, [shapes(n, (plan.horizon, dims)) for n in rows])
        self._sampled = jit_trace(self._sample, [shapes(sampled, state, (plan.horizon, dims))])

    def rollout(self, now: Present, actions: Tensor) -> ImaginedRollout:
        """The states after every action of N candidates for each of B robots: actions B x N x H x A."""
        batch, candidates = actions.shape[:2]
        state, prev_state, prev_action = (
            x.repeat_interleave(candidates, 0) for x in (now.state, now.prev_state, now.prev_action)
        )
        [after] = self._rolled_out(state, prev_state, prev_action, self._actions.to_model(actions.flatten(0, 1)))
        earlier = torch.cat([state[:, None], after[:, :-1]], 1)  # (B*N) x H x S x d
        states, prev_states = (x.unflatten(0, (batch, candidates)) for x in (after, earlier))
        return ImaginedRollout(states, prev_states, actions)

    def prior_sampler(self, now: Present, goal: Tensor) -> SamplePrior:
        """Candidates from the policy prior towards goal states B x S x d.

        Where the behaviour prior has a weight, the first of them is the prior's most likely sequence.
        """

        def sampled(noise: Tensor) -> Tensor:
            count = noise.shape[1]
            if self._model.config.plan.behaviour_prior:
                noise = torch.cat([torch.zeros_like(noise[:, :1]), noise[:, 1:]], 1)
            state, prev_state, prev_action, there = (  # (B*P) x ...
                x.repeat_interleave(count, 0) for x in (now.state, now.prev_state, now.prev_action, goal)
            )
            [normal] = self._sampled(state, prev_state, prev_action, there, noise.flatten(0, 1))
            return self._actions.from_model(normal).unflatten(0, (-1, count))

        return sampled

    def _rollout(self, state: Tensor, prev_state: Tensor, prev_action: Tensor, actions: Tensor) -> tuple[Tensor]:
        """See ``models.world_model.rollout``."""
        return (rollout(self._model.world_model.dynamics, state, prev_state, prev_action, actions),)

    def _sample(
        self, state: Tensor, prev_state: Tensor, prev_action: Tensor, goal: Tensor, noise: Tensor
    ) -> tuple[Tensor]:
        """See ``models.policy_prior.sample_prior``."""
        world = self._model.world_model
        return (sample_prior(world.policy_prior, world.dynamics, state, prev_state, prev_action, goal, noise),)
