"""Two rooms: walls that stop and let slide, a picture that agrees with the position, a door that is used both ways."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from numpy.typing import NDArray

from sims.core.collect import record
from sims.core.seeds import episode_seed
from sims.core.task import Controller
from sims.core.variation import Variation
from sims.evaluation.evaluate import roll_out
from sims.evaluation.pairs import Pair, make_pairs
from sims.evaluation.policies import RandomPolicy, ScriptedPolicy
from sims.tasks import two_room
from sims.tasks.two_room import DOOR, HIGH, LOW, NEAR, PIXEL, RADIUS, SIDE, STEP, TASK, WALL, TwoRoom, TwoRoomEnv

PAIRS = 30


@pytest.fixture(scope="module")
def rooms() -> Iterator[TwoRoom]:
    simulation = TwoRoom()
    yield simulation
    simulation.close()


@pytest.fixture(scope="module")
def pairs(rooms: TwoRoom) -> list[Pair]:
    return make_pairs(TASK, rooms, "dev", 0, PAIRS, "image")


def put(rooms: TwoRoom, x: float, y: float) -> None:
    rooms.restore(np.array([x, y]))


def test_it_is_a_gymnasium_environment() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(TwoRoomEnv(render_mode="rgb_array"), skip_render_check=True)
    env = TwoRoomEnv(render_mode="rgb_array")
    observation, _ = env.reset(seed=3, options={"position": (1.0, 1.0), "goal": (1.8, 1.0)})
    np.testing.assert_allclose(observation, [1.0, 1.0, 1.8, 1.0])
    right = np.array([0.3, 0.0], np.float32)
    _, reward, ended, _, _ = env.step(right)
    assert (reward, ended) == (0.0, False)
    observation, reward, ended, cut, info = env.step(right)  # 0.2 m left to go
    assert (reward, ended, cut, info["is_success"]) == (1.0, True, False, True)
    assert TASK.distance(observation[:2], observation[2:]) == pytest.approx(0.2, abs=1e-5)
    picture = env.render()
    assert picture.shape == (64, 64, 3)
    assert picture.dtype == np.uint8


def test_nothing_stops_the_disc_on_open_floor(rooms: TwoRoom) -> None:
    put(rooms, 1.5, 2.0)
    rooms.step(np.array([0.2, -0.25], np.float32))
    np.testing.assert_allclose(rooms.state(), [1.7, 1.75], atol=1e-6)
    rooms.step(np.array([9.0, -9.0], np.float32))  # clipped to its bounds
    np.testing.assert_allclose(rooms.state(), [1.7 + STEP, 1.75 - STEP], atol=1e-6)


def test_walls_stop_it_and_let_it_slide(rooms: TwoRoom) -> None:
    put(rooms, WALL[0] - RADIUS - 0.1, 2.0)
    for step in range(1, 4):
        rooms.step(np.array([STEP, 0.2], np.float32))
        np.testing.assert_allclose(rooms.state(), [WALL[0] - RADIUS, 2.0 + 0.2 * step], atol=1e-6)
    put(rooms, HIGH - 0.1, LOW + 0.1)
    rooms.step(np.array([STEP, -STEP], np.float32))
    np.testing.assert_allclose(rooms.state(), [HIGH, LOW], atol=1e-6)


def test_only_the_door_lets_it_through(rooms: TwoRoom) -> None:
    for y in np.arange(LOW, HIGH, 0.1):
        put(rooms, 2.0, float(y))
        for _ in range(8):
            rooms.step(np.array([STEP, 0.0], np.float32))
        through = rooms.state()[0] > WALL[1]
        if DOOR[0] + RADIUS <= y <= DOOR[1] - RADIUS:
            assert through
        if not DOOR[0] - 0.05 < y < DOOR[1] + 0.05:  # between them, the door's edges push it aside
            assert not through


def test_it_is_never_in_a_wall(rooms: TwoRoom) -> None:
    rng = np.random.default_rng(0)
    put(rooms, WALL[0] - RADIUS, DOOR[0])
    for _ in range(3000):
        rooms.step((STEP * np.sign(rng.normal(0.1 * (4.4 - rooms.state()[1]), 1, 2))).astype(np.float32))
        x, y = rooms.save()
        assert LOW <= x <= HIGH
        assert LOW <= y <= HIGH
        for bottom, top in ((0.0, DOOR[0]), (DOOR[1], SIDE)):
            beside, above = max(WALL[0] - x, x - WALL[1], 0.0), max(bottom - y, y - top, 0.0)
            assert math.hypot(beside, above) >= RADIUS - 1e-9


def test_saved_states_are_restored_exactly(rooms: TwoRoom) -> None:
    rng = np.random.default_rng(1)
    actions = rng.uniform(-STEP, STEP, (10, 2)).astype(np.float32)
    put(rooms, 2.6, 3.9)
    saved = rooms.save()

    def play() -> tuple[np.ndarray, np.ndarray]:
        states, frames = [], []
        for action in actions:
            rooms.step(action)
            states.append(rooms.save())
            frames.append(rooms.frame())
        return np.stack(states), np.stack(frames)

    first = play()
    rooms.reset()
    rooms.restore(saved)
    second = play()
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_the_picture_shows_the_disc_where_the_state_and_the_words_say(rooms: TwoRoom) -> None:
    floor, disc = (255 * np.array([colour[1] for colour in (two_room.FLOOR_COLOUR, two_room.DISC_COLOUR)])).tolist()
    for x, y in ((0.93, 0.97), (1.84, 5.36), (4.37, 3.33), (3.2, 4.4)):
        put(rooms, x, y)
        column, row = round(x / PIXEL), round((SIDE - y) / PIXEL)
        near = rooms.frame()[row - 5 : row + 5, column - 5 : column + 5, 1].astype(float)
        cover = np.clip((floor - near) / (floor - disc), 0, 1)
        rows, columns = np.mgrid[row - 5 : row + 5, column - 5 : column + 5] + 0.5
        assert cover.sum() == pytest.approx(math.pi * (RADIUS / PIXEL) ** 2, rel=0.03)
        assert (cover * columns).sum() / cover.sum() * PIXEL == pytest.approx(x, abs=0.01)
        assert SIDE - (cover * rows).sum() / cover.sum() * PIXEL == pytest.approx(y, abs=0.01)
    corner = TASK.place(np.array([HIGH, LOW], np.float32))
    np.testing.assert_allclose([corner.right, corner.up, corner.away], [1, -1, 0], atol=1e-6)


def test_a_movement_of_half_a_pixel_is_seen(rooms: TwoRoom) -> None:
    put(rooms, 1.5, 2.0)
    before = rooms.frame()
    rooms.step(np.array([PIXEL / 2, 0.0], np.float32))
    assert (rooms.frame() != before).any(-1).sum() >= 8


def test_distance_goes_through_the_door() -> None:
    left, right, beside = (np.array(p, np.float32) for p in ((1.2, 4.4), (5.2, 4.4), (1.2, 1.4)))
    assert TASK.distance(left, right) == pytest.approx(4)
    assert TASK.distance(left, beside) == pytest.approx(3)
    assert TASK.distance(beside, right) == pytest.approx(math.hypot(2, 3) + 2)
    in_door = np.array([3.1, 4.7], np.float32), np.array([3.3, 4.7], np.float32)
    assert TASK.distance(*in_door) == pytest.approx(0.2)  # not by way of the door's middle
    facing = np.array([WALL[0] - RADIUS, 2.0], np.float32), np.array([WALL[1] + RADIUS, 2.0], np.float32)
    assert TASK.distance(*facing) > 10 * NEAR


def test_most_goals_are_in_the_other_room(pairs: list[Pair]) -> None:
    crossing = [(pair.start_state[0] < 3.2) != (pair.goal_state[0] < 3.2) for pair in pairs]
    assert np.mean(crossing) > 0.8


def successes(rooms: TwoRoom, pairs: list[Pair], policy: ScriptedPolicy | RandomPolicy) -> float:
    """Share of pairs at whose end the strictest criterion is met (scripted) or the loosest was met once (random)."""
    played = [roll_out(TASK, rooms, policy, pair, TASK.evaluation_steps, keep_frames=False) for pair in pairs]
    return float(np.mean([r.end(2) if policy.name == "scripted" else r.ever(0) for r in played]))


def test_ceiling_and_floor(rooms: TwoRoom, pairs: list[Pair]) -> None:
    assert successes(rooms, pairs, ScriptedPolicy(TASK)) == 1
    assert successes(rooms, pairs, RandomPolicy(TASK)) <= 0.1


def test_episodes_pass_the_door_both_ways_and_meet_walls(rooms: TwoRoom) -> None:
    episodes = [record(TASK, rooms, episode_seed("collect", 0, i), i) for i in range(60)]
    states = np.stack([episode.states for episode in episodes if episode.states is not None])
    actions = np.stack([episode.actions for episode in episodes])
    passages = np.diff((states[..., 0] > 3.2).astype(int), axis=1)
    assert (passages > 0).sum() > 20
    assert (passages < 0).sum() > 20
    blocked = np.abs(np.diff(states, axis=1) - actions).max(-1) > 0.05
    assert 0.1 < blocked.mean() < 0.4
    resting = np.abs(actions).max(-1) < 0.05
    assert 0.03 < resting.mean() < 0.3
    visited, _, _ = np.histogram2d(states[..., 0].ravel(), states[..., 1].ravel(), bins=6, range=[[LOW, HIGH]] * 2)
    assert (np.delete(visited, [2, 3], axis=0) > 5).all()  # all over both rooms
    assert episodes[0].labels is not None
    assert episodes[0].labels.shape == (TASK.collect_frames, len(TASK.labels))


def test_a_straight_way_does_not_lead_to_the_goal(rooms: TwoRoom, pairs: list[Pair]) -> None:
    def greedy(goal: NDArray[np.float32]) -> Controller:
        return lambda state: np.clip(goal - state, -STEP, STEP)

    ended = []
    for pair in pairs:
        rooms.restore(pair.start)
        act = greedy(pair.goal_state)
        for _ in range(TASK.evaluation_steps):
            rooms.step(act(rooms.state()))
        ended.append(TASK.distance(rooms.state(), pair.goal_state) <= NEAR)
    assert np.mean(ended) < 0.5


def test_variations_change_the_picture_and_nothing_else(rooms: TwoRoom) -> None:
    put(rooms, 1.5, 2.0)
    trained = rooms.frame()
    for factor in TASK.factors:
        rooms.vary(Variation(factor, 1.0))
        varied = rooms.frame()
        assert (varied != trained).any(-1).mean() > 0.01
        np.testing.assert_allclose(rooms.save(), [1.5, 2.0])
        if factor == "light":
            np.testing.assert_allclose(varied, 0.25 * trained.astype(float), atol=2)
        if factor == "colours":
            np.testing.assert_allclose(varied.astype(int), trained[..., [1, 2, 0]].astype(int), atol=1)
    rooms.vary(Variation("distractors", 0.0))
    np.testing.assert_array_equal(rooms.frame(), trained)
