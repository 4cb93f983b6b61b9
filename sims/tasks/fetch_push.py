"""FetchPush-v4 of gymnasium-robotics: an arm with a closed gripper pushes a cube over a table to a place.

An action lasts two environment steps: the gripper then moves up to 6.5 cm, and going behind the cube and pushing it
fits into the few actions that a planner looks ahead. Physics and picture: see sims.tasks.fetch.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.specs import ActionSpec, CameraSpec
from sims.core.disturbance import purposeful
from sims.core.language import Placement
from sims.core.rendering import View
from sims.core.task import Action, Controller, Simulation, State, Task
from sims.tasks.fetch import ACTIONS, CUBE_STATES, INTERVAL, LYING, MOST, RANGE, STEP, FetchCube, placer, towards

CENTRE = np.array([1.3631, 0.7491])  # where the gripper is after a reset: the middle of cubes and goals, in metres
LOW, HIGH = 0.42, 0.5  # heights of the gripper in metres: fingers just above the table, and above the cube
CAMERA = CameraSpec(height=64, width=64, dt=INTERVAL * STEP, name="front")
VIEW = View(look_at=(1.38, 0.75, 0.43), distance=0.63, azimuth=180.0, elevation=-63.0)

TOUCH = 0.04  # metres between the middles of cube and fingers when they touch side to side
STAND = 0.075  # metres behind the cube's middle from where a push begins
CLEAR = 0.055  # metres from the cube's middle at which the fingers pass it by
STOP = 0.01  # metres from its goal at which the cube is left alone
EASE, SLOWEST, FASTEST = 0.4, 0.012, 0.06  # share of what is left to push in one action, and its bounds in metres
ACTION = ActionSpec(
    low=(-MOST, -MOST, -MOST, 0.0, 0.0, 0.0, 0.0), high=(MOST, MOST, MOST, 0.0, 0.0, 0.0, 0.0), active=(0, 1, 2)
)


class FetchPush(FetchCube):
    """The running environment behind sims.core.task.Simulation."""

    def __init__(self) -> None:
        super().__init__(_make, VIEW, CAMERA)


def _make() -> Any:
    from gymnasium_robotics.envs.fetch.push import MujocoFetchPushEnv

    return MujocoFetchPushEnv()


def sample_goal(rng: np.random.Generator) -> State:
    """Return a place of the cube drawn evenly from the environment's range; the gripper may be anywhere (zeros)."""
    goal = np.zeros(6, np.float32)
    goal[:2], goal[2] = CENTRE + rng.uniform(-RANGE, RANGE, 2), LYING
    return goal


def start(simulation: Simulation, rng: np.random.Generator) -> None:
    """Put the gripper anywhere above the range, and the cube anywhere in it but not under the gripper."""
    assert isinstance(simulation, FetchPush)
    simulation.lay_out(rng, CENTRE, float(rng.choice([LOW, rng.uniform(LOW, HIGH)])))


def push(state: State, goal: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
    """Return the move of the gripper (3, metres) that pushes the cube towards ``goal`` (2), or takes it behind it.

    Pushes become slower towards their end, because a fast cube slides on by up to 4 cm.
    """
    cube, gripper = state[:2], state[3:]
    left = float(np.linalg.norm(goal - cube))
    if left < STOP:
        return np.zeros(3)
    ahead = (goal - cube) / left
    aside = np.array([-ahead[1], ahead[0]])
    offset = gripper[:2] - cube
    along, across = float(offset @ ahead), float(offset @ aside)
    down = LOW - gripper[2]
    if along < -TOUCH / 2 and abs(across) < 0.015 and down > -0.02:
        move = np.clip(EASE * (left - along - TOUCH), SLOWEST, FASTEST)
        return np.array([*(ahead * move - aside * across), down])
    to_stand = -STAND * ahead - offset
    near = np.linalg.norm(to_stand) < 0.025
    nearest = offset + np.clip(-(offset @ to_stand) / (to_stand @ to_stand), 0, 1) * to_stand
    if near or np.linalg.norm(nearest) > CLEAR:
        return np.array([*to_stand, down])
    if gripper[2] > HIGH - 0.02:
        return np.array([*to_stand, HIGH - gripper[2]])
    return np.array([0, 0, HIGH + 0.01 - gripper[2]])


def controller(goal: State) -> Controller:
    """Return the scripted controller: go behind the cube, over it if it is in the way, push, and stop."""
    return lambda state: towards(push(state, goal[:2]))


def _inside(cube: NDArray[np.floating[Any]], margin: float) -> bool:
    return bool((np.abs(cube[:2] - CENTRE) < RANGE + margin).all())


def _skill(rng: np.random.Generator) -> Controller:
    return controller(sample_goal(rng))


def mixture(rng: np.random.Generator) -> Controller:
    """Return a controller that does one thing after another, with noise: push, sweep, wander, rest.

    It pushes the cube towards random places, sweeps through where the cube is from wherever the gripper happens to be
    (such pushes slip off, turn the cube and let it slide), wanders to random waypoints at any height, and rests.
    A cube that leaves the range is pushed back; one that fell off the table is left alone.
    """
    doing, left, noise, fastest = "", 0, 0.0, MOST
    target = np.zeros(3)

    def begin(state: State) -> None:
        nonlocal doing, left, noise, fastest, target
        cube, gripper = state[:3], state[3:]
        target = np.array([*(CENTRE + rng.uniform(-RANGE, RANGE, 2)), rng.uniform(LOW, HIGH)])
        doing = str(rng.choice(["push", "sweep", "wander", "rest"], p=[0.46, 0.22, 0.14, 0.18]))
        noise, fastest = float(rng.choice([0.004, 0.012, 0.03], p=[0.4, 0.4, 0.2])), MOST
        if doing == "sweep":
            fastest = float(rng.uniform(0.02, 0.07))
            through = cube[:2] - gripper[:2] + rng.normal(0, 0.015, 2)
            beyond = cube[:2] + through * min(1.0, 0.08 / float(np.linalg.norm(through)))
            doing = "sweep" if _inside(beyond, -0.03) else "push"
            target = np.array([*beyond, LOW]) if doing == "sweep" else target
        if not _inside(cube, 0.01):
            doing, target = "push", np.array([*(CENTRE + 0.5 * (target[:2] - CENTRE)), target[2]])
        if cube[2] < LYING - 0.02:
            doing = "wander"
        left = {"push": 14, "sweep": 5, "wander": 4, "rest": 3}[doing]

    def act(state: State) -> Action:
        nonlocal left
        arrived = doing == "push" and np.linalg.norm(target[:2] - state[:2]) < 0.02
        if left == 0 or arrived or (doing == "sweep" and not _inside(state, 0.01)):
            begin(state)
        left -= 1
        if doing == "rest":
            return towards(rng.normal(0, 0.001, 3))
        move = push(state, target[:2]) if doing == "push" else target - state[3:]
        move = move * min(1.0, fastest / max(float(np.linalg.norm(move)), 1e-9))
        return towards(move + rng.normal(0, noise, 3))

    return act


def distance(state: State, goal: State) -> float:
    """Metres between two places of the cube."""
    return float(np.linalg.norm(state[:3] - goal[:3]))


_place = placer(VIEW, CAMERA, np.array([*(CENTRE - RANGE), LYING]), np.array([*(CENTRE + RANGE), LYING]))


def place(state: State) -> Placement:
    """Say where the cube is as seen in the picture."""
    return _place(state[:3])


TASK = Task(
    name="fetch-push",
    description="Fetch arm: push a cube over the table to a place (FetchPush-v4)",
    licence="MIT (gymnasium-robotics, with the robot model it ships)",
    action=ACTION,
    camera=CAMERA,
    states=CUBE_STATES,
    open=FetchPush,
    data_policy=partial(purposeful, _skill, mixture, ACTION),
    sample_goal=sample_goal,
    controller=controller,
    distance=distance,
    place=place,
    start=start,
    subject="cube",
    tolerances=(0.05, 0.03),  # 0.05 is the environment's distance_threshold
    min_goal_distance=0.1,
    collect_frames=22,  # the script takes 13 actions, at most 18; what follows is rest
    settle_steps=18,
    evaluation_steps=ACTIONS,
    interval=INTERVAL,
)
