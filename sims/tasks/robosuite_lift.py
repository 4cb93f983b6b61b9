"""Lift of robosuite: a Franka arm, moved by its gripper's pose (OSC_POSE), grasps a cube and lifts it to a place.

Physics and controller are robosuite's, untouched, at 15 Hz as DROID's robots are controlled. An action lasts INTERVAL
steps, each with an equal share: the gripper is asked to go up to 5 cm in a step, gets up to 1.6 cm far, and needs two
steps to stop. Rotations are not offered, so the gripper points down. The last number of an action is the wanted
opening, a fraction: 0 closed, 1 wide open; the fingers need five actions from one to the other. The cube is laid within
18 x 24 cm, where the environment's own range is 6 x 6.

The picture is ours: a camera close to the workspace, and what is drawn are the shapes that collide, of the robot the
hand only: robosuite's own look has 300 000 corners.
"""

from __future__ import annotations

import contextlib
import io
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
from sims.tasks.panda_pick import CUBE_COLOUR, PAD_COLOUR, TABLE_COLOUR
from sims.tasks.picking import Picking, Target, noisy

NEEDS = "pip install --no-deps robosuite==1.5.2 && pip install numba termcolor"  # it pins an old numpy otherwise
INTERVAL = 2  # environment steps in one action
RATE = 15  # environment steps in a second
REACH = 0.05  # metres that the environment asks of the arm for an action of 1
MOST = INTERVAL * REACH  # metres asked by the largest action
GAIN = 1.6  # asked over wanted: more would swing
SPEED = 0.1  # of the wanted opening, in one step of the environment
WIDE = 0.08  # metres between the fingers when the gripper is wide open
TABLE = 0.8  # height of the table, in metres
LYING = TABLE + 0.02  # height of the middle of a cube that lies on it
LIFTED = TABLE + 0.04  # height of the cube above which the environment says success (robosuite 1.5.2, lift.py)
LOW, HIGH = (-0.1, -0.12), (0.08, 0.12)  # metres; the range of the cube
GOALS = (TABLE + 0.1, TABLE + 0.18)  # heights of the cube: within the loosest tolerance it is lifted as it must be
LOWEST, HIGHEST = (-0.15, -0.17, TABLE + 0.01), (0.13, 0.17, TABLE + 0.24)  # metres; the gripper stays in it
PICKING = Picking(LOW, HIGH, lying=LYING, lowest=TABLE + 0.03, highest=TABLE + 0.2, holding=(0.4, 0.68), grasp=0.015)
CAMERA = CameraSpec(height=64, width=64, dt=INTERVAL / RATE, name="front")
VIEW = View(look_at=(-0.01, 0.0, TABLE + 0.1), distance=0.56, azimuth=180.0, elevation=-38.0)
ACTION = ActionSpec(
    low=(-MOST, -MOST, -MOST, 0.0, 0.0, 0.0, 0.0),
    high=(MOST, MOST, MOST, 0.0, 0.0, 0.0, 1.0),
    active=(0, 1, 2, 6),
    absolute=(6,),
)


class RobosuiteLift(MujocoSimulation):
    """The running environment behind sims.core.task.Simulation.

    The state is where the cube and the gripper are (2 x 3, metres), and the gripper's opening.
    """

    def __init__(self) -> None:
        chosen = backend()
        with contextlib.redirect_stderr(io.StringIO()):  # notices about robots and settings that are not used here
            try:
                import mujoco
                from robosuite.environments.manipulation.lift import Lift
            except ImportError as error:
                raise UserError(f"robosuite is not installed: {NEEDS}") from error
            self._env: Any = Lift(
                robots="Panda",
                control_freq=RATE,
                has_renderer=False,
                has_offscreen_renderer=False,
                use_camera_obs=False,
                use_object_obs=False,
                initialization_noise=None,
                ignore_done=True,
                seed=0,  # of the cube's size and first place
            )
        self._mujoco, self._sim = mujoco, self._env.sim
        self._model, self._data = self._sim.model._model, self._sim.data._data
        robot = self._env.robots[0]
        self._controller: Any = robot.composite_controller
        self._controller.update_state()  # tells it where the robot stands, for ever
        self._parts = [
            (part, actuators, *self._model.actuator_ctrlrange[actuators].T)
            for name, part in self._controller.part_controllers.items()
            for actuators in [robot._ref_actuators_indexes_dict[name]]
        ]
        self._fingers: Any = self._controller.grippers["right_gripper"]
        self._substeps = int(self._env.control_timestep / self._env.model_timestep)
        self._dress()
        self._cube, self._joint = self._data.body("cube_main"), self._data.joint("cube_joint0")
        self._grip = self._data.site("gripper0_right_grip_site")
        self._opening = [self._data.joint(f"gripper0_right_finger_joint{i}") for i in (1, 2)]
        self._scene = Scene(self._model, self._data, VIEW, CAMERA, chosen)
        self._fingers.current_action = np.zeros(2)  # before its first action it has one number
        for _ in range(10):
            self.step(_move(self.state(), Target(np.array([0.0, 0.0, TABLE + 0.14]), 1.0)))
        self.put(np.array([0.0, 0.0]))
        self._initial = self.save()

    def _dress(self) -> None:
        model = self._model
        model.site_rgba[:, 3] = 0
        colours = {"table": TABLE_COLOUR, "cube_main": CUBE_COLOUR, "gripper0_right_right_gripper": (0.1, 0.1, 0.1, 1)}
        for geom in range(model.ngeom):
            body = model.body(model.geom_bodyid[geom]).name
            if model.geom_group[geom] != 0 or body.startswith(("robot0", "fixed_mount0")):
                model.geom_group[geom] = HIDDEN_GROUP
            model.geom_rgba[geom] = colours.get(body, PAD_COLOUR)

    def step(self, action: Action) -> None:
        wanted = np.asarray(action, np.float64)
        move = np.clip(wanted[:3] / MOST, -1, 1)
        for _ in range(INTERVAL):
            # The environment opens or closes the fingers by a fixed amount, or leaves them.
            more = np.clip(wanted[6], 0, 1) - (self._fingers.current_action[0] + 1) / 2
            self._control(np.array([*move, 0, 0, 0, -np.sign(more) if abs(more) > SPEED / 2 else 0]))
        self._mujoco.mj_forward(self._model, self._data)

    def _control(self, action: NDArray[np.float64]) -> None:
        """Do what env.step does, less the observations, checks and records that take half of its time."""
        for i in range(self._substeps):
            self._sim.step1()
            if i == 0:
                self._controller.set_goal(action)
            for part, actuators, low, high in self._parts:
                self._data.ctrl[actuators] = np.clip(part.run_controller(), low, high)
            self._sim.step2()

    def put(self, place: NDArray[np.floating[Any]], angle: float = 0.0) -> None:
        """Lay the cube on the table at ``place`` (2, metres), turned by ``angle`` (rad) and at rest."""
        self._joint.qpos[:] = (*place, LYING, np.cos(angle / 2), 0, 0, np.sin(angle / 2))
        self._joint.qvel[:] = 0
        self.restore(self.save())

    def state(self) -> State:
        opening = [(self._opening[0].qpos[0] - self._opening[1].qpos[0]) / WIDE]
        return np.concatenate([self._cube.xpos, self._grip.xpos, opening]).astype(np.float32)

    def save(self) -> NDArray[np.float64]:
        # How far the fingers are told to open is all that robosuite keeps outside MuJoCo from one action to the next.
        return np.concatenate([super().save(), self._fingers.current_action])

    def restore(self, saved: NDArray[np.float64]) -> None:
        super().restore(saved[:-2])
        self._fingers.current_action = saved[-2:].copy()


def _move(state: State, target: Target) -> Action:
    """Return the action that takes the gripper towards where it should go."""
    asked, fastest = GAIN * (np.clip(target.point, LOWEST, HIGHEST) - state[3:6]), target.speed * MOST
    action = np.zeros(7, np.float32)
    action[:3] = asked * min(1.0, fastest / max(float(np.abs(asked).max()), 1e-9))
    action[6] = target.opening
    return action


def lifted(state: State) -> bool:
    """Whether the environment says success."""
    return float(state[2]) > LIFTED


def sample_goal(rng: np.random.Generator) -> State:
    """Return a place of the cube in the air; the rest may be anything (zeros)."""
    goal = np.zeros(7, np.float32)
    goal[:3] = *rng.uniform(LOW, HIGH), rng.uniform(*GOALS)
    return goal


def controller(goal: State) -> Controller:
    """Return the scripted controller: grasp the cube, lift it to its place and hold it there."""
    return lambda state: _move(state, PICKING.carry(state, goal[:3]))


def start(simulation: Simulation, rng: np.random.Generator) -> None:
    """Lay the cube down, take the gripper anywhere above it, and half of the time begin to carry the cube."""
    assert isinstance(simulation, RobosuiteLift)
    simulation.put(rng.uniform(LOW, HIGH), rng.uniform(-0.3, 0.3))
    above = Target(PICKING.anywhere(rng, TABLE + 0.08, PICKING.highest), float(rng.choice([0.0, 1.0, 1.0])))
    for _ in range(4):
        simulation.step(_move(simulation.state(), above))
    control = controller(sample_goal(rng))
    for _ in range(max(0, int(rng.integers(-12, 12)))):
        simulation.step(control(simulation.state()))


def _skill(rng: np.random.Generator) -> Controller:
    return controller(sample_goal(rng))


def mixture(rng: np.random.Generator) -> Controller:
    """Return a controller that carries the cube, lets go of it, sweeps it aside, wanders and rests, with noise."""
    return noisy(PICKING.behave(rng, sample_goal), _move, rng, MOST)


def distance(state: State, goal: State) -> float:
    """Metres between two places of the cube."""
    return float(np.linalg.norm(state[:3] - goal[:3]))


_place = placer(VIEW, CAMERA, np.array([*LOW, LYING]), np.array([*HIGH, GOALS[1]]))


def place(state: State) -> Placement:
    """Say where the cube is as seen in the picture."""
    return _place(state[:3])


TASK = Task(
    name="robosuite-lift",
    description="Franka arm at 15 Hz: grasp a cube and lift it to a place in the air (robosuite, Lift)",
    licence="MIT (robosuite, with the robot models it ships)",
    action=ACTION,
    camera=CAMERA,
    states=(*(f"cube {axis} [m]" for axis in "xyz"), *(f"gripper {axis} (m)" for axis in "xyz"), "gripper opening"),
    open=RobosuiteLift,
    data_policy=partial(purposeful, _skill, mixture, ACTION),
    sample_goal=sample_goal,
    controller=controller,
    distance=distance,
    place=place,
    start=start,
    subject="cube",
    tolerances=(0.05, 0.03),  # the environment asks for a lift of 4 cm only, which both imply for goals of this height
    min_goal_distance=0.1,
    collect_frames=26,
    settle_steps=24,
    evaluation_steps=26,
    interval=INTERVAL,
    needs=NEEDS,
)
