"""Pusher: Gymnasium's physics, a cylinder that moves when it is pushed, data in which it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from sims.core.language import position_labels
from sims.core.seeds import episode_seed, generator
from sims.core.task import scatter
from sims.evaluation.evaluate import evaluate
from sims.evaluation.pairs import make_pairs
from sims.evaluation.policies import RandomPolicy, ScriptedPolicy
from sims.tasks import pusher

TASK = pusher.TASK
BEARING = np.pi / 4  # the middle of the workspace, and straight ahead of the camera


@pytest.fixture(scope="module")
def robot() -> Iterator[pusher.Pusher]:
    simulation = pusher.Pusher()
    yield simulation
    simulation.close()


def red(robot: pusher.Pusher) -> np.ndarray:
    """Column and row (pixels) of the middle of the cylinder in the picture."""
    r, g, b = np.moveaxis(robot.frame().astype(int), -1, 0)
    rows, columns = np.nonzero((r > 2 * g) & (r > 2 * b))
    return np.array([columns.mean(), rows.mean()]) + 0.5


def test_the_step_is_gymnasiums_step(robot: pusher.Pusher) -> None:
    import gymnasium

    env: Any = gymnasium.make("Pusher-v5").unwrapped
    env.reset(seed=0)
    robot.reset()
    robot.arrange(pusher.posture(0.55, BEARING, pusher.LOW), pusher.polar(0.62, BEARING))  # in contact
    env.set_state(robot._data.qpos.copy(), robot._data.qvel.copy())
    for torque in np.random.default_rng(0).uniform(-1, 1, (8, 7)) * pusher.TORQUES:
        robot.step(torque.astype(np.float32))
        for _ in range(TASK.interval):
            observation, *_ = env.step(torque.astype(np.float32).astype(np.float64))
        np.testing.assert_allclose(robot.state()[5:], observation[:14], atol=1e-6)
        np.testing.assert_allclose(robot._data.qpos, env.data.qpos, atol=1e-12)
    env.close()


def test_saved_states_are_restored_exactly_in_contact(robot: pusher.Pusher) -> None:
    robot.arrange(pusher.posture(0.54, BEARING, pusher.LOW), pusher.polar(0.62, BEARING))
    control = TASK.controller(TASK.sample_goal(np.random.default_rng(0)))
    for _ in range(6):
        robot.step(control(robot.state()))
    assert robot.touching()
    saved = robot.save()
    actions = np.random.default_rng(1).uniform(-1, 1, (10, 7)) * pusher.TORQUES

    def play() -> tuple[np.ndarray, np.ndarray]:
        states, frames = [robot.state()], [robot.frame()]
        for action in actions:
            robot.step(action.astype(np.float32))
            states.append(robot.state())
            frames.append(robot.frame())
        return np.stack(states), np.stack(frames)

    first = play()
    robot.reset()
    robot.step(actions[0].astype(np.float32))
    robot.restore(saved)
    second = play()
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    assert np.ptp(first[0][:, 0]) > 0.001


@pytest.mark.parametrize(("radius", "height"), [(0.5, -0.15), (0.55, -0.275), (0.7, -0.2), (0.75, -0.275)])
def test_the_wrist_is_where_its_posture_says(robot: pusher.Pusher, radius: float, height: float) -> None:
    for bearing in (0.4, 1.1):
        robot.arrange(pusher.posture(radius, bearing, height), pusher.polar(1.2, bearing))
        expected = [radius * np.cos(bearing), radius * np.sin(bearing) - 0.6, height]
        np.testing.assert_allclose(robot.state()[2:5], expected, atol=1e-5)
        np.testing.assert_allclose(pusher.around(robot.state()[2:4].astype(float)), [radius, bearing], atol=1e-5)


@pytest.mark.parametrize(("away", "touches"), [(pusher.SEAT - 0.002, True), (pusher.SEAT + 0.006, False)])
def test_a_cylinder_in_its_seat_is_touched(robot: pusher.Pusher, away: float, touches: bool) -> None:
    robot.arrange(pusher.posture(0.7, BEARING, pusher.LOW), pusher.polar(0.7 + away, BEARING))
    assert robot.touching() == touches


def test_the_cylinder_moves_only_when_it_is_touched(robot: pusher.Pusher) -> None:
    alone = touched = 0
    for seed in range(8):
        rng = generator(seed)
        scatter(TASK, robot, rng)
        act = pusher.mixture(rng)
        for _ in range(TASK.collect_frames - 1):
            robot.step(np.zeros(7, np.float32) if robot.touching() else act(robot.state()))
            before = robot.state()
            if robot.touching():
                touched += 1
                continue
            hand = np.linalg.norm(before[:2] - before[2:4])
            if hand > 0.3:  # beyond the reach of the prongs within one action
                alone += 1
                robot.step(act(robot.state()))
                np.testing.assert_allclose(robot.state()[:2], before[:2], atol=1e-6)
    assert alone > 5
    assert touched > 20


def test_goals_are_reached_and_chance_does_not(robot: pusher.Pusher) -> None:
    pairs = make_pairs(TASK, robot, "dev", 3, 8, "image")
    result = evaluate(TASK, robot, [ScriptedPolicy(TASK), RandomPolicy(TASK)], pairs, "dev", 3, "image", progress=False)
    scripted, chance = (result.method(name).rollouts for name in ("scripted", "random"))
    assert all(rollout.end(2) for rollout in scripted)
    assert not any(rollout.end(0) for rollout in chance)
    assert all(TASK.distance(pair.start_state, pair.goal_state) >= 0.17 for pair in pairs)


def test_episodes_of_the_mixture_push_and_miss(robot: pusher.Pusher) -> None:
    moved, touching, seen, speeds = [], [], [], []
    for index in range(30):
        rng = generator(episode_seed("collect", 0, index))
        state = first = scatter(TASK, robot, rng)
        act = pusher.mixture(rng)
        for _ in range(TASK.collect_frames - 1):
            robot.step(act(state))
            state = robot.state()
            touching.append(robot.touching())
            seen.append(pusher.VIEW.project(np.append(state[:2], pusher.LOW), 64, 64)[:2])
            speeds.append(state[12:])
        moved.append(TASK.distance(first, state))
    assert np.mean(np.array(moved) > 0.1) > 0.4
    assert np.mean(np.array(moved) < 0.05) > 0.05
    assert 0.2 < np.mean(touching) < 0.8
    assert np.min(seen) > 4
    assert np.max(seen) < 60
    assert np.abs(speeds).max() * TASK.camera.dt < 0.5


def test_episodes_start_without_contact_at_different_places(robot: pusher.Pusher) -> None:
    starts = []
    for seed in range(40):
        starts.append(scatter(TASK, robot, generator(seed)))
        assert not robot.touching()
    assert (np.std(starts, axis=0)[:5] > 0.03).all()
    assert (np.array(starts)[:, 12:] == 0).all()


def test_the_cylinder_is_where_its_placement_says(robot: pusher.Pusher) -> None:
    hand = pusher.posture(0.45, BEARING, pusher.HIGH)
    for radius, bearing, labels in ((0.6, 1.1, {"left"}), (0.6, 0.5, {"right"}), (0.82, BEARING, {"high", "far"})):
        robot.arrange(hand, pusher.polar(radius, bearing))
        expected = pusher.VIEW.project(np.append(robot.state()[:2], -0.255), 64, 64)[:2]
        np.testing.assert_allclose(red(robot), expected, atol=1.2)
        assert labels <= set(position_labels(TASK.place(robot.state())))


def test_the_goal_disc_is_not_in_the_picture(robot: pusher.Pusher) -> None:
    robot.reset()
    before = robot.frame()
    position = robot._data.qpos.copy()
    position[-2:] += 0.1
    robot._env.set_state(position, np.zeros(11))
    np.testing.assert_array_equal(robot.frame(), before)
    robot.reset()
