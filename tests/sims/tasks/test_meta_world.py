"""Meta-World: its own physics and success; exact restore; data with contact; pictures that show what the state says."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("metaworld")

from hnet_vjepa.errors import UserError
from sims.core.collect import record
from sims.core.rendering import backend
from sims.core.seeds import episode_seed
from sims.core.task import State, Task, scatter
from sims.evaluation.pairs import make_pairs
from sims.evaluation.policies import Observation, RandomPolicy, ScriptedPolicy
from sims.tasks.meta_world import TASKS, button, door, drawer, push, reach
from sims.tasks.meta_world.scripted import act
from sims.tasks.meta_world.simulation import MetaWorld

ENVIRONMENTS = ("reach-v3", "reach-wall-v3", "push-v3", "drawer-open-v3", "door-open-v3", "button-press-v3")
EFFORTS = {"meta-world-door-open": 1.0, "meta-world-button-press": 1.0}  # closed fingers
OBJECTS = TASKS[2:]
Robots = dict[str, MetaWorld]


@pytest.fixture(scope="module")
def robots() -> Iterator[Robots]:
    opened = {task.name: task.open() for task in TASKS}
    assert all(isinstance(robot, MetaWorld) for robot in opened.values())
    yield opened  # type: ignore[misc]
    for robot in opened.values():
        robot.close()


def original(task: Task, rand_vec: NDArray[np.float64] | None = None) -> Any:
    """Meta-World's own environment, reset to the middle of what it would draw at random or to ``rand_vec``."""
    backend()
    from metaworld.env_dict import ALL_V3_ENVIRONMENTS

    env: Any = ALL_V3_ENVIRONMENTS[ENVIRONMENTS[TASKS.index(task)]]()
    space = env._random_reset_space
    env._last_rand_vec = (space.low + space.high) / 2 if rand_vec is None else rand_vec
    env._set_task_called = True
    env.reset()
    return env


def follow(env: Any, robot: MetaWorld) -> None:
    """Put Meta-World's own environment into the configuration of ``robot``."""
    import mujoco

    saved = robot.save()
    size = mujoco.mj_stateSize(env.model, mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_setState(env.model, env.data, saved[:size], mujoco.mjtState.mjSTATE_INTEGRATION)
    mujoco.mj_forward(env.model, env.data)
    mujoco.mj_setState(env.model, env.data, saved[:size], mujoco.mjtState.mjSTATE_INTEGRATION)


def measured(task: Task, env: Any) -> State:
    """What the environment says of the hand, or of the object where there is one."""
    return np.asarray(env._get_pos_objects() if task in OBJECTS else env.tcp_center, np.float32)


def random_actions(task: Task, count: int, seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).uniform(task.action.low, task.action.high, (count, 7)).astype(np.float32)


def test_names() -> None:
    assert [task.name for task in TASKS] == [
        "meta-world-reach",
        "meta-world-reach-wall",
        "meta-world-push",
        "meta-world-drawer-open",
        "meta-world-door-open",
        "meta-world-button-press",
    ]
    assert all("hnet-vjepa[metaworld]" in task.needs for task in TASKS)


def test_a_missing_package_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    backend()
    monkeypatch.setitem(sys.modules, "metaworld.env_dict", None)
    with pytest.raises(UserError, match=r"pip install 'hnet-vjepa\[metaworld\]'"):
        TASKS[0].open()


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_an_action_is_five_steps_of_meta_world(task: Task, robots: Robots) -> None:
    robot, env = robots[task.name], original(task)
    robot.reset()
    follow(env, robot)
    for action in random_actions(task, 6, 1):
        robot.step(action)
        effort = {"meta-world-push": action[6], "meta-world-door-open": 1, "meta-world-button-press": 1}.get(
            task.name, 0
        )
        for _ in range(5):
            env.step(np.array([*np.asarray(action[:3], np.float64) / 0.05, effort]))
        np.testing.assert_array_equal(robot.state()[:3], measured(task, env))
    np.testing.assert_array_equal(
        robot.state()[-4:-1] if task in OBJECTS else robot.state(), np.float32(env.tcp_center)
    )
    beyond = np.array([1, -1, 1, 9, 9, 9, 0], np.float32)
    saved = robot.save()
    robot.step(beyond)
    state = robot.state()
    robot.restore(saved)
    robot.step(np.array([0.05, -0.05, 0.05, 0, 0, 0, 0], np.float32))
    np.testing.assert_array_equal(robot.state(), state)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_saved_states_are_restored_exactly(task: Task, robots: Robots) -> None:
    robot = robots[task.name]
    scatter(task, robot, np.random.default_rng(0))
    act_now = task.data_policy(np.random.default_rng(2))
    for _ in range(12):
        robot.step(act_now(robot.state()))
    saved, actions = robot.save(), random_actions(task, 10, 3)

    def play() -> list[NDArray[Any]]:
        seen: list[NDArray[Any]] = [robot.state(), robot.frame()]
        for action in actions:
            robot.step(action)
            seen += [robot.state(), robot.frame()]
        return seen

    first = play()
    scatter(task, robot, np.random.default_rng(1))  # another place for the object too
    robot.restore(saved)
    for before, after in zip(first, play(), strict=True):
        np.testing.assert_array_equal(before, after)
    robot.reset()
    again = robot.save()
    robot.step(actions[0])
    robot.reset()
    np.testing.assert_array_equal(robot.save(), again)


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_success_is_meta_worlds(task: Task, robots: Robots) -> None:
    """The scripted controller goes to Meta-World's target; both must call the same steps a success."""
    robot, env = robots[task.name], original(task)
    robot.reset()
    env_target = np.asarray(env._target_pos, np.float32)
    goal = task.sample_goal(np.random.default_rng(0))
    goal[:3] = env_target
    control, verdicts = task.controller(goal), []
    for _ in range(task.evaluation_steps):
        robot.step(control(robot.state()))
        follow(env, robot)
        _, info = env.evaluate_state(env._get_obs(), np.zeros(4))
        verdicts.append((bool(info["success"]), task.distance(robot.state(), goal) <= task.tolerances[0]))
    assert all(theirs == ours for theirs, ours in verdicts)
    assert not verdicts[0][0]
    assert verdicts[-1][0]


def test_boxes_are_meta_worlds() -> None:
    drawn = [original(task)._random_reset_space for task in TASKS]
    for space, goals in zip(drawn[:2], (reach.GOALS, reach.WALL_GOALS), strict=True):
        np.testing.assert_allclose(np.stack([space.low[3:], space.high[3:]]), goals)
    np.testing.assert_allclose(np.stack([drawn[2].low[:3], drawn[2].high[:3]]), push.STARTS)
    np.testing.assert_allclose(np.stack([drawn[2].low[3:5], drawn[2].high[3:5]]), np.array(push.GOALS)[:, :2])
    for space, places in zip(drawn[3:], (drawer.CASES, door.FRAMES, button.BOXES), strict=True):
        np.testing.assert_allclose(np.stack([space.low, space.high]), places)


@pytest.mark.parametrize("task", OBJECTS, ids=lambda task: task.name)
def test_a_random_start_puts_the_object_where_meta_worlds_reset_does(task: Task, robots: Robots) -> None:
    robot, space = robots[task.name], original(task)._random_reset_space
    vector = np.random.default_rng(4).uniform(space.low, space.high)
    robot.reset()
    robot.arrange(vector[:3])
    env = original(task, vector)
    np.testing.assert_allclose(robot.state()[:3], measured(task, env), atol=2e-3)
    places = np.stack([scatter(task, robot, np.random.default_rng(seed))[:3] for seed in range(4)])
    assert np.ptp(places, axis=0).max() > 0.03


@pytest.mark.parametrize("task", TASKS, ids=lambda task: task.name)
def test_the_scripted_controller_arrives_and_random_actions_do_not(task: Task, robots: Robots) -> None:
    robot = robots[task.name]
    for pair in make_pairs(task, robot, "dev", 3, 2, "image"):
        assert task.distance(pair.start_state, pair.goal_state) >= task.min_goal_distance
        for policy, arrives in ((ScriptedPolicy(task), True), (RandomPolicy(task), False)):
            robot.restore(pair.start)
            decide = policy.begin(pair)
            for _ in range(task.evaluation_steps):
                robot.step(decide(Observation(pair.goal_frame[None], robot.state())).action)
            away = task.distance(robot.state(), pair.goal_state)
            assert away <= task.tolerances[-1] if arrives else away > task.tolerances[0]


@pytest.mark.parametrize("task", OBJECTS, ids=lambda task: task.name)
def test_collected_episodes_move_the_object(task: Task, robots: Robots) -> None:
    episodes = [record(task, robots[task.name], episode_seed("collect", 0, i), i) for i in range(6)]
    states = np.stack([e.states for e in episodes if e.states is not None])
    moved = np.linalg.norm(states[:, :, :3] - states[:, :1, :3], axis=-1).max(1)
    assert (moved > 0.01).sum() >= 4
    assert moved.max() > 0.05
    actions = np.concatenate([e.actions for e in episodes])
    assert (actions >= np.array(task.action.low, np.float32)).all()
    assert (actions <= np.array(task.action.high, np.float32)).all()
    assert (actions[:, list(task.action.active)].std(0) > 0.01).all()


def test_collected_episodes_reach_the_goals_and_touch_the_wall(robots: Robots) -> None:
    for task, box in ((TASKS[0], reach.GOALS), (TASKS[1], reach.WALL_GOALS)):
        episodes = [record(task, robots[task.name], episode_seed("collect", 0, i), i) for i in range(6)]
        hand = np.concatenate([e.states for e in episodes if e.states is not None])
        low, high = np.array(box)
        inside = (hand > low - 0.02) & (hand < high + 0.02)
        assert inside.all(1).mean() > 0.1
    held_back = (np.abs(hand[:, 1] - reach.WALL_Y) < reach.BESIDE) & (hand[:, 2] < 0.12)
    assert held_back.any()


def test_the_wall_stands_in_the_way(robots: Robots) -> None:
    robot = robots["meta-world-reach-wall"]
    rng = np.random.default_rng(0)
    blocked = []
    for _ in range(300):
        start, goal = rng.uniform(*reach.WALL_STARTS), rng.uniform(*reach.WALL_GOALS)
        way = start + np.linspace(0, 1, 100)[:, None] * (goal - start)
        at_wall = np.abs(way[:, 1] - 0.75) < 0.01 + 0.055  # half of the wall, and a finger's distance from the middle
        across = (way[:, 0] > -0.02 - 0.015) & (way[:, 0] < 0.22 + 0.015)
        blocked.append((at_wall & across & (way[:, 2] < 0.12)).any())
    assert np.mean(blocked) > 0.75
    target = np.array([0.05, 0.87, 0.06])
    for route, passes in ((reach.straight, False), (reach.over_wall, True)):
        robot.reset()
        for goal in (np.array([0.05, 0.6, 0.06]), target):
            for _ in range(18):
                robot.step(act(0.6 * (route(robot.state(), goal) - robot.state())))
        assert (np.linalg.norm(robot.state() - target) < 0.02) == passes


def centre(marked: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Column and row of the middle of the pixels that are marked (H x W)."""
    assert marked.sum() >= 4
    rows, columns = np.nonzero(marked)
    return np.array([columns.mean(), rows.mean()]) + 0.5


def test_hand_and_puck_are_in_the_picture_where_the_state_says(robots: Robots) -> None:
    robot, rng = robots["meta-world-reach"], np.random.default_rng(5)
    for _ in range(6):
        robot.reset()
        goal = TASKS[0].sample_goal(rng)
        goal[1] = min(goal[1], 0.87)  # metres; nearer to the camera one finger hides part of the other
        for _ in range(14):
            robot.step(act(0.6 * (goal - robot.state())))
        red, green, blue = np.moveaxis(robot.frame().astype(int), -1, 0)
        fingers = (green > red + 40) & (blue > red + 40)
        column, row, _ = reach.VIEW.project(robot.state() + np.array([0, 0, 0.045]), 64, 64)  # middle of their length
        np.testing.assert_allclose(centre(fingers), [column, row], atol=1.5)
    for seed in range(4):
        state = scatter(push.TASK, robots["meta-world-push"], np.random.default_rng(seed))
        red, green, blue = np.moveaxis(robots["meta-world-push"].frame().astype(int), -1, 0)
        puck = (red > 200) & (green < 60) & (blue < 60)
        np.testing.assert_allclose(centre(puck), push.VIEW.project(state[:3], 64, 64)[:2], atol=2.5)
