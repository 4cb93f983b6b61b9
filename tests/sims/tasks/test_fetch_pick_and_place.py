"""Picking and placing with the Fetch arm: Gymnasium's physics, exact restore, real grasps, a ceiling worth the name."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from hnet_vjepa.data.store import Episode
from sims.core.collect import record
from sims.core.seeds import episode_seed, generator
from sims.core.task import Controller, scatter
from sims.evaluation.pairs import Pair, make_pairs
from sims.tasks import fetch_pick_and_place

TASK = fetch_pick_and_place.TASK
# The tenth of the episodes that has no one goal, long enough to do several things.
MIXED = replace(TASK, data_policy=fetch_pick_and_place.mixture, collect_frames=40)


@pytest.fixture(scope="module")
def robot() -> Iterator[fetch_pick_and_place.FetchPickAndPlace]:
    with contextlib.closing(fetch_pick_and_place.FetchPickAndPlace()) as simulation:
        yield simulation


@pytest.fixture(scope="module")
def episodes(robot: fetch_pick_and_place.FetchPickAndPlace) -> list[Episode]:
    return [record(MIXED, robot, episode_seed("collect", 0, i), i) for i in range(12)]


@pytest.fixture(scope="module")
def pairs(robot: fetch_pick_and_place.FetchPickAndPlace) -> list[Pair]:
    return make_pairs(TASK, robot, "dev", 0, 10, "image")


def test_a_step_is_two_steps_of_gymnasium_and_success_is_its_success(
    robot: fetch_pick_and_place.FetchPickAndPlace,
) -> None:
    import gymnasium
    import mujoco

    env = gymnasium.make("FetchPickAndPlace-v4").unwrapped
    env.reset(seed=0)
    scatter(TASK, robot, generator(1))
    kind = mujoco.mjtState.mjSTATE_INTEGRATION
    mujoco.mj_setState(env.model, env.data, robot.save(), kind)
    mujoco.mj_forward(env.model, env.data)
    mujoco.mj_setState(env.model, env.data, robot.save(), kind)
    goal = np.array([1.45, 0.65, 0.55, 0, 0, 0, 0], np.float32)
    control = TASK.controller(goal)
    fingers = [env.data.joint(f"robot0:{side}_gripper_finger_joint") for side in "lr"]
    successes = []
    for _ in range(TASK.settle_steps):
        action = control(robot.state())
        robot.step(action)
        for _ in range(TASK.interval):
            wanted = 0.05 * action[6] - np.mean([finger.qpos[0] for finger in fingers])
            env.step(np.array([*(action[:3] / 0.1), wanted]))
            mujoco.mj_forward(env.model, env.data)  # this environment's step leaves positions one substep old
        cube = env.data.site("object0").xpos
        np.testing.assert_allclose(robot.state()[:3], cube, atol=1e-5)
        successes.append(bool(env._is_success(cube, goal[:3].astype(np.float64))))
        assert successes[-1] == (TASK.distance(robot.state(), goal) <= TASK.tolerances[0])
    assert not successes[0]
    assert successes[-1]
    env.close()


def test_the_last_number_of_an_action_is_how_far_the_gripper_opens(
    robot: fetch_pick_and_place.FetchPickAndPlace,
) -> None:
    robot.reset()
    for opening in (1.0, 0.4, 0.0):
        for _ in range(15):
            robot.step(np.array([0, 0, 0, 0, 0, 0, opening], np.float32))
        assert robot.state()[6] == pytest.approx(opening, abs=0.03)


def test_saved_states_are_restored_exactly_with_the_cube_in_the_hand(
    robot: fetch_pick_and_place.FetchPickAndPlace, pairs: list[Pair]
) -> None:
    robot.restore(pairs[0].start)
    control = TASK.controller(np.array([1.3, 0.8, 0.6, 0, 0, 0, 0], np.float32))
    while not (fetch_pick_and_place.held(robot.state()) and robot.state()[2] > 0.45):
        robot.step(control(robot.state()))
    saved = robot.save()
    actions = np.random.default_rng(0).uniform(TASK.action.low, TASK.action.high, (10, 7)).astype(np.float32)
    actions[:5, 6], actions[5:, 6] = 0.1, 1.0  # held, then dropped

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
    assert fetch_pick_and_place.held(first[0][5])
    assert not fetch_pick_and_place.held(first[0][-1])
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def final_distance(robot: fetch_pick_and_place.FetchPickAndPlace, pair: Pair, control: Controller) -> float:
    robot.restore(pair.start)
    for _ in range(TASK.evaluation_steps):
        robot.step(control(robot.state()))
    return TASK.distance(robot.state(), pair.goal_state)


def test_the_scripted_controller_succeeds_and_random_actions_do_not(
    robot: fetch_pick_and_place.FetchPickAndPlace, pairs: list[Pair]
) -> None:
    rng = np.random.default_rng(0)
    for pair in pairs:
        assert TASK.distance(pair.start_state, pair.goal_state) >= 0.1
        assert final_distance(robot, pair, TASK.controller(pair.goal_state)) <= TASK.tolerances[-1]
        floor = final_distance(robot, pair, lambda _: rng.uniform(TASK.action.low, TASK.action.high).astype(np.float32))
        assert floor > TASK.tolerances[0]
    in_the_air = [pair.goal_state[2] > 0.44 for pair in pairs]
    assert 0.2 <= np.mean(in_the_air) <= 0.8


def test_episodes_of_the_mixture_grasp_lift_carry_and_let_go(episodes: list[Episode]) -> None:
    states = np.stack([e.states for e in episodes if e.states is not None])
    holds = np.array([[fetch_pick_and_place.held(s) for s in e] for e in states])
    assert (holds.any(1) & (states[..., 2] > 0.45).any(1)).mean() >= 0.75
    assert 0.15 < holds.mean() < 0.7
    let_go = holds[:, :-1] & ~holds[:, 1:]
    assert let_go.sum() >= 8
    carried = np.linalg.norm(np.diff(states[..., :3], axis=1), axis=-1)[holds[:, :-1] & holds[:, 1:]]
    assert (carried > 0.02).sum() > 40
    assert (states[:, -1, 2] > 0.4).mean() > 0.9  # the others fell off the table
    openings = np.concatenate([e.actions[:, 6] for e in episodes])
    assert (np.histogram(openings, 4, (0, 1))[0] > 0.015 * len(openings)).all()


def test_the_cube_is_in_the_picture_where_the_projection_says(episodes: list[Episode]) -> None:
    seen = 0
    for episode in episodes:
        assert episode.states is not None
        for frame, state in zip(episode.frames[::6], episode.states[::6], strict=True):
            red, green, blue = np.moveaxis(frame.astype(int), -1, 0)
            rows, columns = np.nonzero((red > 1.35 * green) & (red > 1.25 * blue))
            column, row, _ = fetch_pick_and_place.VIEW.project(state[:3], 64, 64)
            assert len(rows) >= 8  # never hidden
            assert abs(columns.mean() + 0.5 - column) < 2
            assert abs(rows.mean() + 0.5 - row) < 2
            seen += 1
    assert seen > 60
