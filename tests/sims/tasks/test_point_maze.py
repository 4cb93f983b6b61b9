"""Point maze: Gymnasium's physics and success, a way around the wall, a picture that agrees with the position."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sims.core.collect import record
from sims.core.rendering import backend
from sims.core.seeds import episode_seed
from sims.core.variation import Variation
from sims.evaluation.evaluate import roll_out
from sims.evaluation.pairs import Pair, make_pairs
from sims.evaluation.policies import RandomPolicy, ScriptedPolicy
from sims.tasks import point_maze
from sims.tasks.point_maze import DT, EDGE, FORCE, HALF, MASS, PUSH, RADIUS, TASK, PointMaze, way

PAIRS = 12


@pytest.fixture(scope="module")
def maze() -> Iterator[PointMaze]:
    simulation = PointMaze()
    yield simulation
    simulation.close()


@pytest.fixture(scope="module")
def pairs(maze: PointMaze) -> list[Pair]:
    return make_pairs(TASK, maze, "dev", 0, PAIRS, "image")


def push(x: float, y: float) -> NDArray[np.float32]:
    return np.array([x, y], np.float32)


def at(x: float, y: float) -> NDArray[np.float32]:
    return np.array([x, y, 0, 0], np.float32)


def go(maze: PointMaze, x: float, y: float) -> None:
    """Let the scripted controller bring the ball from the bend to (x, y)."""
    maze.reset()
    control = TASK.controller(at(x, y))
    for _ in range(TASK.settle_steps):
        maze.step(control(maze.state()))


def test_the_step_is_gymnasiums_step(maze: PointMaze) -> None:
    import gymnasium
    import gymnasium_robotics

    gymnasium.register_envs(gymnasium_robotics)
    env: Any = gymnasium.make("PointMaze_UMaze-v3", max_episode_steps=1000).unwrapped
    env.reset(seed=0)
    maze.reset()
    env.point_env.set_state(maze.state()[:2].astype(float), np.zeros(2))
    rng = np.random.default_rng(1)
    for _ in range(40):  # against walls, too
        action = (PUSH * np.sign(rng.normal(0, 1, 2))).astype(np.float32)
        maze.step(action)
        for _ in range(TASK.interval):
            observation, *_ = env.step(action.astype(float) / FORCE)
        np.testing.assert_allclose(maze.state(), observation["observation"], atol=1e-5)
    assert env.point_env.dt * TASK.interval == pytest.approx(TASK.camera.dt)
    env.close()
    Path(env.tmp_xml_file_path).unlink()


def test_success_is_the_environments(maze: PointMaze, pairs: list[Pair]) -> None:
    from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv

    env = PointMazeEnv()
    rng = np.random.default_rng(2)
    both = []
    for _ in range(3000):
        state, goal = TASK.sample_goal(rng), TASK.sample_goal(rng)
        reward = env.compute_reward(state[:2].astype(float), goal[:2].astype(float), {})
        assert (TASK.distance(state, goal) <= TASK.tolerances[0]) == (reward == 1)
        both.append(reward)
    assert 0.01 < np.mean(both) < 0.5
    env.close()
    Path(env.tmp_xml_file_path).unlink()


def test_no_model_file_stays_behind() -> None:
    before = set(Path(tempfile.gettempdir()).glob("ant_maze*.xml"))
    PointMaze().close()
    assert set(Path(tempfile.gettempdir()).glob("ant_maze*.xml")) <= before


def test_a_push_does_what_newton_says(maze: PointMaze) -> None:
    maze.reset()
    maze.step(push(10, -20))
    kept = math.exp(-DT / MASS)  # the damping is 1 N s/m
    np.testing.assert_allclose(maze.state()[2:], np.array([10, -20]) * (1 - kept), rtol=2e-3)
    maze.step(push(0, 0))
    np.testing.assert_allclose(maze.state()[2:], np.array([10, -20]) * (1 - kept) * kept, rtol=2e-3)
    maze.step(push(999, 0))  # clipped to its bounds
    assert maze.state()[2] < 10 * (1 - kept) + PUSH * (1 - kept)


def test_walls_stop_the_ball(maze: PointMaze) -> None:
    for direction, axis, wall in ((1, 0, HALF - RADIUS), (-1, 0, EDGE + RADIUS), (1, 1, HALF - RADIUS)):
        maze.reset()
        for _ in range(12):
            maze.step(push(direction * PUSH, 0) if axis == 0 else push(0, PUSH))
        assert maze.state()[axis] == pytest.approx(wall, abs=0.02)
        assert abs(maze.state()[2 + axis]) < 0.05


def test_saved_states_are_restored_exactly(maze: PointMaze) -> None:
    rng = np.random.default_rng(3)
    actions = rng.uniform(-PUSH, PUSH, (20, 2)).astype(np.float32)
    maze.reset()
    for _ in range(6):
        maze.step(push(PUSH, 5))  # into the wall
    saved = maze.save()

    def play() -> tuple[np.ndarray, np.ndarray]:
        states, frames = [maze.save()], [maze.frame()]
        for action in actions:
            maze.step(action)
            states.append(maze.save())
            frames.append(maze.frame())
        return np.stack(states), np.stack(frames)

    first = play()
    maze.reset()
    maze.step(actions[0])
    maze.restore(saved)
    second = play()
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_the_picture_shows_the_ball_where_the_state_and_the_words_say(maze: PointMaze) -> None:
    for x, y in ((-1.3, 1.2), (1.3, 1.3), (0.8, 0.1), (-0.9, -1.3)):
        go(maze, x, y)
        picture = maze.frame().astype(float)
        red = np.clip(picture[..., 0] - picture[..., 2] - 60, 0, None)  # neither floor nor wall is red
        rows, columns = np.mgrid[:64, :64] + 0.5
        column, row = (red * columns).sum() / red.sum(), (red * rows).sum() / red.sum()
        expected = point_maze.VIEW.project(np.array([x, y, point_maze.SHOWN_HEIGHT]), 64, 64)
        np.testing.assert_allclose([column, row], expected[:2], atol=0.6)
        assert 20 < (red > 30).sum() < 60  # several pixels large
        place = TASK.place(maze.state())
        assert abs((column - 32) / 32 - place.right) < 0.25
        assert abs((32 - row) / 32 - place.up) < 0.25


def test_the_way_goes_around_the_inner_wall() -> None:
    assert TASK.distance(at(-1, 1), at(1, 1)) == pytest.approx(2)
    assert TASK.distance(at(1, -1), at(1, 1)) == pytest.approx(2)
    assert TASK.distance(at(-1, 1), at(-1, -1)) == pytest.approx(2 * math.hypot(1.5, 0.5) + 1)
    assert TASK.distance(at(0, 1), at(1, 0)) == pytest.approx(math.sqrt(2))  # just past the corner
    assert TASK.distance(at(-1, 0.8), at(1, 0)) == pytest.approx(math.hypot(1.5, 0.3) + math.hypot(0.5, 0.5))
    rng = np.random.default_rng(4)
    for _ in range(500):
        start, goal = TASK.sample_goal(rng), TASK.sample_goal(rng)
        apart = TASK.distance(start, goal)
        assert apart == pytest.approx(TASK.distance(goal, start))
        assert apart >= math.dist(start[:2], goal[:2]) - 1e-6
        here, there = ((float(state[0]), float(state[1])) for state in (start, goal))
        for a, b in itertools.pairwise([here, *way(here, there)]):
            x, y = (np.linspace(a[i], b[i], 50) for i in (0, 1))
            assert not ((x < EDGE - 1e-3) & (np.abs(y) < EDGE - 1e-3)).any()


def test_most_goals_are_around_the_bend(pairs: list[Pair]) -> None:
    assert np.mean([pair.start_state[1] * pair.goal_state[1] < 0 for pair in pairs]) > 0.8


def test_ceiling_and_floor(maze: PointMaze, pairs: list[Pair]) -> None:
    play = [(pair, policy) for pair in pairs for policy in (ScriptedPolicy(TASK), RandomPolicy(TASK))]
    done = {
        (policy.name, pair.index): roll_out(TASK, maze, policy, pair, TASK.evaluation_steps, keep_frames=False)
        for pair, policy in play
    }
    assert all(done["scripted", pair.index].held(2) for pair in pairs)  # it stops there
    assert np.mean([done["random", pair.index].end(0) for pair in pairs]) < 0.15


def test_the_goal_is_at_rest(pairs: list[Pair]) -> None:
    assert max(np.abs(pair.goal_state[2:]).max() for pair in pairs) < 0.05


def test_episodes_go_around_the_bend_both_ways_and_meet_walls(maze: PointMaze) -> None:
    episodes = [record(TASK, maze, episode_seed("collect", 0, i), i) for i in range(20)]
    states = np.stack([episode.states for episode in episodes if episode.states is not None])
    x, y, *velocity = np.moveaxis(states, -1, 0)
    passages = np.diff((y > 0).astype(int), axis=1)
    assert (passages > 0).sum() > 5
    assert (passages < 0).sum() > 5
    outer = np.maximum(np.abs(x), np.abs(y)) > HALF - RADIUS - 0.01
    inner = ((x < EDGE) & (np.abs(y) < EDGE + RADIUS + 0.01)) | ((x < EDGE + RADIUS + 0.01) & (np.abs(y) < EDGE))
    assert (outer | inner).any(1).mean() > 0.4  # episodes that touch a wall
    assert inner.sum() > 8
    speed = np.hypot(*velocity)
    assert 0.03 < (speed < 0.1).mean() < 0.3
    assert np.quantile(speed, 0.99) < 3
    ends = (x < -0.7) & (np.abs(y) > EDGE)
    assert (ends & (y > 0)).mean() > 0.01
    assert (ends & (y < 0)).mean() > 0.01
    assert episodes[0].labels is not None
    assert episodes[0].labels.shape == (TASK.collect_frames, len(TASK.labels))


def test_variations_change_what_they_name(maze: PointMaze) -> None:
    maze.reset()
    trained = maze.frame()
    for factor in TASK.factors:
        maze.vary(Variation(factor, 1.0))
        if factor != "light" or backend() != "raycast":  # which has a lamp of its own
            assert ((maze.frame() != trained).any(-1).mean() > 0.01) == (factor != "friction")
    maze.step(push(0, -20))
    slippery = maze.state()[3]
    maze.vary(Variation())
    maze.reset()
    np.testing.assert_array_equal(maze.frame(), trained)
    maze.step(push(0, -20))
    assert slippery < maze.state()[3] < 0
