"""FetchPickAndPlace-v4 of gymnasium-robotics: an arm grasps a cube and holds it in the air or lays it down elsewhere.

The last number of an action is the wanted opening of the gripper, a fraction: 0 closed, 1 wide open; a cube is held by
wanting less than its width, 0.5. An action lasts two environment steps. Goals in the air are at most 0.25 m above the
table, where the environment's own go up to 0.45 m, so that the camera can be close.
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
from sims.tasks.fetch import ACTIONS, CUBE_STATES, GAIN, INTERVAL, LYING, MOST, RANGE, STEP, FetchCube, placer, towards

WIDE = 0.05  # metres that each finger is from the middle when the gripper is wide open
CENTRE = np.array([1.3419, 0.7491])  # where the gripper is after a reset: the middle of cubes and goals, in metres
HIGHEST = LYING + 0.25  # of the cube in a goal, in metres
LOW, HIGH = 0.425, 0.65  # heights of the gripper in metres
CAMERA = CameraSpec(height=64, width=64, dt=INTERVAL * STEP, name="front")
VIEW = View(look_at=(1.36, 0.75, 0.52), distance=0.7, azimuth=180.0, elevation=-38.0)

STOP = 0.01  # metres from its goal at which the cube is not moved any more
GRASP = 0.015  # metres between cube and gripper at which it closes
ABOVE = 0.08  # metres above the cube from where the gripper comes down
FASTEST = 0.06  # metres that the gripper moves in one action when it sweeps or wanders
HOLDING = 0.7  # opening below which fingers that are around the cube hold it
ACTION = ActionSpec(
    low=(-MOST, -MOST, -MOST, 0.0, 0.0, 0.0, 0.0),
    high=(MOST, MOST, MOST, 0.0, 0.0, 0.0, 1.0),
    active=(0, 1, 2, 6),
    absolute=(6,),
)


class FetchPickAndPlace(FetchCube):
    """The running environment as a Simulation; a seventh number of the state is the gripper's opening."""

    def __init__(self) -> None:
        super().__init__(_make, VIEW, CAMERA)
        import mujoco

        self._mujoco = mujoco
        self._fingers = [self._data.joint(f"robot0:{side}_gripper_finger_joint") for side in "lr"]

    def step(self, action: Action) -> None:
        move = np.clip(np.asarray(action, np.float64)[:3] / MOST, -1, 1)
        wanted = WIDE * float(np.clip(action[6], 0, 1))
        for _ in range(INTERVAL):
            # The environment takes the change that is wanted of each finger's position, in metres.
            close = np.clip(wanted - WIDE * self._opening(), -1, 1)
            self._move(np.array([*move, close], np.float32))
            self._mujoco.mj_forward(
                self._model, self._data
            )  # not part of this environment's step, as it is of the others'

    def _opening(self) -> float:
        return float(np.mean([finger.qpos[0] for finger in self._fingers])) / WIDE

    def state(self) -> State:
        return np.append(super().state(), np.float32(self._opening()))


def _make() -> Any:
    from gymnasium_robotics.envs.fetch.pick_and_place import MujocoFetchPickAndPlaceEnv

    return MujocoFetchPickAndPlaceEnv()


def sample_goal(rng: np.random.Generator) -> State:
    """Return a place of the cube, half of the time in the air; the gripper may be anywhere (zeros)."""
    goal = np.zeros(7, np.float32)
    goal[:2], goal[2] = CENTRE + rng.uniform(-RANGE, RANGE, 2), LYING
    if rng.random() < 0.5:
        goal[2] = rng.uniform(LYING, HIGHEST)
    return goal


def start(simulation: Simulation, rng: np.random.Generator) -> None:
    """Put the gripper anywhere above the range, open, closed or between, and the cube anywhere in it but below it."""
    assert isinstance(simulation, FetchPickAndPlace)
    simulation.lay_out(rng, CENTRE, rng.uniform(LOW, HIGH), float(rng.choice([0, 1, rng.uniform()])))


def held(state: State) -> bool:
    """Whether the fingers are around the cube and as far closed as it lets them."""
    return float(np.linalg.norm(state[:3] - state[3:6])) < 2 * GRASP and bool(0.3 < state[6] < HOLDING)


def carry(state: State, goal: NDArray[np.floating[Any]]) -> Action:
    """Return the action that brings the cube nearer to ``goal`` (3, metres): grasp, lift, carry and let go of it."""
    cube, gripper = state[:3], state[3:6]
    way, offset = goal - cube, cube - gripper
    there = float(np.linalg.norm(way)) < STOP
    lying = cube[2] < LYING + STOP
    if there and goal[2] < LYING + STOP:
        return towards(np.zeros(3), 1.0)
    if held(state):
        aside = float(np.linalg.norm(way[:2]))
        lift = max(float(goal[2]), LYING + 0.03) - cube[2] if aside > 0.03 else way[2]
        return towards(np.array([*way[:2], lift]) if not there else np.zeros(3), 0.0)
    if np.linalg.norm(offset) < GRASP and lying:
        return towards(offset, 0.0)
    aside = float(np.linalg.norm(offset[:2]))
    if aside < GRASP:
        return towards(offset, 1.0)
    height = cube[2] + ABOVE - gripper[2]
    if height > 0.02 and aside < ABOVE:
        return towards(np.array([0, 0, height]), 1.0)
    return towards(np.array([*offset[:2], height]), 1.0)


def controller(goal: State) -> Controller:
    """Return the scripted controller: grasp the cube, carry it to its place, and let go of it if it lies there."""
    return lambda state: carry(state, goal[:3])


def _skill(rng: np.random.Generator) -> Controller:
    return controller(sample_goal(rng))


def mixture(rng: np.random.Generator) -> Controller:
    """Return a controller that does one thing after another, with noise: carry, let go, sweep, wander, rest.

    It carries the cube to random places on the table and in the air, opens the gripper wherever it is, sweeps through
    where the cube is, wanders to random waypoints with any opening (mostly keeping what it holds), and rests.
    A cube that leaves the range is fetched; one that fell off the table is left alone.
    """
    doing, left, noise, opening, wide, target = "", 0, 0.0, 0.0, 1.0, np.zeros(3)

    def begin(state: State) -> None:
        nonlocal doing, left, noise, opening, wide, target
        cube, gripper = state[:3], state[3:6]
        holds = held(state)
        doing = str(rng.choice(["carry", "let go", "sweep", "wander", "rest"], p=[0.52, 0.1, 0.1, 0.14, 0.14]))
        noise = float(rng.choice([0.002, 0.006, 0.015], p=[0.4, 0.4, 0.2]))
        closed, wide = float(rng.choice([0.0, rng.uniform(0, 0.4)])), float(rng.choice([1.0, rng.uniform(0.7, 1)]))
        keeps = doing == "carry" or (holds and rng.random() < 0.8)
        opening = closed if keeps else float(rng.choice([0.0, 1.0, rng.uniform()], p=[0.15, 0.15, 0.7]))
        target = np.array([*(CENTRE + rng.uniform(-RANGE, RANGE, 2)), rng.uniform(LOW, HIGH)])
        inside = (np.abs(cube[:2] - CENTRE) < RANGE + 0.02).all()
        if not inside or (doing == "let go" and not holds) or (doing == "sweep" and holds):
            doing, opening = "carry", closed
        if cube[2] < LYING - 0.02:
            doing = "wander"
        if doing == "carry":
            target = sample_goal(rng)[:3].astype(np.float64)
        elif doing == "let go":
            opening = float(rng.uniform(0.55, 1))
        elif doing == "sweep":
            through = cube[:2] - gripper[:2] + rng.normal(0, 0.015, 2)
            beyond = cube[:2] + through * min(1.0, 0.06 / max(float(np.linalg.norm(through)), 1e-9))
            target = np.array([*np.clip(beyond, CENTRE - RANGE + 0.03, CENTRE + RANGE - 0.03), LOW])
        left = {"carry": 16, "let go": 3, "sweep": 5, "wander": 4, "rest": 3}[doing]

    def act(state: State) -> Action:
        nonlocal left
        if doing == "carry" and np.linalg.norm(target - state[:3]) < 0.02:
            left = min(left, int(rng.integers(1, 4)))
        if left == 0:
            begin(state)
        left -= 1
        if doing == "carry":
            action = carry(state, target)
            wanted = wide if action[6] else opening
            return towards(action[:3] / GAIN + rng.normal(0, noise, 3), wanted + rng.normal(0, 5 * noise))
        move = target - state[3:6] if doing in ("sweep", "wander") else np.zeros(3)
        move = move * min(1.0, FASTEST / max(float(np.linalg.norm(move)), 1e-9))
        return towards(move + rng.normal(0, noise, 3), opening + rng.normal(0, 5 * noise))

    return act


def distance(state: State, goal: State) -> float:
    """Metres between two places of the cube."""
    return float(np.linalg.norm(state[:3] - goal[:3]))


_place = placer(VIEW, CAMERA, np.array([*(CENTRE - RANGE), LYING]), np.array([*(CENTRE + RANGE), HIGHEST]))


def place(state: State) -> Placement:
    """Say where the cube is as seen in the picture."""
    return _place(state[:3])


TASK = Task(
    name="fetch-pick-and-place",
    description="Fetch arm: grasp a cube and hold it in the air or lay it down elsewhere (FetchPickAndPlace-v4)",
    licence="MIT (gymnasium-robotics, with the robot model it ships)",
    action=ACTION,
    camera=CAMERA,
    states=(*CUBE_STATES, "gripper opening"),
    open=FetchPickAndPlace,
    data_policy=partial(purposeful, _skill, mixture, ACTION),
    sample_goal=sample_goal,
    controller=controller,
    distance=distance,
    place=place,
    start=start,
    subject="cube",
    tolerances=(0.05, 0.03),  # 0.05 is the environment's distance_threshold
    min_goal_distance=0.1,
    collect_frames=18,  # the script takes 9 actions, at most 12; what follows is rest
    settle_steps=16,
    evaluation_steps=ACTIONS,
    interval=INTERVAL,
)
