"""robosuite's Lift: its physics and success, exact restore, real grasps, ceiling and floor."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

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
from sims.tasks import robosuite_lift

pytest.importorskip("robosuite")

TASK = robosuite_lift.TASK
MIXED = replace(TASK, data_policy=robosuite_lift.mixture)  # the tenth of the episodes that has no one goal
PICKING = robosuite_lift.PICKING


@pytest.fixture(scope="module")
def robot() -> Iterator[robosuite_lift.RobosuiteLift]:
    with contextlib.closing(robosuite_lift.RobosuiteLift()) as simulation:
        yield simulation


@pytest.fixture(scope="module")
def episodes(robot: robosuite_lift.RobosuiteLift) -> list[Episode]:
    return [record(MIXED, robot, episode_seed("collect", 0, i), i) for i in range(8)]


@pytest.fixture(scope="module")
def pairs(robot: robosuite_lift.RobosuiteLift) -> list[Pair]:
    return make_pairs(TASK, robot, "dev", 0, 3, "image")


def test_a_step_is_two_of_the_environment_and_success_is_its_success(robot: robosuite_lift.RobosuiteLift) -> None:
    import mujoco
    import robosuite

    env: Any = robosuite.make(
        "Lift",
        robots="Panda",
        control_freq=15,
        has_renderer=False,
        has_offscreen_renderer=False,
        use_camera_obs=False,
        initialization_noise=None,
        ignore_done=True,
        seed=0,
    )  # the cube's size is drawn with the seed
    env.step(np.zeros(7))  # from then on its controller looks at the state before every step
    fingers = env.robots[0].composite_controller.grippers["right_gripper"]
    robot.reset()
    saved = robot.save()
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    model, data = env.sim.model._model, env.sim.data._data
    mujoco.mj_setState(model, data, saved[:-2], kind)
    mujoco.mj_forward(model, data)
    mujoco.mj_setState(model, data, saved[:-2], kind)
    fingers.current_action = saved[-2:].copy()
    goal = np.array([0.0, 0.05, 0.92, *[0] * 4], np.float32)
    control, successes = TASK.controller(goal), []
    for _ in range(TASK.settle_steps):
        action = control(robot.state())
        robot.step(action)
        for _ in range(TASK.interval):
            more = action[6] - (fingers.current_action[0] + 1) / 2
            env.step(np.array([*(action[:3] / 0.1), 0, 0, 0, -np.sign(more) * (abs(more) > 0.05)]))
        mujoco.mj_forward(model, data)
        np.testing.assert_allclose(robot.state()[:3], data.body("cube_main").xpos, atol=1e-6)
        np.testing.assert_allclose(robot.state()[3:6], data.site("gripper0_right_grip_site").xpos, atol=1e-6)
        successes.append(bool(env._check_success()))
        assert robosuite_lift.lifted(robot.state()) == successes[-1]
    assert not successes[0]
    assert successes[-1]
    env.close()


def test_within_the_loosest_tolerance_of_any_goal_the_cube_is_lifted() -> None:
    heights = [float(TASK.sample_goal(generator(i))[2]) for i in range(200)]
    assert min(heights) - TASK.tolerances[0] > robosuite_lift.LIFTED


def test_the_last_number_of_an_action_is_how_far_the_gripper_opens(robot: robosuite_lift.RobosuiteLift) -> None:
    robot.reset()
    for opening in (1.0, 0.4, 0.0):
        for _ in range(10):
            robot.step(np.array([0, 0, 0.01, 0, 0, 0, opening], np.float32))
        assert robot.state()[6] == pytest.approx(opening, abs=0.06)


def test_saved_states_are_restored_exactly_with_the_cube_in_the_hand(robot: robosuite_lift.RobosuiteLift) -> None:
    scatter(TASK, robot, generator(3))
    control = TASK.controller(np.array([0.0, 0.0, 0.95, *[0] * 4], np.float32))
    while not (PICKING.held(robot.state()) and robot.state()[2] > 0.88):
        robot.step(control(robot.state()))
    saved = robot.save()
    actions = np.random.default_rng(0).uniform(TASK.action.low, TASK.action.high, (12, 7)).astype(np.float32)
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
    robot.step(actions[0])  # the controller outside MuJoCo has then been elsewhere
    robot.restore(saved)
    second = play()
    assert dropped[2] < 0.85
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_two_simulations_begin_alike(robot: robosuite_lift.RobosuiteLift) -> None:
    robot.reset()
    with contextlib.closing(robosuite_lift.RobosuiteLift()) as other:
        np.testing.assert_array_equal(other.save(), robot.save())


def test_the_scripted_controller_succeeds_and_random_actions_do_not(
    robot: robosuite_lift.RobosuiteLift, pairs: list[Pair]
) -> None:
    for pair in pairs:
        assert TASK.distance(pair.start_state, pair.goal_state) >= TASK.min_goal_distance
        assert robosuite_lift.lifted(pair.goal_state)
        ceiling = roll_out(TASK, robot, ScriptedPolicy(TASK), pair, TASK.evaluation_steps, keep_frames=False)
        assert ceiling.held(len(TASK.tolerances) - 1)
        floor = roll_out(TASK, robot, RandomPolicy(TASK), pair, TASK.evaluation_steps, keep_frames=False)
        assert not floor.end(0)


def test_episodes_of_the_mixture_grasp_lift_and_let_go(episodes: list[Episode]) -> None:
    states = np.stack([e.states for e in episodes if e.states is not None])
    holds = np.array([[PICKING.held(s) for s in e] for e in states])
    assert holds.any(1).mean() >= 0.6
    assert 0.15 < holds.mean() < 0.75
    assert (states[..., 2] > 0.86).any(1).mean() >= 0.4
    moved = np.linalg.norm(np.diff(states[..., :3], axis=1), axis=-1)
    assert ((moved > 0.003) & ~holds[:, 1:] & ~holds[:, :-1]).sum() >= 3  # pushed, or falling
    openings = np.concatenate([e.actions[:, 6] for e in episodes])
    assert (np.histogram(openings, 4, (0, 1))[0] > 0.01 * len(openings)).all()


def test_the_cube_is_in_the_picture_where_the_projection_says(episodes: list[Episode]) -> None:
    shown = []
    for episode in episodes:
        assert episode.states is not None
        for frame, state in zip(episode.frames[::5], episode.states[::5], strict=True):
            red, green, blue = np.moveaxis(frame.astype(int), -1, 0)
            rows, columns = np.nonzero((red > 2 * green) & (red > 2 * blue) & (red > 60))
            column, row, _ = robosuite_lift.VIEW.project(state[:3], 64, 64)
            shown.append(len(rows) >= 8)
            if shown[-1]:
                assert abs(columns.mean() + 0.5 - column) < 3
                assert abs(rows.mean() + 0.5 - row) < 3
    assert np.mean(shown) > 0.9  # else behind the gripper


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "robosuite.environments.manipulation.lift", None)
    with pytest.raises(UserError, match="robosuite is not installed: pip install --no-deps robosuite=="):
        TASK.open()
    assert "robosuite==" in TASK.needs
