"""Reacher: Gymnasium's physics, postures that are reached and kept, data that hold every posture and speed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sims.core.collect import record
from sims.core.seeds import episode_seed, generator
from sims.core.task import scatter, walk
from sims.evaluation.evaluate import evaluate
from sims.evaluation.pairs import make_pairs
from sims.evaluation.policies import RandomPolicy, ScriptedPolicy
from sims.tasks import reacher

TASK = reacher.TASK
TORQUE = reacher.TORQUE


@pytest.fixture(scope="module")
def robot() -> Iterator[reacher.Reacher]:
    simulation = reacher.Reacher()
    yield simulation
    simulation.close()


def angles(states: np.ndarray) -> np.ndarray:
    """Joint angles (... x 2, rad) of states."""
    return np.stack([np.arctan2(states[..., 3], states[..., 2]), states[..., 4]], -1)


def test_the_step_is_gymnasiums_step(robot: reacher.Reacher) -> None:
    import gymnasium

    env: Any = gymnasium.make("Reacher-v5").unwrapped
    env.reset(seed=0)
    env.set_state(np.zeros(4), np.zeros(4))
    robot.reset()
    for action in np.random.default_rng(0).uniform(-TORQUE, TORQUE, (10, 2)).astype(np.float32):
        robot.step(action)
        for _ in range(TASK.interval):
            observation, *_ = env.step(action.astype(np.float64) / 200)
        shoulder, elbow = env.data.qpos[:2]
        tip, speeds = env.get_body_com("fingertip")[:2], observation[6:8]  # the body of the last physics step but one
        np.testing.assert_allclose(robot.state()[2:], [np.cos(shoulder), np.sin(shoulder), elbow, *speeds], atol=1e-6)
        np.testing.assert_allclose(robot.state()[:2], tip, atol=0.02)
    env.close()


def test_joints_follow_their_equation_and_actions_are_clipped(robot: reacher.Reacher) -> None:
    robot.reset()
    for _ in range(8):
        robot.step(np.array([50.0, -1.0], np.float32))
    time = 8 * TASK.camera.dt
    speed = np.array([TORQUE, -1.0]) * (1 - np.exp(-time))
    turned = np.array([TORQUE, -1.0]) * (time - 1 + np.exp(-time))
    np.testing.assert_allclose(robot.state()[5:], speed, atol=2e-3)
    np.testing.assert_allclose(angles(robot.state()), turned, atol=2e-3)


def test_saved_states_are_restored_exactly(robot: reacher.Reacher) -> None:
    actions = np.random.default_rng(0).uniform(-TORQUE, TORQUE, (15, 2)).astype(np.float32)
    robot.place_arm(np.array([1.0, 2.9]), np.array([0.0, 3.0]))  # against the elbow's stop
    for action in actions[:5]:
        robot.step(action)
    saved = robot.save()

    def play() -> tuple[np.ndarray, np.ndarray]:
        states, frames = [robot.state()], [robot.frame()]
        for action in actions[5:]:
            robot.step(action)
            states.append(robot.state())
            frames.append(robot.frame())
        return np.stack(states), np.stack(frames)

    first = play()
    robot.reset()
    robot.step(actions[0])
    robot.restore(saved)
    second = play()
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_goals_are_reached_and_kept_and_chance_does_not(robot: reacher.Reacher) -> None:
    pairs = make_pairs(TASK, robot, "dev", 3, 12, "image")
    result = evaluate(TASK, robot, [ScriptedPolicy(TASK), RandomPolicy(TASK)], pairs, "dev", 3, "image", progress=False)
    scripted, chance = (result.method(name).rollouts for name in ("scripted", "random"))
    assert all(max(rollout.distances[-3:]) < TASK.tolerances[-1] for rollout in scripted)
    assert sum(rollout.end(0) for rollout in chance) <= 4
    for pair in pairs:
        assert np.abs(pair.goal_state[5:]).max() < 0.05
        assert TASK.distance(pair.start_state, pair.goal_state) >= TASK.min_goal_distance


def test_the_robot_comes_to_rest_in_the_posture_that_was_drawn(robot: reacher.Reacher) -> None:
    for seed in range(10):
        scatter(TASK, robot, generator(seed))
        rng = np.random.default_rng(seed)
        wanted = TASK.sample_goal(np.random.default_rng(seed))
        np.testing.assert_allclose(walk(TASK, robot, rng), wanted, atol=0.02)


def test_the_shoulder_goes_the_shorter_way_round_and_the_elbow_cannot(robot: reacher.Reacher) -> None:
    robot.place_arm(np.array([3.0, 2.5]), np.zeros(2))
    start = robot.state()
    robot.place_arm(np.array([-3.0, -2.5]), np.zeros(2))
    shoulder, elbow = TASK.controller(robot.state())(start)
    assert shoulder > 0
    assert elbow < 0


def test_two_postures_with_the_same_fingertip_are_the_same_goal(robot: reacher.Reacher) -> None:
    # The corners of a kite: mirror the arm at the line from the shoulder to the fingertip.
    robot.place_arm(np.array([0.4, 1.1]), np.zeros(2))
    one, bearing = robot.state(), float(np.arctan2(*robot.state()[1::-1]))
    robot.place_arm(np.array([2 * bearing - 0.4, -1.1]), np.zeros(2))
    assert TASK.distance(one, robot.state()) < 1e-6
    robot.place_arm(np.array([0.4, -1.1]), np.zeros(2))
    assert TASK.distance(one, robot.state()) > 0.1


def test_collected_episodes_hold_every_posture_and_speed(robot: reacher.Reacher) -> None:
    episodes = [record(TASK, robot, episode_seed("collect", 0, index), index) for index in range(40)]
    states = np.stack([e.states for e in episodes if e.states is not None])
    assert states.shape == (40, TASK.collect_frames, len(TASK.states))
    for joint, reach in ((0, np.pi), (1, reacher.FOLDED)):
        assert (np.histogram(angles(states)[..., joint], 8, (-reach, reach))[0] > states[..., 0].size / 30).all()
    speeds = states[..., 5:]
    turned = np.abs(speeds) * TASK.camera.dt
    assert turned.max() < 0.6
    assert (turned > 0.2).mean() > 0.03
    assert (turned.max(-1) < 0.02).mean() > 0.05
    assert (np.abs(np.stack([e.actions for e in episodes])) <= TORQUE).all()


def test_the_fingertip_is_where_its_placement_says(robot: reacher.Reacher) -> None:
    for posture in ((0.5, 0.6), (2.0, -1.0), (-2.0, 0.5), (-0.8, -1.5)):
        robot.place_arm(np.array(posture), np.zeros(2))
        red, green, blue = np.moveaxis(robot.frame().astype(int), -1, 0)
        rows, columns = np.nonzero((red > 2.5 * green) & (red > 2.5 * blue))
        place = TASK.place(robot.state())
        half = 32 * 0.21 / (0.57 * np.tan(np.radians(22.5)))  # pixels from the middle to the outstretched fingertip
        assert columns.mean() + 0.5 == pytest.approx(32 + half * place.right, abs=1.2)
        assert rows.mean() + 0.5 == pytest.approx(32 - half * place.up, abs=1.2)


def test_the_target_is_not_in_the_picture(robot: reacher.Reacher) -> None:
    robot.reset()
    before = robot.frame()
    saved = robot.save()
    robot._env.set_state(np.array([0.0, 0.0, 0.1, -0.1]), np.zeros(4))
    np.testing.assert_array_equal(robot.frame(), before)
    robot.restore(saved)
