"""Subgoals: the loss of the macro dynamics by brute force, a way around a wall, and what they change in plans."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hnet_vjepa.checkpoint import Checkpoint, load_checkpoint
from hnet_vjepa.config import PlanConfig
from hnet_vjepa.errors import UserError
from hnet_vjepa.losses.macro_dynamics import PRIOR, macro_dynamics_loss
from hnet_vjepa.models.macro_dynamics import MacroDynamics, macro_rollout
from hnet_vjepa.pipeline import run_pipeline
from hnet_vjepa.planning.goals.label import LabelGoal
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.goals.subgoal import plan_macro_states
from hnet_vjepa.planning.goals.text import TextGoal
from hnet_vjepa.planning.interface import Goal, PlanQuery, PlanResult
from hnet_vjepa.planning.planner import WorldModelPlanner
from tests import toy

LATENT = {
    "world_model": {"state_dim": 8, "width": 16, "depth": 1, "heads": 2, "inverse_width": 32, "macro_latent_dim": 2}
}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory, toy_store: Path) -> Checkpoint:
    model = {**toy.config().model_dump()["model"], **LATENT}
    config = toy.config(model=model, plan={"subgoals": 3, "macro_candidates": 12})
    return load_checkpoint(run_pipeline(config, toy_store, tmp_path_factory.mktemp("macro"), progress=False))


def planner(checkpoint: Checkpoint, **plan: float) -> WorldModelPlanner:
    model = copy.copy(checkpoint.model)
    changed = PlanConfig.model_validate({**model.config.plan.model_dump(), **plan})
    model.config = model.config.model_copy(update={"plan": changed})
    return WorldModelPlanner(replace(checkpoint, model=model))


def always_distant(checkpoint: Checkpoint) -> Checkpoint:
    """The same model, in which any two states are many steps apart."""
    model = copy.deepcopy(checkpoint.model)
    with torch.no_grad():
        last = model.world_model.temporal_distance.mlp[-1]
        assert isinstance(last, torch.nn.Linear)
        last.weight.mul_(1e4)
    return replace(checkpoint, model=model)


def query(goal: Goal, seed: int = 0) -> PlanQuery:
    return PlanQuery(np.stack([toy.picture(8 + seed, 10), toy.picture(9 + seed, 10)]), goal, seed=seed)


def test_the_loss_is_an_evidence_lower_bound_with_noise_of_its_own_for_every_row() -> None:
    torch.manual_seed(0)
    macro_dynamics, state, next_state = (
        MacroDynamics(state_dim=3, slots=2, latent_dim=2),
        torch.randn(4, 2, 3),
        torch.randn(4, 2, 3),
    )
    terms = []
    for row, key in enumerate((7, 3, 7, 11)):
        mean, log_std = macro_dynamics.encode(state[row], next_state[row])
        latent = mean + log_std.exp() * torch.randn(2, generator=torch.Generator().manual_seed(key))
        posterior, prior = torch.distributions.Normal(mean, log_std.exp()), torch.distributions.Normal(0.0, 1.0)
        divergence = torch.distributions.kl_divergence(posterior, prior).sum()
        terms.append((macro_dynamics(state[row], latent) - next_state[row]).square().mean() + PRIOR * divergence)
    torch.testing.assert_close(
        macro_dynamics_loss(macro_dynamics, state, next_state, (7, 3, 7, 11)), torch.stack(terms).mean()
    )


def test_it_learns_that_there_are_several_ways() -> None:
    """From one place to the left or to the right, never to the middle: codes tell the two apart."""
    torch.manual_seed(0)
    macro_dynamics = MacroDynamics(state_dim=2, slots=1, latent_dim=2, width=32)
    optimizer = torch.optim.Adam(macro_dynamics.parameters(), lr=3e-3)
    for step in range(300):
        state = torch.rand(64, 1, 2)
        way = torch.randint(2, (64, 1, 1)) * 2.0 - 1
        loss = macro_dynamics_loss(
            macro_dynamics, state, state + way * torch.tensor([1.0, 0.0]), range(64 * step, 64 * step + 64)
        )
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    state = torch.rand(500, 1, 2)
    moved = (macro_dynamics(state, torch.randn(500, 2)) - state)[:, 0]
    assert (moved[:, 0] > 0.7).float().mean() > 0.25 and (moved[:, 0] < -0.7).float().mean() > 0.25
    assert moved[:, 0].abs().median() > 0.8 and moved[:, 1].abs().median() < 0.2


class Walker:
    """Known macro dynamics: a latent moves a point by up to 1 per axis, unless the wall at x = 0, |y| < 1 stops it."""

    latent_dim = 2

    def __call__(self, state: Tensor, latent: Tensor) -> Tensor:
        here = state[:, 0]
        there = here + latent.clamp(-1, 1)
        share = here[:, :1] / (here[:, :1] - there[:, :1])
        crosses = ((here[:, :1] > 0) != (there[:, :1] > 0)) & ((here + share * (there - here))[:, 1:].abs() < 1)
        return torch.where(crosses, here, there)[:, None]


class Near:
    """An objective: how far a point is from another."""

    goal_states = None

    def __init__(self, goal: Tensor) -> None:
        self.goal = goal

    def __call__(self, states: Tensor, prev_state: Tensor) -> Tensor:
        return torch.linalg.vector_norm(states[:, :, 0] - self.goal, dim=-1)

    def reached(self, states: Tensor, prev_state: Tensor) -> Tensor:
        return self(states, prev_state) < 0.1


def test_the_way_goes_around_a_wall() -> None:
    start, goal = torch.tensor([[[-0.5, 0.0]]]).expand(8, 1, 2), torch.tensor([0.5, 0.0])
    plan = PlanConfig(subgoals=5, macro_candidates=128, macro_iterations=5)
    way = plan_macro_states(Walker(), start, Near(goal), plan, range(8))  # type: ignore[arg-type]
    assert way.shape == (8, 5, 1, 2)
    ends = torch.linalg.vector_norm(way[:, -1, 0] - goal, dim=-1)
    assert (ends < 0.4).float().mean() > 0.7  # straight on, the wall would keep it 0.5 away at least
    assert (way[ends < 0.4][..., 0, 1].abs().amax(1) > 0.5).all()  # and none of these went through it


def test_a_way_depends_on_its_own_seed_alone() -> None:
    start, plan = torch.randn(3, 1, 2), PlanConfig(subgoals=3)
    near = Near(torch.tensor([2.0, 0.0]))
    together = plan_macro_states(Walker(), start, near, plan, (4, 5, 6))  # type: ignore[arg-type]
    alone = plan_macro_states(Walker(), start[1:2], near, plan, (5,))  # type: ignore[arg-type]
    torch.testing.assert_close(together[1:2], alone)


def test_the_steps_of_a_rollout_follow_each_other() -> None:
    torch.manual_seed(0)
    macro_dynamics, state, latents = MacroDynamics(3, 2, 2), torch.randn(4, 2, 3), torch.randn(4, 3, 2)
    rolled = macro_rollout(macro_dynamics, state, latents)
    torch.testing.assert_close(
        rolled[:, 2], macro_dynamics(macro_dynamics(macro_dynamics(state, latents[:, 0]), latents[:, 1]), latents[:, 2])
    )


@pytest.mark.parametrize("goal", [LabelGoal(("right",)), TextGoal("go right"), ImageGoal(toy.picture(24, 24))])
def test_plans_with_sub_goals_are_repeatable_and_do_not_depend_on_the_batch(checkpoint: Checkpoint, goal: Goal) -> None:
    steps = {"temporal_distance": 0.0} if isinstance(goal, ImageGoal) else {}
    ours = planner(always_distant(checkpoint), **steps)
    together = ours.plan([query(goal, seed) for seed in range(3)])
    for seed, result in enumerate(together):
        [alone] = ours.plan([query(goal, seed)])
        np.testing.assert_allclose(alone.actions, result.actions, atol=1e-4)


@pytest.mark.parametrize("goal", [LabelGoal(("right",)), TextGoal("go right")])
def test_a_distant_goal_in_words_is_searched_for_by_way_of_a_subgoal(checkpoint: Checkpoint, goal: Goal) -> None:
    far = always_distant(checkpoint)
    assert different(planner(far).plan([query(goal)]), planner(far, subgoals=0).plan([query(goal)]))


def test_a_goal_within_the_horizon_is_searched_for_as_ever(checkpoint: Checkpoint) -> None:
    near, goal = copy.deepcopy(checkpoint.model), LabelGoal(("right",))
    torch.nn.init.zeros_(near.world_model.temporal_distance.mlp[-1].weight)  # type: ignore[arg-type]
    close = replace(checkpoint, model=near)
    assert not different(planner(close).plan([query(goal)]), planner(close, subgoals=0).plan([query(goal)]))


def test_pictures_with_a_temporal_distance_need_no_sub_goals(checkpoint: Checkpoint) -> None:
    far, goal = always_distant(checkpoint), ImageGoal(toy.picture(24, 24))
    assert not different(planner(far).plan([query(goal)]), planner(far, subgoals=0).plan([query(goal)]))


def test_energies_are_those_of_the_goal_itself(checkpoint: Checkpoint) -> None:
    [result] = planner(always_distant(checkpoint)).plan([query(LabelGoal(("right",)))])
    [flat] = planner(checkpoint, subgoals=0).plan([query(LabelGoal(("right",)))])
    assert result.energy_now == pytest.approx(flat.energy_now)
    # Those of the subgoal count steps, of which ``always_distant`` makes thousands; a label costs -log p.
    assert np.abs(result.energies - result.energy_now).max() < 5


def test_a_deadline_that_is_past_is_answered(checkpoint: Checkpoint) -> None:
    [result] = planner(always_distant(checkpoint)).plan([replace(query(LabelGoal(("right",))), deadline=0.0)])
    assert np.isfinite(result.actions).all() and result.iterations == 1


def test_without_a_latent_there_are_no_macro_dynamics(toy_run: Path) -> None:
    """Checkpoints from before there was one say nothing of it in their configuration, and lack its weights."""
    model = load_checkpoint(toy_run / "action").model
    assert model.world_model.macro_dynamics is None and not any("macro" in name for name in model.state_dict())


def test_settings_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(UserError, match=r"plan.subgoals = 3: needs macro dynamics.*model.world_model.macro_latent_dim"):
        toy.config(plan={"subgoals": 3})
    with pytest.raises(UserError, match=r"macro_candidates = 2: must be at least elites \(4\)"):
        toy.config(model={**toy.config().model_dump()["model"], **LATENT}, plan={"subgoals": 3, "macro_candidates": 2})


def different(some: list[PlanResult], others: list[PlanResult]) -> bool:
    return any(not np.array_equal(a.actions, b.actions) for a, b in zip(some, others, strict=True))
