"""Picking with the Franka arm of gym-hil: its physics and success, exact restore, real grasps, ceiling and floor."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from unittest import mock

import numpy as np
import pytest

from hnet_vjepa.data.store import Episode
from hnet_vjepa.errors import UserError
from sims.core.collect import record
from sims.core.seeds import episode_seed, generator
from sims.core.task import scatter
from sims.evaluation.evaluate import roll_out
from sims.evaluation.pairs import Pair, make_pairs
from sims.evaluation.policies import RandomPolicy, ScriptedPolicy
from sims.tasks import panda_pick

pytest.importorskip("gym_hil")

TASK = panda_pick.TASK
MIXED = replace(TASK, data_policy=panda_pick.mixture)  # the tenth of the episodes that has no one goal


@pytest.fixture(scope="module")
def robot() -> Iterator[panda_pick.PandaPick]:
    with contextlib.closing(panda_pick.PandaPick()) as simulation:
        yield simulation


@pytest.fixture(scope="module")
def episodes(robot: panda_pick.PandaPick) -> list[Episode]:
    return [record(MIXED, robot, episode_seed("collect", 0, i), i) for i in range(10)]


@pytest.fixture(scope="module")
def pairs(robot: panda_pick.PandaPick) -> list[Pair]:
    return make_pairs(TASK, robot, "dev", 0, 4, "image")


@pytest.fixture(scope="module")
def env(robot: panda_pick.PandaPick) -> Iterator[Any]:
    """The environment itself, made after the robot: that chooses how to draw before mujoco is imported."""
    import gymnasium
    import mujoco

    with (
        mock.patch.object(mujoco, "Renderer"),
        contextlib.closing(gymnasium.make("gym_hil/PandaPickCubeBase-v0", image_obs=False).unwrapped) as made,
    ):
        made.reset(seed=0)
        yield made


def test_a_step_is_the_environments_and_a_goal_reached_is_its_success(robot: panda_pick.PandaPick, env: Any) -> None:
    import mujoco

    robot.reset()
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    mujoco.mj_setState(env.model, env.data, robot.save(), kind)
    mujoco.mj_forward(env.model, env.data)
    mujoco.mj_setState(env.model, env.data, robot.save(), kind)
    goal = np.array([0.4, 0.1, 0.18, *[0] * 7], np.float32)
    control, successes = TASK.controller(goal), []
    for _ in range(TASK.settle_steps):
        action = control(robot.state())
        robot.step(action)
        grasp = 1 - action[6] - env.data.ctrl[7] / 255  # the change of how far it is closed
        env.step(np.array([*action[:3], 0.3, -0.2, 0.1, grasp]))
        mujoco.mj_forward(env.model, env.data)
        np.testing.assert_allclose(robot.state()[:3], env.data.body("block").xpos, atol=1e-7)
        np.testing.assert_allclose(robot.state()[3:6], env.data.site("pinch").xpos, atol=1e-7)
        successes.append(bool(env._is_success()))
        assert panda_pick.lifted(robot.state()) == successes[-1]
        assert successes[-1] or TASK.distance(robot.state(), goal) > TASK.tolerances[0]
    assert not successes[0]
    assert successes[-1]


def test_within_the_loosest_tolerance_of_any_goal_the_cube_is_lifted() -> None:
    heights = [float(TASK.sample_goal(generator(i))[2]) for i in range(200)]
    assert min(heights) - TASK.tolerances[0] > 0.02 + 0.1


def test_the_last_number_of_an_action_is_how_far_the_gripper_opens(robot: panda_pick.PandaPick) -> None:
    robot.reset()
    for _ in range(3):
        robot.step(np.array([0, 0, 0.05, 0, 0, 0, 1], np.float32))
    for opening in (1.0, 0.4, 0.0):
        for _ in range(6):
            robot.step(np.array([0, 0, 0, 0, 0, 0, opening], np.float32))
        assert robot.state()[9] == pytest.approx(opening, abs=0.03)


def test_saved_states_are_restored_exactly_with_the_cube_in_the_hand(robot: panda_pick.PandaPick) -> None:
    scatter(TASK, robot, generator(3))
    control = TASK.controller(np.array([0.4, 0.0, 0.2, *[0] * 7], np.float32))
    while not (panda_pick.PICKING.held(robot.state()) and robot.state()[2] > 0.08):
        robot.step(control(robot.state()))
    saved = robot.save()
    actions = np.random.default_rng(0).uniform(TASK.action.low, TASK.action.high, (10, 7)).astype(np.float32)
    actions[:5, 6], actions[5:, 6] = 0.1, 1.0  # held, then dropped

    def play() -> tuple[np.ndarray, np.ndarray]:
        states, frames = [robot.save()], [robot.frame()]
        for action in actions:
            robot.step(action)
            states.append(robot.save())
            frames.append(robot.frame())
        return np.stack(states), np.stack(frames)

    first, dropped = play(), robot.state()
    robot.reset()
    robot.restore(saved)
    second = play()
    assert dropped[2] < 0.04
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_the_scripted_controller_succeeds_and_random_actions_do_not(
    robot: panda_pick.PandaPick, pairs: list[Pair]
) -> None:
    for pair in pairs:
        assert TASK.distance(pair.start_state, pair.goal_state) >= TASK.min_goal_distance
        assert panda_pick.lifted(pair.goal_state)
        ceiling = roll_out(TASK, robot, ScriptedPolicy(TASK), pair, TASK.evaluation_steps, keep_frames=False)
        assert ceiling.held(len(TASK.tolerances) - 1)
        floor = roll_out(TASK, robot, RandomPolicy(TASK), pair, TASK.evaluation_steps, keep_frames=False)
        assert not floor.ever(0)


def test_episodes_of_the_mixture_grasp_lift_and_let_go(episodes: list[Episode]) -> None:
    states = np.stack([e.states for e in episodes if e.states is not None])
    holds = np.array([[panda_pick.PICKING.held(s) for s in e] for e in states])
    assert holds.any(1).mean() >= 0.6
    assert 0.2 < holds.mean() < 0.75
    assert (states[..., 2] > 0.1).any(1).mean() >= 0.4
    assert (holds[:, :-1] & ~holds[:, 1:]).sum() >= 2
    moved = np.linalg.norm(np.diff(states[..., :3], axis=1), axis=-1)
    assert ((moved > 0.003) & ~holds[:, 1:] & ~holds[:, :-1]).sum() >= 4  # pushed, or falling
    openings = np.concatenate([e.actions[:, 6] for e in episodes])
    assert (np.histogram(openings, 4, (0, 1))[0] > 0.02 * len(openings)).all()


def test_the_cube_is_in_the_picture_where_the_projection_says(episodes: list[Episode]) -> None:
    for episode in episodes:
        assert episode.states is not None
        for frame, state in zip(episode.frames[::6], episode.states[::6], strict=True):
            red, green, blue = np.moveaxis(frame.astype(int), -1, 0)
            rows, columns = np.nonzero((red > 2 * green) & (red > 2 * blue))
            column, row, _ = panda_pick.VIEW.project(state[:3], 64, 64)
            assert len(rows) >= 8  # never hidden
            assert abs(columns.mean() + 0.5 - column) < 2
            assert abs(rows.mean() + 0.5 - row) < 2


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gym_hil.envs.panda_pick_gym_env", None)
    with pytest.raises(UserError, match=r"gym-hil is not installed: pip install 'hnet-vjepa\[panda\]'"):
        TASK.open()
    assert "hnet-vjepa[panda]" in TASK.needs
