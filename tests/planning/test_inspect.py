"""The inspector's parts agree with the planner: states, energies, first candidates, inverse dynamics."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hnet_vjepa.checkpoint import Checkpoint, load_checkpoint
from hnet_vjepa.data.store import Episode, EpisodeStore
from hnet_vjepa.planning import inspect
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.inspect import Inspector
from hnet_vjepa.planning.interface import PlanQuery, SearchSettings
from tests import toy

GOAL = toy.picture(24, 24)


@pytest.fixture(scope="module")
def checkpoint(toy_run: Path) -> Checkpoint:
    return load_checkpoint(toy_run / "action")


@pytest.fixture(scope="module")
def inspector(checkpoint: Checkpoint) -> Inspector:
    return Inspector(checkpoint)


@pytest.fixture(scope="module")
def episode(toy_store: Path) -> Episode:
    return EpisodeStore(toy_store).episodes[3]


@pytest.fixture(scope="module")
def frames(episode: Episode) -> np.ndarray:
    return np.array(episode.frames)


def test_states_are_the_planner_s_own(inspector: Inspector, frames: np.ndarray) -> None:
    clip = frames[4 - inspector.window : 4]
    [plan] = inspector.planner.plan([PlanQuery(clip, ImageGoal(GOAL))])
    seen = inspector.last(clip[None])
    np.testing.assert_allclose(seen.states[0].numpy(), plan.state, atol=1e-5)
    goal = inspector.last(GOAL[None, None])
    np.testing.assert_array_equal(goal.states, goal.prev_state)  # a single picture is at rest
    assert inspector.energy(seen, goal)[0] == pytest.approx(plan.energy_now, rel=1e-4)


def test_an_episode_is_the_same_in_pieces(
    inspector: Inspector, frames: np.ndarray, episode: Episode, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = inspector.episode(frames, episode.actions)
    assert len(whole) == len(frames) and whole.features().shape == (len(frames), 4 * 8)
    np.testing.assert_array_equal(whole.prev_state[1:], whole.states[:-1])
    spec = inspector.planner.card.action
    assert spec.mean is not None and spec.std is not None
    np.testing.assert_allclose(whole.prev_action[1:].numpy() * spec.std + spec.mean, episode.actions[:, :2], atol=1e-5)
    np.testing.assert_allclose(whole.prev_action[0].numpy() * spec.std + spec.mean, 0, atol=1e-6)  # holding still
    monkeypatch.setattr(inspect, "BATCH", 5)
    pieces = inspector.episode(frames, episode.actions)
    np.testing.assert_allclose(pieces.states, whole.states, atol=1e-5)
    np.testing.assert_array_equal(pieces.masks, whole.masks)
    ends = np.stack([frames[t - inspector.window : t] for t in range(inspector.window, len(frames) + 1)])
    np.testing.assert_allclose(inspector.last(ends).states, whole.states[inspector.window - 1 :], atol=1e-5)


def test_imagined_energies_are_those_that_a_plan_reports(inspector: Inspector, frames: np.ndarray) -> None:
    clip = frames[: inspector.window]
    [plan] = inspector.planner.plan([PlanQuery(clip, ImageGoal(GOAL), seed=3)])
    start, goal = inspector.last(clip[None]), inspector.last(GOAL[None, None])
    energies = [inspector.energy(state, goal)[0] for state in inspector.rollout(start, plan.actions[None])]
    np.testing.assert_allclose(energies, plan.energies, rtol=1e-3)


@pytest.mark.parametrize("exponent", [0.0, 3.0])
def test_first_candidates_are_those_of_the_search(exponent: float, toy_run: Path, frames: np.ndarray) -> None:
    inspector = Inspector(toy.with_plan(load_checkpoint(toy_run / "action"), step_weight_exponent=exponent))
    clip = frames[: inspector.window]
    start, goal = inspector.last(clip[None]), inspector.last(GOAL[None, None])
    for seed in (0, 7):
        query = PlanQuery(clip, ImageGoal(GOAL), seed=seed)
        proposed = inspector.planner.first_candidates(query, 20, 3)
        assert proposed.shape == (20, 3, 7)
        assert (proposed[0] == 0).all()  # the first is holding still
        assert (np.abs(proposed[..., :2]) <= 3).all() and (proposed[..., 2:] == 0).all()
        states = inspector.rollout(start[[0] * 20], proposed)
        best = inspector.cost([inspector.energy(state, goal) for state in states]).argmin()
        search = SearchSettings(candidates=20, iterations=1, horizon=3, elites=1)
        [plan] = inspector.planner.plan([replace(query, search=search)])
        np.testing.assert_allclose(plan.actions, proposed[best], atol=1e-5)


def test_which_action_was_done(
    checkpoint: Checkpoint, inspector: Inspector, frames: np.ndarray, episode: Episode
) -> None:
    seen = inspector.episode(frames, episode.actions)
    estimated = inspector.prev_action(seen)
    assert estimated.shape == (len(frames), 2)
    spec = checkpoint.model.robot.action
    assert spec.mean is not None and spec.std is not None
    normal = checkpoint.model.world_model.inverse(*(seen.states[t : t + 1] for t in (1, 2, 3))).detach().numpy()[0]
    np.testing.assert_allclose(estimated[3], normal * spec.std + spec.mean, rtol=1e-4)
