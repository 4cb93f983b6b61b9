"""FetchReach-v4 of gymnasium-robotics: a 7-joint arm whose gripper is moved in x, y and z above a table.

The physics is Gymnasium's, untouched. The picture is ours: a camera close to the workspace instead of one that shows
the whole robot, no goal marker (the goal would be visible), a table in another colour than the gripper, and the parts
hidden that the camera hardly sees but that cost most of the drawing (laser, emergency stop, head, base).
"""

from __future__ import annotations

import contextlib
import io
import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.specs import ActionSpec, CameraSpec
from sims.language import Placement
from sims.rendering import HIDDEN_GROUP, View, backend
from sims.scene import Scene
from sims.task import Action, Controller, State, Task
from sims.variation import Variation

REACH = (
    0.05  # metres that the environment asks of the arm for an action of 1; the gripper does about two thirds in a step
)
CENTRE = np.array([1.3418, 0.7491, 0.5347])  # where the gripper is after a reset
LOW = CENTRE + np.array([-0.13, -0.13, -0.10])  # the table ends the room below, the arm's length that ahead
HIGH = CENTRE + np.array([0.13, 0.13, 0.12])
CAMERA = CameraSpec(height=64, width=64, dt=0.04, name="front-side")
VIEW = View(look_at=(1.3418, 0.7491, 0.5547), distance=0.95, azimuth=150.0, elevation=-35.0)
UNSEEN = ("robot0:laser_link", "robot0:estop_link", "robot0:head_pan_link", "robot0:head_tilt_link", "robot0:base_link")
TABLE_COLOUR = (0.72, 0.58, 0.42, 1.0)


class FetchReach:
    """The running environment behind sims.task.Simulation."""

    def __init__(self) -> None:
        chosen = backend()
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # notices about other environments
            warnings.simplefilter("ignore")
            from gymnasium_robotics.envs.fetch.reach import MujocoFetchReachEnv
        self._env = MujocoFetchReachEnv()
        self._env.reset(seed=0)
        self._model, self._data = self._env.model, self._env.data
        self._dress()
        self._site = self._data.site("robot0:grip")
        self._scene = Scene(self._model, self._data, VIEW, CAMERA, chosen)
        self._initial = self.save()

    def _dress(self) -> None:
        model = self._model
        model.site_rgba[:, 3] = 0
        mocap = model.body("robot0:mocap").id
        for geom in range(model.ngeom):
            if model.geom(geom).name in UNSEEN or model.geom_bodyid[geom] == mocap:
                model.geom_group[geom] = HIDDEN_GROUP
        table = next(g for g in range(model.ngeom) if model.geom_bodyid[g] == model.body("table0").id)
        model.mat_rgba[model.geom_matid[table]] = TABLE_COLOUR

    def reset(self) -> None:
        self.restore(self._initial)

    def step(self, action: Action) -> None:
        x, y, z = np.clip(np.asarray(action, np.float64)[:3] / REACH, -1, 1)
        move = np.array([x, y, z, 0.0], np.float32)
        # What env.step does, less the observation, reward and info that take a third of its time.
        self._env._set_action(move)
        self._env._mujoco_step(move)
        self._env._step_callback()  # ends with mj_forward: without it positions would be one substep old

    def frame(self) -> NDArray[np.uint8]:
        return self._scene.frame()

    def state(self) -> State:
        return np.asarray(self._site.xpos, np.float32).copy()

    def save(self) -> NDArray[np.float64]:
        return self._scene.save()

    def restore(self, saved: NDArray[np.float64]) -> None:
        self._scene.restore(saved)

    def vary(self, variation: Variation) -> None:
        self._scene.vary(variation)

    def close(self) -> None:
        self._scene.close()
        self._env.close()


def _action(move: NDArray[np.floating[Any]]) -> Action:
    action = np.zeros(7, np.float32)
    action[:3] = np.clip(move, -REACH, REACH)
    return action


def sample_goal(rng: np.random.Generator) -> State:
    """Return a gripper position drawn evenly from the workspace box, in metres (3)."""
    goal: State = rng.uniform(LOW, HIGH).astype(np.float32)
    return goal


def data_policy(rng: np.random.Generator) -> Controller:
    """Return a controller that wanders between random waypoints at changing speeds, with noise, and sometimes rests.

    Purely random actions leave the picture within a few steps; the waypoints keep the gripper in the workspace and the
    noise makes every action possible everywhere.
    """
    waypoint, gain, left = sample_goal(rng), 1.0, 0

    def act(state: State) -> Action:
        nonlocal waypoint, gain, left
        if left == 0 or np.linalg.norm(waypoint - state) < 0.025:
            waypoint, gain, left = sample_goal(rng), float(rng.choice([0.0, 0.4, 1.0], p=[0.12, 0.38, 0.5])), 10
            if gain == 0.0:
                left = 3
        left -= 1
        noise = rng.normal(0, 0.015 if gain else 0.002, 3)
        return _action(gain * (waypoint - state) + noise)

    return act


def controller(goal: State) -> Controller:
    """Return the scripted controller: go straight to ``goal``, knowing the gripper's true position."""
    return lambda state: _action(goal - state)


def distance(state: State, goal: State) -> float:
    """Metres between two gripper positions."""
    return float(np.linalg.norm(state[:3] - goal[:3]))


def _span() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Middle and half width of what the workspace fills in the picture: column, row (pixels), distance (metres)."""
    grid = np.stack(np.meshgrid(*[np.linspace(a, b, 9) for a, b in zip(LOW, HIGH, strict=True)]), -1).reshape(-1, 3)
    lower, upper = np.quantile(VIEW.project(grid, CAMERA.height, CAMERA.width), [0.04, 0.96], axis=0)
    return (lower + upper) / 2, (upper - lower) / 2


MIDDLE, HALF = _span()


def place(state: State) -> Placement:
    """Say where the gripper is as seen in the picture."""
    column, row, away = (VIEW.project(state[:3], CAMERA.height, CAMERA.width) - MIDDLE) / HALF
    return Placement(right=float(column), up=float(-row), away=float(away))


TASK = Task(
    name="fetch-reach",
    description="Fetch arm: move the gripper to a position above the table (FetchReach-v4)",
    licence="MIT (gymnasium-robotics, with the robot model it ships)",
    action=ActionSpec(
        low=(-REACH, -REACH, -REACH, 0.0, 0.0, 0.0, 0.0),
        high=(REACH, REACH, REACH, 0.0, 0.0, 0.0, 0.0),
        active=(0, 1, 2),
    ),
    camera=CAMERA,
    states=("gripper x [m]", "gripper y [m]", "gripper z [m]"),
    open=FetchReach,
    data_policy=data_policy,
    sample_goal=sample_goal,
    controller=controller,
    distance=distance,
    place=place,
)
