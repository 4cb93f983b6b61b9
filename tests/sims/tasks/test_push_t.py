"""Push-T: the environment's physics, exact restore, a push model that predicts it, and a ceiling worth the name."""

from __future__ import annotations

import contextlib
import copy
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from hnet_vjepa.data.store import Episode
from hnet_vjepa.errors import UserError
from sims.core.collect import record
from sims.core.disturbance import disturbed
from sims.core.seeds import episode_seed
from sims.core.task import Controller
from sims.core.variation import Variation
from sims.evaluation.pairs import Pair, make_pairs
from sims.tasks import push_t, push_t_script

TASK = push_t.TASK


@pytest.fixture(scope="module")
def world() -> Iterator[push_t.PushT]:
    pytest.importorskip("gym_pusht")
    with contextlib.closing(push_t.PushT()) as simulation:
        yield simulation


@pytest.fixture(scope="module")
def episodes(world: push_t.PushT) -> list[Episode]:
    return [record(TASK, world, episode_seed("collect", 0, i), i) for i in range(16)]


@pytest.fixture(scope="module")
def pairs(world: push_t.PushT) -> list[Pair]:
    return make_pairs(TASK, world, "dev", 0, 8, "image")


def state_of(pusher: tuple[float, float], block: tuple[float, float], angle: float) -> np.ndarray:
    return np.array([*pusher, *block, np.cos(angle), np.sin(angle)], np.float32)


def test_an_action_is_five_steps_of_the_environment(world: push_t.PushT) -> None:
    from gym_pusht.envs.pusht import PushTEnv

    env = PushTEnv(obs_type="state")
    env.reset(seed=0)
    env._setup()
    env.agent.position, env.block.angle, env.block.position = (200.0, 250.0), 0.5, (250.0, 230.0)
    world.put(np.array([200.0, 250.0]), np.array([250.0, 230.0, 0.5]))
    # Only what pymunk's solver remembers from one step to the next is lost between two actions.
    for move, tolerance in (((40, 0), 1e-4), ((40, 10), 0.5), ((-20, 40), 0.5), ((50, 0), 0.5)):
        position = world.save()[:2]
        world.step(np.array(move, np.float32))
        for _ in range(TASK.interval):
            observation, *_ = env.step(position + move)
        x, y, block_x, block_y, cosine, sine = world.state()
        np.testing.assert_allclose((x, y, block_x, block_y), observation[:4], atol=tolerance)
        assert np.cos(np.arctan2(sine, cosine) - observation[4]) > np.cos(0.02)
    assert np.linalg.norm(world.state()[2:4] - (250, 230)) > 20
    env.close()


def test_success_is_pusher_and_block_within_20_pixels_and_20_degrees() -> None:
    goal = state_of((100, 100), (300, 250), 3.1)
    assert TASK.distance(goal, goal) == 0
    assert TASK.distance(state_of((112, 100), (300, 266), 3.1), goal) == pytest.approx(1.0)  # 12, 16: 20
    assert TASK.distance(state_of((112, 100), (300, 267), 3.1), goal) > 1
    assert TASK.distance(state_of((100, 100), (300, 250), 3.1 + np.pi / 18), goal) == pytest.approx(0.5, abs=1e-4)
    assert TASK.distance(state_of((100, 100), (300, 250), -3.1), goal) < 0.25  # across the end of the circle


def test_saved_states_are_restored_exactly_in_the_middle_of_a_push(world: push_t.PushT, pairs: list[Pair]) -> None:
    world.restore(pairs[0].start)
    control = TASK.controller(pairs[0].goal_state)
    before = world.state()
    while np.abs(world.state()[2:] - before[2:]).max() < 5:
        world.step(control(world.state()))
    saved = world.save()
    rng = np.random.default_rng(0)
    actions = rng.uniform(-50, 50, (10, 2)).astype(np.float32)
    actions[:4] = control(world.state())

    def play() -> tuple[np.ndarray, np.ndarray]:
        states, frames = [world.save()], [world.frame()]
        for action in actions:
            world.step(action)
            states.append(world.save())
            frames.append(world.frame())
        return np.stack(states), np.stack(frames)

    first = play()
    world.reset()
    world.step(actions[0])
    world.restore(saved)
    second = play()
    assert np.abs(first[0][-1, 4:6] - first[0][0, 4:6]).max() > 5
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_the_model_of_the_script_predicts_what_pushes_do(world: push_t.PushT) -> None:
    rng = np.random.default_rng(0)
    errors, turned = [], []
    for index in rng.choice(len(push_t_script.PLACES), 25, replace=False):
        pose = np.array([256.0, 256.0, rng.uniform(-3, 3)])
        turn = push_t_script.rotation(pose[2])
        begin, direction = pose[:2] + turn @ push_t_script.PLACES[index], turn @ push_t_script.DIRECTIONS[index]
        strides = 12
        expected = push_t_script.model(pose[None], begin[None], direction[None])[strides - 1, 0]
        world.put(begin, np.array([*(pose[:2] - turn @ push_t_script.CENTRE), pose[2]]))
        end = begin + strides * push_t_script.STRIDE * direction
        for _ in range(3):
            world.step(((end - world.state()[:2]) / 0.96).astype(np.float32))
        reached = push_t.pose_of(world.state())
        errors.append(push_t_script.error(reached, expected))
        turned.append(push_t_script.error(reached, pose))
    assert np.median(turned) > 20
    assert np.median(errors) < 1.5
    assert np.quantile(errors, 0.9) < 5


def final_distance(world: push_t.PushT, pair: Pair, control: Controller) -> float:
    world.restore(pair.start)
    for _ in range(TASK.evaluation_steps):
        world.step(control(world.state()))
    return TASK.distance(world.state(), pair.goal_state)


def test_the_scripted_controller_succeeds_and_random_actions_do_not(world: push_t.PushT, pairs: list[Pair]) -> None:
    rng = np.random.default_rng(0)
    ends = []
    for pair in pairs:
        moved = push_t.pose_of(pair.goal_state) - push_t.pose_of(pair.start_state)
        assert np.linalg.norm(moved[:2]) > 20 or abs(np.sin(moved[2] / 2)) > 0.17  # not the pusher alone
        ends.append(final_distance(world, pair, TASK.controller(pair.goal_state)))
        assert final_distance(world, pair, lambda _: rng.uniform(-50, 50, 2).astype(np.float32)) > TASK.tolerances[0]
    assert sum(end <= TASK.tolerances[-1] for end in ends) >= len(pairs) - 1


def test_collected_episodes_push_the_block_far_in_every_direction(episodes: list[Episode]) -> None:
    poses = np.array([[push_t.pose_of(s) for s in e.states] for e in episodes if e.states is not None])
    centres = poses[..., :2]
    assert (np.linalg.norm(centres - centres[:, :1], axis=-1).max(1) > 40).mean() > 0.9
    moves = np.diff(centres, axis=1).reshape(-1, 2)
    length = np.linalg.norm(moves, axis=1)
    assert 0.3 < (length < 0.5).mean() < 0.9
    moves = moves[length > 5]
    quarters, _ = np.histogram(np.arctan2(moves[:, 1], moves[:, 0]), 4, (-np.pi, np.pi))
    assert (quarters / len(moves) > 0.1).all()
    turns = np.diff(poses[..., 2]).ravel()
    turns = np.arctan2(np.sin(turns), np.cos(turns))
    assert 0.3 < (turns[np.abs(turns) > 0.05] > 0).mean() < 0.7
    assert np.abs(centres - 256).max() < 240  # on the plane


def test_who_does_one_thing_after_another_rests_in_between(world: push_t.PushT) -> None:
    task = replace(TASK, data_policy=push_t.mixture, collect_frames=40)
    episodes = [record(task, world, episode_seed("collect", 0, i), i) for i in range(16)]
    resting = np.concatenate([np.linalg.norm(e.actions, axis=1) < 3 for e in episodes])
    assert resting.mean() > 0.03


def test_disturbed_a_script_that_does_not_wait_to_be_exact_brings_the_block_more_often(world: push_t.PushT) -> None:
    """What episodes do, beside the ceiling's script, which hardly begins a push when its pusher is shaken."""
    arrived = np.zeros((2, 24), bool)
    for seed in range(arrived.shape[1]):
        for i, skill in enumerate((push_t._skill, lambda rng: push_t.controller(push_t.sample_goal(rng)))):
            rng = np.random.default_rng(seed)
            push_t.start(world, rng)
            goal = push_t.sample_goal(copy.deepcopy(rng))  # which both draw first
            act = disturbed(skill(rng), push_t.ACTION, rng)
            for _ in range(TASK.collect_frames):
                world.step(act(world.state()))
            arrived[i, seed] = push_t_script.error(push_t.pose_of(world.state()), push_t.pose_of(goal)) < push_t.NEAR
    assert arrived[0].mean() > 0.5
    assert arrived[0].sum() > arrived[1].sum() + 3


def test_pusher_and_block_are_in_the_picture_where_the_state_says(world: push_t.PushT, episodes: list[Episode]) -> None:
    for episode in episodes:
        assert episode.states is not None
        frame, state = episode.frames[-1].astype(int), episode.states[-1]
        blue = frame[..., 2] - frame[..., 0]
        pusher, block = blue > 90, (blue > 20) & (blue < 60) & (frame[..., 0] < 200)
        rows, columns = np.nonzero(pusher)
        assert len(rows) >= 6
        assert abs(columns.mean() + 0.5 - state[0] / 8) < 1
        assert abs(rows.mean() + 0.5 - state[1] / 8) < 1
        rows, columns = np.nonzero(block)
        x, y, _ = push_t.pose_of(state)
        assert np.hypot(columns.mean() + 0.5 - x / 8, rows.mean() + 0.5 - y / 8) < 2
        here = TASK.place(state)
        assert (here.right > 0) == (x > 256)
        assert (here.up > 0) == (y < 256)


@pytest.mark.parametrize("factor", TASK.factors)
def test_departures_change_the_picture_and_go_back(world: push_t.PushT, factor: str) -> None:
    world.reset()
    trained = world.frame()
    world.vary(Variation(factor, 1.0))  # type: ignore[arg-type]
    assert (world.frame() != trained).any()
    world.vary(Variation(factor, 0.0))  # type: ignore[arg-type]
    np.testing.assert_array_equal(world.frame(), trained)


def test_without_the_extra_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gym_pusht.envs.pusht", None)
    with pytest.raises(UserError, match=r"hnet-vjepa\[pusht\]"):
        push_t.PushT()
