"""OGBench's single cube: its physics and success, exact restore, real grasps, ceiling and floor."""

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
from sims.tasks import ogbench_cube

pytest.importorskip("ogbench")

TASK = ogbench_cube.TASK
# The tenth of the episodes that has no one goal, long enough to do several things.
MIXED = replace(TASK, data_policy=ogbench_cube.mixture, collect_frames=30)
PICKING = ogbench_cube.PICKING


@pytest.fixture(scope="module")
def robot() -> Iterator[ogbench_cube.OgbenchCube]:
    with contextlib.closing(ogbench_cube.OgbenchCube()) as simulation:
        yield simulation


@pytest.fixture(scope="module")
def episodes(robot: ogbench_cube.OgbenchCube) -> list[Episode]:
    return [record(MIXED, robot, episode_seed("collect", 0, i), i) for i in range(10)]


@pytest.fixture(scope="module")
def pairs(robot: ogbench_cube.OgbenchCube) -> list[Pair]:
    return make_pairs(TASK, robot, "dev", 0, 4, "image")


@pytest.mark.filterwarnings("ignore:.*precision lowered")
def test_a_step_is_four_of_the_environment_and_success_is_its_success(robot: ogbench_cube.OgbenchCube) -> None:
    import mujoco
    from ogbench.manipspace.envs.cube_env import CubeEnv

    env: Any = CubeEnv("single", terminate_at_goal=False)  # cube-single-v0
    goal = np.array([[0.42, 0.1, 0.02]])
    env.reset(seed=0, options={"task_info": {"task_name": "own", "init_xyzs": goal - [0, 0.2, 0], "goal_xyzs": goal}})
    robot.reset()
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    target = env.data.mocap_pos.copy()
    for _ in range(2):
        mujoco.mj_setState(env.model, env.data, robot.save(), kind)
        mujoco.mj_forward(env.model, env.data)
    mujoco.mj_setState(env.model, env.data, robot.save(), kind)
    env.data.mocap_pos[:] = target  # of the environment's own goal
    asked = np.array([*goal[0], *[0] * 6], np.float32)
    control, successes = TASK.controller(asked), []
    for _ in range(TASK.settle_steps):
        action = control(robot.state())
        robot.step(action)
        for _ in range(TASK.interval):
            closed = np.clip(env.data.joint("ur5e/robotiq/right_driver_joint").qpos[0] / 0.8, 0, 1)
            _, _, _, _, info = env.step(np.array([*(action[:3] / 0.2), action[5] / 1.2, 1 - action[6] - closed]))
            mujoco.mj_forward(env.model, env.data)
        np.testing.assert_allclose(robot.state()[:3], env.data.body("object_0").xpos, atol=1e-6)
        np.testing.assert_allclose(robot.state()[3:6], env.data.site("ur5e/robotiq/pinch").xpos, atol=1e-6)
        successes.append(bool(info["success"]))
        assert successes[-1] == (TASK.distance(robot.state(), asked) <= TASK.tolerances[0])
    assert not successes[0]
    assert successes[-1]
    env.close()


def test_the_five_tasks_of_ogbench_are_within_the_range() -> None:
    from ogbench.manipspace.envs.cube_env import CubeEnv

    with contextlib.closing(CubeEnv("single")) as env:
        for info in env.task_infos:
            for place in (*info["init_xyzs"], *info["goal_xyzs"]):
                assert (PICKING.low <= place[:2]).all()
                assert (place[:2] <= PICKING.high).all()


def test_gripper_and_yaw_do_what_the_action_says(robot: ogbench_cube.OgbenchCube) -> None:
    robot.reset()
    for opening in (1.0, 0.4, 0.0):
        for _ in range(6):
            robot.step(np.array([0, 0, 0.02, 0, 0, 0, opening], np.float32))
        assert robot.state()[8] == pytest.approx(opening, abs=0.03)
    before = robot.state()
    robot.step(np.array([0, 0, 0, 0, 0, 1.2, 0], np.float32))
    assert 0.2 < robot.state()[7] - before[7] < 0.35
    np.testing.assert_allclose(robot.state()[3:6], before[3:6], atol=0.015)


def test_saved_states_are_restored_exactly_with_the_cube_in_the_hand(robot: ogbench_cube.OgbenchCube) -> None:
    scatter(TASK, robot, generator(3))
    control = TASK.controller(np.array([0.42, 0.0, 0.15, *[0] * 6], np.float32))
    while not (PICKING.held(robot.state()) and robot.state()[2] > 0.08):
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
    robot.step(actions[0])  # the controller outside MuJoCo has then been elsewhere
    robot.restore(saved)
    second = play()
    assert dropped[2] < 0.04
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_two_simulations_begin_alike(robot: ogbench_cube.OgbenchCube) -> None:
    robot.reset()
    with contextlib.closing(ogbench_cube.OgbenchCube()) as other:
        np.testing.assert_array_equal(other.save(), robot.save())


def test_the_scripted_controller_succeeds_and_random_actions_do_not(
    robot: ogbench_cube.OgbenchCube, pairs: list[Pair]
) -> None:
    for pair in pairs:
        assert TASK.distance(pair.start_state, pair.goal_state) >= TASK.min_goal_distance
        assert pair.goal_state[2] == pytest.approx(0.02, abs=1e-3)
        ceiling = roll_out(TASK, robot, ScriptedPolicy(TASK), pair, TASK.evaluation_steps, keep_frames=False)
        assert ceiling.held(len(TASK.tolerances) - 1)
        floor = roll_out(TASK, robot, RandomPolicy(TASK), pair, TASK.evaluation_steps, keep_frames=False)
        assert not floor.ever(0)


def test_episodes_of_the_mixture_grasp_lift_push_and_let_go(episodes: list[Episode]) -> None:
    states = np.stack([e.states for e in episodes if e.states is not None])
    holds = np.array([[PICKING.held(s) for s in e] for e in states])
    assert holds.any(1).mean() >= 0.6
    assert 0.2 < holds.mean() < 0.75
    assert (states[..., 2] > 0.06).any(1).mean() >= 0.5
    assert (holds[:, :-1] & ~holds[:, 1:]).sum() >= 5
    moved = np.linalg.norm(np.diff(states[..., :3], axis=1), axis=-1)
    assert ((moved > 0.003) & ~holds[:, 1:] & ~holds[:, :-1]).sum() >= 8  # pushed, or falling
    openings = np.concatenate([e.actions[:, 6] for e in episodes])
    assert (np.histogram(openings, 4, (0, 1))[0] > 0.03 * len(openings)).all()


def test_the_cube_is_in_the_picture_where_the_projection_says(episodes: list[Episode]) -> None:
    shown = []
    for episode in episodes:
        assert episode.states is not None
        for frame, state in zip(episode.frames[::5], episode.states[::5], strict=True):
            red, green, blue = np.moveaxis(frame.astype(int), -1, 0)
            rows, columns = np.nonzero((red > 2 * green) & (red > 2 * blue) & (red > 60))
            column, row, _ = ogbench_cube.VIEW.project(state[:3], 64, 64)
            shown.append(len(rows) >= 8)
            if shown[-1]:
                assert abs(columns.mean() + 0.5 - column) < 3
                assert abs(rows.mean() + 0.5 - row) < 3
    assert np.mean(shown) > 0.9  # else behind the gripper


def test_without_the_package_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ogbench.manipspace.envs.cube_env", None)
    with pytest.raises(UserError, match=r"OGBench is not installed: pip install 'hnet-vjepa\[ogbench\]'"):
        TASK.open()
    assert "hnet-vjepa[ogbench]" in TASK.needs
