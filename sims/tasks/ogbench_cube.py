"""cube-single-v0 of OGBench: a UR5e arm takes a cube from one place on the table to another.

The physics is OGBench's, untouched. Its action says where the gripper should be, from where it is: the arm does two
fifths of that in one step of the environment, and stops at once (but for its weight, which makes it sag slowly). An
action here lasts INTERVAL steps, each with an equal share: the gripper then moves up to 8.7 cm. The sixth number turns
the gripper about the vertical, and the last one is its wanted opening, a fraction: 0 closed, 1 wide open. Cubes and
goals are where those of the five tasks are by which OGBench evaluates: within 0.15 x 0.4 m; angles do not count there.

The picture is ours: a camera close to the workspace, no target (the goal would be visible), one colour for the table,
and of the robot only its gripper: the arm takes nine tenths of the drawing.
"""

from __future__ import annotations

from functools import partial
from typing import Any

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
from sims.tasks.panda_pick import CUBE_COLOUR, dress_gripper
from sims.tasks.picking import Picking, Target, noisy

NEEDS = "pip install 'hnet-vjepa[ogbench]'"
INTERVAL = 4  # environment steps in one action
STEP = 0.05  # seconds of an environment step
REACH, TURN = 0.05, 0.3  # metres and rad that the environment asks of the arm for an action of 1
MOST, MOST_TURN = INTERVAL * REACH, INTERVAL * TURN  # asked by the largest action
GAIN, TURN_GAIN = 2.3, 4.4  # asked over done
CLOSED = 0.8  # rad, of the joint that closes the gripper
LOW, HIGH = (0.35, -0.2), (0.5, 0.2)  # metres; the range of cubes and goals
LYING = 0.02  # height of the middle of a cube that lies on the table, in metres
LOWEST, HIGHEST = (0.3, -0.25, LYING), (0.55, 0.25, 0.2)  # metres; the gripper stays in it
TWISTED = 1.0  # rad, from where the fingers are left and right in the picture; beyond it the gripper turns back
PICKING = Picking(LOW, HIGH, lying=LYING, lowest=0.03, highest=0.18, holding=(0.3, 0.6))
CAMERA = CameraSpec(height=64, width=64, dt=INTERVAL * STEP, name="front")
VIEW = View(look_at=(0.44, 0.0, 0.08), distance=0.6, azimuth=180.0, elevation=-38.0)
ACTION = ActionSpec(
    low=(-MOST, -MOST, -MOST, 0.0, 0.0, -MOST_TURN, 0.0),
    high=(MOST, MOST, MOST, 0.0, 0.0, MOST_TURN, 1.0),
    active=(0, 1, 2, 5, 6),
    absolute=(6,),
)


class OgbenchCube(MujocoSimulation):
    """The running environment behind sims.core.task.Simulation.

    The state is where the cube and the gripper are (2 x 3, metres), how both are turned (rad; a cube looks the same
    every quarter turn, the gripper every half), and the gripper's opening.
    """

    def __init__(self) -> None:
        chosen = backend()
        try:
            import mujoco
            from ogbench.manipspace.envs.cube_env import CubeEnv
        except ImportError as error:
            raise UserError(f"OGBench is not installed: {NEEDS}") from error
        self._mujoco = mujoco
        # In this mode a reset is the same for the same seed. Without a picture of its own, it draws none.
        self._env: Any = CubeEnv("single", mode="data_collection", visualize_info=False)
        self._env.reset(seed=0)
        self._model, self._data = self._env.model, self._env.data
        self._dress()
        self._cube, self._joint = self._data.body("object_0"), self._data.joint("object_joint_0")
        self._grip, self._closing = (
            self._data.site("ur5e/robotiq/pinch"),
            self._data.joint("ur5e/robotiq/right_driver_joint"),
        )
        self._scene = Scene(self._model, self._data, VIEW, CAMERA, chosen)
        for _ in range(8):
            self.step(_move(self.state(), Target(np.array([0.43, 0.0, 0.15]), 1.0)))
        self.put(np.array([0.43, 0.0]))
        self._initial = self.save()

    def _dress(self) -> None:
        model = self._model
        for geom in range(model.ngeom):
            body = model.body(model.geom_bodyid[geom]).name
            if body == "object_target_0" or (body.startswith("ur5e/") and not body.startswith("ur5e/robotiq/")):
                model.geom_group[geom] = HIDDEN_GROUP
        dress_gripper(model, "ur5e/robotiq/")
        self._env._cube_colors[0] = CUBE_COLOUR  # the environment paints it anew at every step
        model.geom("object_0").rgba = CUBE_COLOUR

    def step(self, action: Action) -> None:
        wanted = np.asarray(action, np.float64)
        share = np.clip(wanted[[0, 1, 2, 5]] / [MOST, MOST, MOST, MOST_TURN], -1, 1)
        for _ in range(INTERVAL):
            # What env.step does, less the observation, reward and info that take half of its time. The environment
            # takes the change of how far the gripper is closed.
            close = 1 - np.clip(wanted[6], 0, 1) - np.clip(self._closing.qpos[0] / CLOSED, 0, 1)
            self._env.set_control(np.array([*share, close]))
            self._mujoco.mj_step(self._model, self._data, nstep=self._env._n_steps)
            # The environment's controller starts from positions that are one step of the physics old. Made current,
            # they follow from the saved state.
            self._mujoco.mj_forward(self._model, self._data)

    def put(self, place: NDArray[np.floating[Any]], angle: float = 0.0) -> None:
        """Lay the cube on the table at ``place`` (2, metres), turned by ``angle`` (rad) and at rest."""
        self._joint.qpos[:] = (*place, LYING, np.cos(angle / 2), 0, 0, np.sin(angle / 2))
        self._joint.qvel[:] = 0
        self.restore(self.save())

    def state(self) -> State:
        angles = [_quarter(_heading(self._cube.xmat)), _half(_heading(self._grip.xmat))]
        opening = 1 - self._closing.qpos / CLOSED
        return np.concatenate([self._cube.xpos, self._grip.xpos, angles, opening]).astype(np.float32)


def _heading(rotation: NDArray[np.float64]) -> float:
    """Angle about the vertical of a body's x axis (rad), from its rotation (9)."""
    return float(np.arctan2(rotation[3], rotation[0]))


def _quarter(angle: float) -> float:
    """The smallest angle that looks the same on a cube: within an eighth turn (rad)."""
    return float((angle + np.pi / 4) % (np.pi / 2) - np.pi / 4)


def _half(angle: float) -> float:
    """The smallest angle that looks the same on a gripper with two fingers: within a quarter turn (rad)."""
    return float((angle + np.pi / 2) % np.pi - np.pi / 2)


def _move(state: State, target: Target) -> Action:
    """Return the action that takes the gripper towards where it should go, and turns it square to the cube.

    A gripper that holds the cube, or is far from it, is turned ahead instead.
    """
    near = np.linalg.norm(state[:2] - state[3:5]) < 0.1 and not PICKING.held(state)
    turn = _quarter(state[6] - state[7]) if near and abs(state[7]) < TWISTED else -float(state[7])
    asked, fastest = GAIN * (np.clip(target.point, LOWEST, HIGHEST) - state[3:6]), target.speed * MOST
    action = np.zeros(7, np.float32)
    action[:3] = asked * min(1.0, fastest / max(float(np.abs(asked).max()), 1e-9))
    action[5] = np.clip(TURN_GAIN * turn, -MOST_TURN, MOST_TURN)
    action[6] = target.opening
    return action


def sample_goal(rng: np.random.Generator) -> State:
    """Return a place of the cube on the table; the rest may be anything (zeros)."""
    goal = np.zeros(9, np.float32)
    goal[:3] = *rng.uniform(LOW, HIGH), LYING
    return goal


def _carried(rng: np.random.Generator) -> State:
    """A goal of collected episodes: on the table, or in the air above it."""
    goal = sample_goal(rng)
    goal[2] = rng.choice([LYING, rng.uniform(LYING, PICKING.highest)])
    return goal


def controller(goal: State) -> Controller:
    """Return the scripted controller: grasp the cube, carry it to its place and let go of it."""
    return lambda state: _move(state, PICKING.carry(state, goal[:3]))


def start(simulation: Simulation, rng: np.random.Generator) -> None:
    """Lay the cube down, take the gripper anywhere above it, and half of the time begin to carry the cube."""
    assert isinstance(simulation, OgbenchCube)
    simulation.put(rng.uniform(LOW, HIGH), rng.uniform(-np.pi / 4, np.pi / 4))
    above = Target(PICKING.anywhere(rng, 0.09, PICKING.highest), float(rng.choice([0.0, 1.0, 1.0])))
    for _ in range(4):
        simulation.step(_move(simulation.state(), above))
    control = controller(sample_goal(rng))
    for _ in range(max(0, int(rng.integers(-12, 12)))):
        simulation.step(control(simulation.state()))


def _skill(rng: np.random.Generator) -> Controller:
    return controller(sample_goal(rng))


def mixture(rng: np.random.Generator) -> Controller:
    """Return a controller that carries the cube, lets go of it, sweeps it aside, wanders and rests, with noise."""
    act = noisy(PICKING.behave(rng, _carried), _move, rng, MOST)
    turn = 0.0

    def turning(state: State) -> Action:
        nonlocal turn
        turn = 0.8 * turn + rng.normal(0, 0.15)
        action = act(state)
        action[5] += MOST_TURN * turn
        return action

    return turning


def distance(state: State, goal: State) -> float:
    """Metres between two places of the cube."""
    return float(np.linalg.norm(state[:3] - goal[:3]))


_place = placer(VIEW, CAMERA, np.array([*LOW, LYING]), np.array([*HIGH, LYING]))


def place(state: State) -> Placement:
    """Say where the cube is as seen in the picture."""
    return _place(state[:3])


TASK = Task(
    name="ogbench-cube",
    description="UR5e arm: take a cube to another place on the table (OGBench, cube-single-v0)",
    licence="MIT (ogbench, with the robot models it ships)",
    action=ACTION,
    camera=CAMERA,
    states=(
        *(f"cube {axis} [m]" for axis in "xyz"),
        *(f"gripper {axis} (m)" for axis in "xyz"),
        "cube yaw (rad)",
        "gripper yaw (rad)",
        "gripper opening",
    ),
    open=OgbenchCube,
    data_policy=partial(purposeful, _skill, mixture, ACTION),
    sample_goal=sample_goal,
    controller=controller,
    distance=distance,
    place=place,
    start=start,
    subject="cube",
    tolerances=(0.04, 0.02),  # 0.04 is the environment's (ogbench 1.2.2, cube_env.py)
    min_goal_distance=0.1,
    collect_frames=16,  # the script takes 7 actions, at most 10; what follows is rest
    settle_steps=16,
    evaluation_steps=18,
    interval=INTERVAL,
    needs=NEEDS,
)
