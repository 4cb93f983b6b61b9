"""What the Fetch tasks of gymnasium-robotics share: the arm, its dress, its steps and where things are in the picture.

The physics is Gymnasium's, untouched. The picture is ours: a camera close to the workspace instead of one that shows
the whole robot, no goal marker (the goal would be visible), a table in another colour than the gripper, and the parts
hidden that the camera hardly sees but that cost most of the drawing (laser, emergency stop, head, base).
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.specs import CameraSpec
from sims.core.language import Placement
from sims.core.rendering import HIDDEN_GROUP, View, backend
from sims.core.scene import MujocoSimulation, Scene
from sims.core.task import Action, State

REACH = (
    0.05  # metres that the environment asks of the arm for an action of 1; the gripper does about two thirds in a step
)
STEP = 0.04  # seconds of an environment step
INTERVAL = 2  # environment steps in one action of the tasks with a cube
ACTIONS = 50 // INTERVAL  # that fill an episode of the environments, which end after 50 steps (max_episode_steps)
MOST = INTERVAL * REACH  # metres asked in each direction by the largest action of these tasks
GAIN = 1.5  # asked over wanted: the gripper does two thirds of what it is asked
RANGE = 0.15  # the environments' obj_range and target_range: metres from the middle within which cubes and goals are
APART = 0.1  # metres from gripper to cube at the start, at least, as in the environments
PARKED = np.array([1.1, 0.45])  # where the cube waits until the gripper is at its start
LYING = 0.425  # height of the middle of a cube that lies on the table, in metres
UNSEEN = ("robot0:laser_link", "robot0:estop_link", "robot0:head_pan_link", "robot0:head_tilt_link", "robot0:base_link")
TABLE_COLOUR = (0.72, 0.58, 0.42, 1.0)
CUBE_COLOUR = (0.85, 0.08, 0.08, 1.0)
FINGER_COLOUR = (0.1, 0.3, 1.0, 1.0)
ARM = (
    "gripper_link",
    "wrist_roll_link",
    "wrist_flex_link",
    "forearm_roll_link",
    "elbow_flex_link",
    "upperarm_roll_link",
)
FINGERS = ("r_gripper_finger_link", "l_gripper_finger_link")
CUBE_STATES = ("cube x [m]", "cube y [m]", "cube z [m]", "gripper x (m)", "gripper y (m)", "gripper z (m)")


def towards(move: NDArray[np.floating[Any]], opening: float = 0.0) -> Action:
    """Return the action for a wanted move of the gripper (3, metres), shortened to MOST, and its opening (0 to 1)."""
    action = np.zeros(7, np.float32)
    asked = GAIN * move
    action[:3] = asked * min(1.0, MOST / max(float(np.abs(asked).max()), 1e-9))
    action[6] = np.clip(opening, 0, 1)
    return action


def placer(
    view: View, camera: CameraSpec, low: NDArray[np.floating[Any]], high: NDArray[np.floating[Any]]
) -> Callable[[NDArray[np.floating[Any]]], Placement]:
    """Return what says where a point (3, metres) is as seen in the picture; the box ``low`` to ``high`` spans it."""
    grid = np.stack(np.meshgrid(*[np.linspace(a, b, 9) for a, b in zip(low, high, strict=True)]), -1).reshape(-1, 3)
    lower, upper = np.quantile(view.project(grid, camera.height, camera.width), [0.04, 0.96], axis=0)
    middle, half = (lower + upper) / 2, (upper - lower) / 2

    def place(point: NDArray[np.floating[Any]]) -> Placement:
        column, row, away = (view.project(point, camera.height, camera.width) - middle) / half
        return Placement(right=float(column), up=float(-row), away=float(away))

    return place


class Fetch(MujocoSimulation):
    """A running Fetch environment behind sims.core.task.Simulation; the state is the gripper's position (3, metres).

    ``make`` imports and makes the environment. An action does ``interval`` steps of it, each with an equal share.
    """

    def __init__(self, make: Callable[[], Any], view: View, camera: CameraSpec, interval: int = 1) -> None:
        chosen = backend()
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # notices about other environments
            warnings.simplefilter("ignore")
            self._env = make()
        self._env.reset(seed=0)
        self._model, self._data = self._env.model, self._env.data
        self._interval = interval
        self._dress()
        self._site = self._data.site("robot0:grip")
        self._scene = Scene(self._model, self._data, view, camera, chosen)
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

    def step(self, action: Action) -> None:
        x, y, z = np.clip(np.asarray(action, np.float64)[:3] / (self._interval * REACH), -1, 1)
        for _ in range(self._interval):
            self._move(np.array([x, y, z, 0.0], np.float32))

    def _move(self, move: NDArray[np.float32]) -> None:
        # What env.step does, less the observation, reward and info that take a third of its time.
        self._env._set_action(move)
        self._env._mujoco_step(move)
        self._env._step_callback()  # ends with mj_forward: without it positions would be one substep old

    def state(self) -> State:
        return np.asarray(self._site.xpos, np.float32).copy()


class FetchCube(Fetch):
    """A Fetch environment with a cube; the state is the cube's and the gripper's position (6, metres).

    Of the arm only the fingers are drawn. The hand, 12 cm wide, hides the cube of 5 cm from every side from which a
    camera sees the table well, and it is most of what changes in a picture, where what counts is two pixels wide.
    """

    def __init__(self, make: Callable[[], Any], view: View, camera: CameraSpec) -> None:
        super().__init__(make, view, camera, INTERVAL)
        self._cube, self._joint = self._data.site("object0"), self._data.joint("object0:joint")

    def _dress(self) -> None:
        super()._dress()
        model = self._model
        model.mat_rgba[model.mat("block_mat").id] = CUBE_COLOUR
        for name in ARM:
            model.geom_group[model.geom(f"robot0:{name}").id] = HIDDEN_GROUP
        for name in FINGERS:
            model.geom_rgba[model.geom(f"robot0:{name}").id] = FINGER_COLOUR

    def put(self, place: NDArray[np.floating[Any]]) -> None:
        """Lay the cube on the table at ``place`` (2, metres), aligned with it and at rest."""
        self._joint.qpos[:] = (*place, LYING, 1, 0, 0, 0)
        self._joint.qvel[:] = 0
        self.restore(self.save())

    def lay_out(
        self, rng: np.random.Generator, middle: NDArray[np.float64], height: float, opening: float = 0.0
    ) -> None:
        """Take the gripper anywhere above the range around ``middle``, and put the cube anywhere in it but below it."""
        self.put(PARKED)
        above = np.array([*(middle + rng.uniform(-RANGE, RANGE, 2)), height])
        for _ in range(8):
            self.step(towards(above - self.state()[3:6], opening))
        gripper = self.state()[3:5].astype(np.float64)
        cube = gripper
        while np.linalg.norm(cube - gripper) < APART:
            cube = middle + rng.uniform(-RANGE, RANGE, 2)
        self.put(cube)

    def state(self) -> State:
        return np.concatenate([self._cube.xpos, self._site.xpos]).astype(np.float32)
