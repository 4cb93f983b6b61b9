"""Pushing a cube with the Fetch arm: Gymnasium's physics, exact restore, real contact, and a ceiling worth the name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
import pytest

from hnet_vjepa.data.store import Episode
from sims.core.collect import record
from sims.core.rendering import HIDDEN_GROUP
from sims.core.seeds import episode_seed, generator
from sims.core.task import Controller, scatter
from sims.evaluation.pairs import Pair, make_pairs
from sims.tasks import fetch_push

TASK = fetch_push.TASK


@pytest.fixture(scope="module")
def robot() -> Iterator[fetch_push.FetchPush]:
    with contextlib.closing(fetch_push.FetchPush()) as simulation:
        yield simulation


@pytest.fixture(scope="module")
def episodes(robot: fetch_push.FetchPush) -> list[Episode]:
    return [record(TASK, robot, episode_seed("collect", 0, i), i) for i in range(24)]


@pytest.fixture(scope="module")
def pairs(robot: fetch_push.FetchPush) -> list[Pair]:
    return make_pairs(TASK, robot, "dev", 0, 10, "image")


def test_a_step_is_two_steps_of_gymnasium_and_success_is_its_success(robot: fetch_push.FetchPush) -> None:
    import gymnasium
    import mujoco

    env = gymnasium.make("FetchPush-v4").unwrapped
    env.reset(seed=0)
    scatter(TASK, robot, generator(1))
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    mujoco.mj_setState(env.model, env.data, robot.save(), kind)
    mujoco.mj_forward(env.model, env.data)
    mujoco.mj_setState(env.model, env.data, robot.save(), kind)
    control = TASK.controller(np.array([1.45, 0.65, 0.425, 0, 0, 0], np.float32))
    start = robot.state()
    for _ in range(TASK.settle_steps):
        action = control(robot.state())
        robot.step(action)
        for _ in range(TASK.interval):
            observation, *_ = env.step(np.array([*(action[:3] / 0.1), 0], np.float32))
        np.testing.assert_allclose(robot.state()[:3], observation["achieved_goal"], atol=1e-6)
        env.goal = start[:3] + np.array([0.03, 0.03, 0.02])
        met = TASK.distance(robot.state(), np.array([*env.goal, 0, 0, 0], np.float32)) <= TASK.tolerances[0]
        assert met == env._is_success(observation["achieved_goal"], env.goal)
    assert TASK.distance(robot.state(), start) > 0.03
    env.close()


def test_saved_states_are_restored_exactly_in_the_middle_of_a_push(
    robot: fetch_push.FetchPush, pairs: list[Pair]
) -> None:
    robot.restore(pairs[0].start)
    control = TASK.controller(pairs[0].goal_state)
    before = robot.state()
    while np.linalg.norm(robot.state()[:2] - before[:2]) < 0.02:
        robot.step(control(robot.state()))
    saved = robot.save()
    actions = np.random.default_rng(0).uniform(TASK.action.low, TASK.action.high, (10, 7)).astype(np.float32)
    actions[:5] = control(robot.state())

    def play() -> tuple[np.ndarray, np.ndarray]:
        states, frames = [robot.state()], [robot.frame()]
        for action in actions:
            robot.step(action)
            states.append(robot.state())
            frames.append(robot.frame())
        return np.stack(states), np.stack(frames)

    first = play()
    robot.reset()
    robot.restore(saved)
    second = play()
    assert np.abs(first[0][-1, :2] - first[0][0, :2]).max() > 0.01
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def final_distance(robot: fetch_push.FetchPush, pair: Pair, control: Controller) -> float:
    robot.restore(pair.start)
    for _ in range(TASK.evaluation_steps):
        robot.step(control(robot.state()))
    return TASK.distance(robot.state(), pair.goal_state)


def test_the_scripted_controller_succeeds_and_random_actions_do_not(
    robot: fetch_push.FetchPush, pairs: list[Pair]
) -> None:
    rng = np.random.default_rng(0)
    for pair in pairs:
        assert TASK.distance(pair.start_state, pair.goal_state) >= 0.1
        assert final_distance(robot, pair, TASK.controller(pair.goal_state)) <= TASK.tolerances[-1]
        floor = final_distance(robot, pair, lambda _: rng.uniform(TASK.action.low, TASK.action.high).astype(np.float32))
        assert floor > TASK.tolerances[0]


def test_collected_episodes_push_the_cube_in_every_direction_and_keep_it_on_the_table(episodes: list[Episode]) -> None:
    cubes = np.stack([e.states[:, :3] for e in episodes if e.states is not None])
    farthest = np.linalg.norm(cubes - cubes[:, :1], axis=-1).max(1)
    assert (farthest > 0.02).mean() >= 0.9
    moves = np.diff(cubes[..., :2], axis=1).reshape(-1, 2)
    moves = moves[np.linalg.norm(moves, axis=1) > 0.01]
    quarters, _ = np.histogram(np.arctan2(moves[:, 1], moves[:, 0]), 4, (-np.pi, np.pi))
    assert (quarters / len(moves) > 0.05).all()
    still = np.linalg.norm(np.diff(cubes, axis=1), axis=-1) < 0.001
    assert 0.3 < still.mean() < 0.9
    assert (cubes[:, -1, 2] > 0.4).mean() > 0.9


def test_the_cube_is_in_the_picture_where_the_projection_and_the_labels_say(
    robot: fetch_push.FetchPush, episodes: list[Episode]
) -> None:
    seen = 0
    for episode in episodes:
        assert episode.states is not None
        for frame, state in zip(episode.frames[::6], episode.states[::6], strict=True):
            if state[2] < 0.4:  # it was pushed off the table
                continue
            red, green, blue = np.moveaxis(frame.astype(int), -1, 0)
            rows, columns = np.nonzero((red > 1.35 * green) & (red > 1.25 * blue))
            column, row, _ = fetch_push.VIEW.project(state[:3], 64, 64)
            assert len(rows) >= 8  # never hidden
            assert abs(columns.mean() + 0.5 - column) < 2
            assert abs(rows.mean() + 0.5 - row) < 2
            labels = TASK.place(state)
            assert np.sign(labels.right) == np.sign(column - 32) or abs(labels.right) < 0.15
            seen += 1
    assert seen > 50
    hidden = robot._model.geom_group == HIDDEN_GROUP
    assert not hidden[robot._model.geom("object0").id]
