"""Subgoals on the way to goals beyond the horizon: a search over latents of the macro dynamics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hnet_vjepa.planning.goals.base import Objective
from hnet_vjepa.planning.goals.state import StateObjective

if TYPE_CHECKING:
    from torch import Tensor

    from hnet_vjepa.config import PlanConfig
    from hnet_vjepa.models.macro_dynamics import MacroDynamics

WIDEST = 2.0  # bound of the search over latents, in standard deviations of their prior


@dataclass(frozen=True)
class SubgoalObjective:
    """The objective of queries of which some have a subgoal."""

    distant: Tensor  # B, True = the subgoal's energy counts
    subgoal: Objective
    goal: Objective

    @property
    def goal_states(self) -> None:
        """None: a subgoal is a state, the other queries' goals need not be."""
        return None

    def __call__(self, states: Tensor, prev_state: Tensor) -> Tensor:
        """See Objective."""
        import torch

        return torch.where(self.distant[:, None], self.subgoal(states, prev_state), self.goal(states, prev_state))

    def reached(self, states: Tensor, prev_state: Tensor, energies: Tensor | None = None) -> Tensor:
        """Whether the goal itself is reached."""
        return self.goal.reached(states, prev_state)


def with_subgoals(distant: Tensor, subgoal: StateObjective, goal: Objective) -> Objective:
    """The subgoals of the queries that are ``distant`` (B), the goals of the others."""
    import torch

    if not isinstance(goal, StateObjective):
        return SubgoalObjective(distant, subgoal, goal)
    states = torch.where(distant[:, None, None], subgoal.goal, goal.goal)
    return replace(goal, goal=states, goal_mask=torch.where(distant[:, None], subgoal.goal_mask, goal.goal_mask))


def plan_macro_states(
    macro_dynamics: MacroDynamics,
    state: Tensor,
    objective: Objective,
    plan: PlanConfig,
    seeds: Sequence[int],
    deadline: float | None = None,
) -> Tensor:
    """Macro rollouts whose last states have low energy: states B x S x d -> B x plan.subgoals x S x d.

    Only the last state counts: a way around a wall begins by moving away from the goal. ``seeds`` and ``deadline`` as
    in ``SearchProblem``.
    """
    from hnet_vjepa.models.macro_dynamics import macro_rollout
    from hnet_vjepa.planning.cem import SearchProblem, search_actions
    from hnet_vjepa.planning.interface import SearchSettings

    def score(latents: Tensor) -> Tensor:
        count = latents.shape[1]
        start = state.repeat_interleave(count, 0)
        end = macro_rollout(macro_dynamics, start, WIDEST * latents.flatten(0, 1))[:, -1].unflatten(0, (-1, count))
        return objective(end, end)[..., None]  # as if it came to rest there

    found = search_actions(
        SearchProblem(
            score=score,
            start=state.new_zeros(len(state), plan.subgoals, macro_dynamics.latent_dim),
            std=state.new_full((len(state),), 1 / WIDEST),  # that of the latents' prior
            seeds=seeds,
            settings=SearchSettings(plan.macro_candidates, plan.macro_iterations, plan.subgoals, plan.elites),
            plan=plan,
            deadline=deadline,
        )
    )
    return macro_rollout(macro_dynamics, state, WIDEST * found.actions)
