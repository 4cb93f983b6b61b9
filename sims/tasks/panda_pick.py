"""PandaPickCubeBase-v0 of gym-hil: a Franka arm grasps a cube and holds it at a place in the air.

The physics is gym-hil's, untouched. An action shifts the point that draws the gripper, by metres, and the gripper
follows: it has done two fifths of the way when the next action comes. The last number of an action is the wanted
opening, a fraction: 0 closed, 1 wide open. The environment ignores rotations; the gripper always points down.

The picture is ours: a camera close to the workspace, one colour for the table instead of squares, no lamp that follows
the cube, and of the robot only its gripper: the arm would hide it, and takes most of the drawing. The gripper's case is
drawn as a cylinder for the same reason.
"""

from __future__ import annotations

from functools import partial
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.errors import UserError
from hnet_vjepa.specs import ActionSpec, CameraSpec
from sims.core.disturbance import purposeful
from sims.core.language import Placement
from sims.core.rendering import HIDDEN_GROUP, View, backend
from sims.core.scene import MujocoSimulation, Scene
from sims.core.task import Action, Controller, Simulation, State, Task
from sims.tasks.fetch import placer
from sims.tasks.picking import Picking, Target, noisy

NEEDS = "pip install 'hnet-vjepa[panda]'"
STEP = 0.1  # seconds of an environment step
REACH = 0.05  # metres that an action can shift the drawing point by, in each direction
CLOSED = 0.8  # rad, of the joint that closes the gripper
LYING = 0.02  # height of the middle of a cube that lies on the table, in metres
LOW, HIGH = (0.3, -0.15), (0.5, 0.15)  # metres; where the environment lays the cube
GOALS = (0.175, 0.25)  # heights of the cube, in metres: within the loosest tolerance it is lifted as it must be
ABOVE = (0.03, 0.27)  # heights of the gripper, in metres
# Metres; the gripper stays in it. The environment ends an episode when the cube is 5 cm outside its range.
LOWEST, HIGHEST = (0.25, -0.2, 0.01), (0.55, 0.2, 0.29)
CAMERA = CameraSpec(height=64, width=64, dt=STEP, name="front")
VIEW = View(look_at=(0.4, 0.0, 0.15), distance=0.58, azimuth=180.0, elevation=-30.0)
TABLE_COLOUR, CUBE_COLOUR, PAD_COLOUR = (0.6, 0.48, 0.35, 1.0), (0.85, 0.08, 0.08, 1.0), (0.1, 0.3, 1.0, 1.0)

PICKING = Picking(LOW, HIGH, lying=LYING, lowest=ABOVE[0], highest=ABOVE[1], holding=(0.25, 0.6))


def dress_gripper(model: Any, prefix: str) -> None:
    """Draw a Robotiq 2F-85 with blue pads and a cylinder for its case, above a floor of one colour.

    ``prefix``: of its bodies' names in ``model``. Only geoms that are just drawn (group 2) are changed.
    """
    import mujoco

    for geom in np.flatnonzero(model.geom_group == 2):
        body = model.body(model.geom_bodyid[geom]).name
        if body in (f"{prefix}base_mount", f"{prefix}base"):
            half = model.geom_aabb[geom, 3:]
            model.geom_type[geom], model.geom_dataid[geom] = mujoco.mjtGeom.mjGEOM_CYLINDER, -1
            model.geom_size[geom] = np.sort(half)[1], half[2], 0
        elif body.startswith(prefix) and body.endswith("_pad"):
            model.geom_matid[geom], model.geom_rgba[geom] = -1, PAD_COLOUR
    floor = model.geom("floor").id
    model.geom_matid[floor], model.geom_rgba[floor] = -1, TABLE_COLOUR
    model.geom_size[floor, 2] = 1  # metres between the corners of what a plane is drawn with


ACTION = ActionSpec(
    low=(-REACH, -REACH, -REACH, 0.0, 0.0, 0.0, 0.0),
    high=(REACH, REACH, REACH, 0.0, 0.0, 0.0, 1.0),
    active=(0, 1, 2, 6),
    absolute=(6,),
)


class PandaPick(MujocoSimulation):
    """The running environment behind sims.core.task.Simulation.

    The state is where the cube, the gripper and the point that draws it are (3 x 3, metres), and the gripper's opening.
    """

    def __init__(self) -> None:
        chosen = backend()
        try:
            import mujoco
            from gym_hil.envs.panda_pick_gym_env import PandaPickCubeGymEnv
        except ImportError as error:
            raise UserError(f"gym-hil is not installed: {NEEDS}") from error
        self._mujoco = mujoco
        with mock.patch.object(mujoco, "Renderer"):  # it would draw at once, and stop where there is no OpenGL
            self._env: Any = PandaPickCubeGymEnv(image_obs=False)
        self._env.reset(seed=0)
        self._model, self._data = self._env.model, self._env.data
        self._dress()
        self._cube, self._joint = self._data.body("block"), self._data.joint("block")
        self._grip, self._closing = self._data.site("pinch"), self._data.joint("right_driver_joint")
        self._gripper = self._model.actuator("fingers_actuator").id
        self._scene = Scene(self._model, self._data, VIEW, CAMERA, chosen)
        self._initial = self.save()

    def _dress(self) -> None:
        model = self._model
        model.light_active[1] = 0
        for geom in range(model.ngeom):
            if model.body(model.geom_bodyid[geom]).name.startswith("link"):
                model.geom_group[geom] = HIDDEN_GROUP
        dress_gripper(model, "")
        model.geom("block").rgba = CUBE_COLOUR

    def step(self, action: Action) -> None:
        wanted = np.asarray(action, np.float64)
        closed = self._data.ctrl[self._gripper] / 255
        # The environment takes the change of how far the gripper is closed.
        close = 1 - np.clip(wanted[6], 0, 1) - closed
        self._env.apply_action(np.array([*np.clip(wanted[:3], -REACH, REACH), 0, 0, 0, close]))
        self._mujoco.mj_forward(self._model, self._data)  # else positions would be one substep old

    def put(self, place: NDArray[np.floating[Any]]) -> None:
        """Lay the cube on the table at ``place`` (2, metres), aligned with it and at rest."""
        self._joint.qpos[:] = (*place, LYING, 1, 0, 0, 0)
        self._joint.qvel[:] = 0
        self.restore(self.save())

    def state(self) -> State:
        opening = 1 - self._closing.qpos / CLOSED
        return np.concatenate([self._cube.xpos, self._grip.xpos, self._data.mocap_pos[0], opening]).astype(np.float32)


def _move(state: State, target: Target) -> Action:
    """Return the action that shifts the drawing point towards where the gripper should go."""
    inside = np.clip(target.point, LOWEST, HIGHEST)
    shift, fastest = inside - state[6:9], target.speed * REACH
    action = np.zeros(7, np.float32)
    action[:3] = shift * min(1.0, fastest / max(float(np.abs(shift).max()), 1e-9))
    action[6] = target.opening
    return action


def lifted(state: State) -> bool:
    """Whether the environment says success: the cube is lifted by 10 cm and at the gripper (gym-hil 0.1.14)."""
    return float(state[2]) > LYING + 0.1 and float(np.linalg.norm(state[:3] - state[3:6])) < 0.05


def sample_goal(rng: np.random.Generator) -> State:
    """Return a place of the cube in the air; the rest may be anything (zeros)."""
    goal = np.zeros(10, np.float32)
    goal[:3] = *rng.uniform(LOW, HIGH), rng.uniform(*GOALS)
    return goal


def controller(goal: State) -> Controller:
    """Return the scripted controller: grasp the cube, carry it to its place and hold it there."""
    return lambda state: _move(state, PICKING.carry(state, goal[:3]))


def start(simulation: Simulation, rng: np.random.Generator) -> None:
    """Lay the cube down, take the gripper anywhere above it, and half of the time begin to carry the cube."""
    assert isinstance(simulation, PandaPick)
    simulation.put(rng.uniform(LOW, HIGH))
    above = Target(PICKING.anywhere(rng, 0.07, ABOVE[1]), float(rng.choice([0.0, 1.0, 1.0])))
    for _ in range(5):
        simulation.step(_move(simulation.state(), above))
    control = controller(sample_goal(rng))
    for _ in range(max(0, int(rng.integers(-14, 14)))):
        simulation.step(control(simulation.state()))


def _skill(rng: np.random.Generator) -> Controller:
    return controller(sample_goal(rng))


def mixture(rng: np.random.Generator) -> Controller:
    """Return a controller that carries the cube, lets go of it, sweeps it aside, wanders and rests, with noise."""
    return noisy(PICKING.behave(rng, sample_goal), _move, rng, REACH)


def distance(state: State, goal: State) -> float:
    """Metres between two places of the cube."""
    return float(np.linalg.norm(state[:3] - goal[:3]))


_place = placer(VIEW, CAMERA, np.array([*LOW, LYING]), np.array([*HIGH, GOALS[1]]))


def place(state: State) -> Placement:
    """Say where the cube is as seen in the picture."""
    return _place(state[:3])


TASK = Task(
    name="panda-pick",
    description="Franka arm: grasp a cube and hold it at a place in the air (gym_hil/PandaPickCubeBase-v0)",
    licence="Apache-2.0 (gym-hil, with the robot models it ships)",
    action=ACTION,
    camera=CAMERA,
    states=(
        *(f"cube {axis} [m]" for axis in "xyz"),
        *(f"gripper {axis} (m)" for axis in "xyz"),
        *(f"drawing point {axis} (m)" for axis in "xyz"),
        "gripper opening",
    ),
    open=PandaPick,
    data_policy=partial(purposeful, _skill, mixture, ACTION),
    sample_goal=sample_goal,
    controller=controller,
    distance=distance,
    place=place,
    start=start,
    subject="cube",
    tolerances=(0.05, 0.03),  # the environment asks for a lift only, which both imply for goals of this height
    min_goal_distance=0.1,
    collect_frames=26,
    settle_steps=22,
    evaluation_steps=24,
    needs=NEEDS,
)
