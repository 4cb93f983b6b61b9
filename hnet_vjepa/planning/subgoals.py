"""Where to go first on the way to a goal that lies beyond the horizon: a search over codes of a coarse model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from hnet_vjepa.config import PlanConfig
from hnet_vjepa.models.macro_dynamics import MacroDynamics, macro_rollout
from hnet_vjepa.planning.cem import search_actions
from hnet_vjepa.planning.interface import SearchSettings
from hnet_vjepa.planning.objectives import Objective, StateObjective

WIDEST = 2.0  # deviations from the mean of what recorded episodes did, which a search may go


@dataclass(frozen=True)
class Towards:
    """An objective of which some queries go for a sub-goal first."""

    far: Tensor  # B, True = goes for the sub-goal
    subgoal: Objective
    goal: Objective

    @property
    def goal_states(self) -> None:
        """None: what some go for is a state and what the others go for is not."""
        return None

    def __call__(self, states: Tensor, prev_state: Tensor) -> Tensor:
        """See Objective."""
        return torch.where(self.far[:, None], self.subgoal(states, prev_state), self.goal(states, prev_state))

    def reached(self, states: Tensor, prev_state: Tensor, energies: Tensor | None = None) -> Tensor:
        """Whether the goal itself is reached."""
        return self.goal.reached(states, prev_state)


def mixed(far: Tensor, subgoal: StateObjective, goal: Objective) -> Objective:
    """The sub-goals of the queries that are ``far`` (B), the goals of the others."""
    if not isinstance(goal, StateObjective):
        return Towards(far, subgoal, goal)
    states = torch.where(far[:, None, None], subgoal.goal, goal.goal)
    return replace(goal, goal=states, goal_mask=torch.where(far[:, None], subgoal.goal_mask, goal.goal_mask))


def plan_macro_states(
    macro_dynamics: MacroDynamics,
    state: Tensor,
    objective: Objective,
    plan: PlanConfig,
    seeds: Sequence[int],
    deadline: float | None = None,
) -> Tensor:
    """The imagined coarse states that end nearest to the goals: from states B x S x d, B x plan.subgoals x S x d.

    Only the end counts: the way around a wall begins by going away from what is wanted. ``seeds`` and ``deadline`` as
    in ``search_actions``.
    """

    def score(latents: Tensor) -> Tensor:
        count = latents.shape[1]
        start = state.repeat_interleave(count, 0)
        end = macro_rollout(macro_dynamics, start, WIDEST * latents.flatten(0, 1))[:, -1].unflatten(0, (-1, count))
        return objective(end, end)[..., None]  # as if it came to rest there

    search = SearchSettings(plan.macro_candidates, plan.macro_iterations, plan.subgoals, plan.elites)
    mean = state.new_zeros(len(state), plan.subgoals, macro_dynamics.latent)
    spread = state.new_full((len(state),), 1 / WIDEST)  # that of the codes' prior
    found = search_actions(score, mean, search, seeds, plan, spread, deadline)
    return macro_rollout(macro_dynamics, state, WIDEST * found.actions)
