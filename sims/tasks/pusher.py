"""Pusher-v5 of Gymnasium: an arm of seven joints, driven by torques, pushes a cylinder over a table.

The physics is Gymnasium's, untouched; how hard and how often the joints are driven is ours. In this model the cylinder
weighs 8 mg and is held back by a damping of 0.5 N s/m: it stops where it is let go, and what pushes it sinks into it.
At 0.05 m/s a hand is pressed in by 1.6 cm; at 0.1 m/s it goes through and leaves the cylinder behind. So an action
takes 0.2 s, and the torques are those of a slow arm: the environment's 2 N m throw the hand across the table.
"""

from __future__ import annotations

from functools import partial
from typing import cast

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.specs import ActionSpec, CameraSpec
from sims.core.disturbance import purposeful
from sims.core.language import Placement
from sims.core.rendering import HIDDEN_GROUP, View, backend
from sims.core.scene import MujocoSimulation, Scene
from sims.core.task import Action, Controller, Simulation, State, Task

Numbers = NDArray[np.float64]

JOINTS = ("shoulder pan", "shoulder lift", "upper arm roll", "elbow", "forearm roll", "wrist flex", "wrist roll")
TORQUES = np.array([0.8, 0.8, 0.15, 0.25, 0.05, 0.05, 0.05])  # N m that an action may ask of each joint, both ways
INTERVAL = 4  # environment steps in one action
DT = 0.05 * INTERVAL  # seconds in one action

# The robot model. Places on the table are given around the axis of the first joint: radius (m) and bearing (rad).
AXIS = np.array([0.0, -0.6])  # m
SHOULDER, UPPER_ARM, FOREARM = 0.1, 0.4, 0.321  # m from the axis to the shoulder, on to the elbow, on to the wrist
INERTIA = np.diag([0.5, 0.5, 0.08, 0.092, 0.042, 0.041, 0.041])  # kg m2, in the middle of the workspace
INERTIA[[0, 2], [2, 0]], INERTIA[[1, 3], [3, 1]] = -0.09, 0.06
DAMPING = np.array([1.0, 1.0, 0.1, 0.1, 0.1, 0.1, 0.1])  # N m s
SEAT, SLACK = 0.07, 0.03  # m from the wrist to a cylinder that it touches: ahead; to either side, between the prongs

LOW, HIGH = -0.275, -0.15  # m, heights of the wrist at which the hand pushes the cylinder and passes over it
START_RADII, START_BEARINGS = (0.56, 0.72), (0.45, 1.12)  # where the cylinder is at first
GOAL_RADII, GOAL_BEARINGS = (0.66, 0.82), (0.38, 1.19)  # and where it is to be pushed: farther out
FAST, PUSHING, GIVE = 0.35, 0.2, 0.03  # m/s through the air; m/s against no resistance; m pressed in that stop a push
CAMERA = CameraSpec(height=64, width=64, dt=DT, name="over-shoulder")
VIEW = View(look_at=(0.46, -0.14, -0.3), distance=0.96, azimuth=45.0, elevation=-65.0)
TABLE_COLOUR, ARM_COLOUR = (0.78, 0.68, 0.52, 1.0), (0.55, 0.58, 0.62, 1.0)
COLOURS = {
    "object": (0.85, 0.1, 0.1, 1.0),
    "tips_arm": (0.1, 0.2, 0.7, 1.0),
    "r_wrist_roll_link": (0.1, 0.2, 0.7, 1.0),
}
ACTION = ActionSpec(
    names=JOINTS,
    units=("N m",) * 7,
    low=tuple((-TORQUES).tolist()),
    high=tuple(TORQUES.tolist()),
    active=tuple(range(7)),
)


class Pusher(MujocoSimulation):
    """The running environment behind sims.core.task.Simulation."""

    def __init__(self) -> None:
        chosen = backend()
        import mujoco
        from gymnasium.envs.mujoco.pusher_v5 import PusherEnv

        self._mujoco, self._env = mujoco, PusherEnv()
        self._model, self._data = self._env.model, self._env.data
        self._dress()
        self._wrist, self._object = self._data.body("tips_arm"), self._data.body("object")
        self._middle = self._model.body("object").pos[:2].copy()
        self._scene = Scene(self._model, self._data, VIEW, CAMERA, chosen)
        self._env.reset(seed=0)
        self.arrange(posture(0.48, np.pi / 4, LOW), polar(0.62, np.pi / 4))
        self._initial = self.save()

    def _dress(self) -> None:
        model = self._model
        for geom in range(model.ngeom):
            body = model.body(model.geom_bodyid[geom]).name
            model.geom_rgba[geom] = COLOURS.get(body, ARM_COLOUR)
            if body == "goal":
                model.geom_group[geom] = HIDDEN_GROUP
        model.geom("table").rgba = TABLE_COLOUR

    def arrange(self, angles: Numbers, cylinder: Numbers) -> None:
        """Put the arm at rest at joint ``angles`` (7, rad) and the cylinder at ``cylinder`` (x, y, metres)."""
        slides = (cylinder - self._middle)[::-1]  # the model's first slide is along y
        self._env.set_state(np.concatenate([angles, slides, [0.0, 0.0]]), np.zeros(11))

    def touching(self) -> bool:
        """Say whether the arm touches the cylinder."""
        bodies = self._model.geom_bodyid[self._data.contact.geom]  # contacts x 2
        return bool(((bodies == self._object.id).any(1) & (bodies > 0).all(1)).any())

    def step(self, action: Action) -> None:
        torque = np.clip(np.asarray(action, np.float64), -TORQUES, TORQUES)
        # What INTERVAL calls of env.step do, less the observations and rewards.
        self._env.do_simulation(torque, self._env.frame_skip * INTERVAL)
        self._mujoco.mj_kinematics(self._model, self._data)  # positions would be one physics step old

    def state(self) -> State:
        data = self._data
        numbers = [self._object.xpos[:2], self._wrist.xpos, data.qpos[:7], data.qvel[:7]]
        return np.concatenate(numbers).astype(np.float32)


def polar(radius: float, bearing: float) -> Numbers:
    """Return x and y (metres) of a place on the table."""
    return AXIS + radius * np.array([np.cos(bearing), np.sin(bearing)])


def around(place: Numbers) -> tuple[float, float]:
    """Return the radius and the bearing of x and y."""
    x, y = place - AXIS
    return float(np.hypot(x, y)), float(np.arctan2(y, x))


def posture(radius: float, bearing: float, height: float) -> Numbers:
    """Return the joint angles (7, rad) of an untwisted arm whose wrist is at a place, its prongs as level as can be."""
    ahead = radius - SHOULDER
    reach = np.clip(np.hypot(ahead, height), 0.3, 0.999 * (UPPER_ARM + FOREARM))
    elbow = -np.arccos((reach**2 - UPPER_ARM**2 - FOREARM**2) / (2 * UPPER_ARM * FOREARM))
    lift = np.arctan2(-height, ahead) + np.arctan2(-FOREARM * np.sin(elbow), UPPER_ARM + FOREARM * np.cos(elbow))
    lift = min(lift, 1.39)  # where the shoulder stops
    return np.array([bearing, lift, 0.0, elbow, 0.0, np.clip(-lift - elbow, -1.09, 0.0), 0.0])


def _go(state: State, target: Numbers, speed: float, twist: Numbers | float = 0.0) -> Numbers:
    """Return the torques (7, N m) that move the wrist towards ``target`` (radius, bearing, height).

    At up to ``speed`` (m/s), slower when it comes near. ``twist`` is added to the joint angles of an untwisted arm.
    """
    wrist, angles, speeds = np.split(state[2:].astype(np.float64), (3, 10))
    move = np.array([*polar(target[0], target[1]), target[2]]) - wrist
    next_wrist = wrist + move * min(0.6, speed * DT / max(1e-9, float(np.linalg.norm(move))))
    turn = np.clip(posture(*around(next_wrist[:2]), next_wrist[2]) + twist - angles, -0.2, 0.2)
    return INERTIA @ (turn / DT - speeds) / (1.2 * DT) + DAMPING * speeds


def _push(state: State, goal: Numbers, pace: float = 1.0) -> tuple[Numbers, float]:
    """Return where the wrist has to go now (radius, bearing, height) to bring the cylinder to ``goal``, and how fast.

    Over the cylinder, down around it, then on with it: the hand pushes outwards, a prong to the side. It never pulls.
    """
    cylinder, (radius, bearing) = state[:2].astype(np.float64), around(state[2:4].astype(np.float64))
    far, direction = around(cylinder)
    ahead, left = far * np.cos(direction - bearing) - radius, far * np.sin(direction - bearing)  # as the hand sees it
    down, fits = state[4] < LOW + 0.05, abs(left) < SLACK + 0.01
    if down and abs(left) < SLACK + 0.05 and 0.02 < ahead < 0.1:  # between the prongs, perhaps pressed into one
        goal_far, goal_direction = around(goal)
        aside = goal_far * np.sin(goal_direction - direction)
        # The right prong takes it to the left. Where it has to go nowhere aside, no prong may touch it.
        seat = -np.sign(aside) * SLACK if abs(aside) > 0.01 else np.clip(left, -SLACK, SLACK)
        pressed = max(0.0, SEAT - ahead, abs(left) - SLACK)
        target = np.array([np.sqrt(goal_far**2 - seat**2) - SEAT, goal_direction - np.arcsin(seat / goal_far), LOW])
        return target, pace * PUSHING * max(0.0, 1 - pressed / GIVE)
    over, behind = SEAT - 0.015 < ahead < 0.14, down and 0.1 <= ahead < 0.3
    if fits and (over or behind):
        return np.array([far - SEAT - 0.01, direction, LOW]), pace * FAST
    if state[4] < HIGH - 0.03:
        return np.array([radius, bearing, HIGH + 0.02]), pace * FAST
    return np.array([far - SEAT - 0.015, direction, HIGH]), pace * FAST


def start(simulation: Simulation, rng: np.random.Generator) -> None:
    """Put the cylinder somewhere and the hand, without touching it, somewhere behind or over it."""
    pusher = cast(Pusher, simulation)
    radius, bearing = rng.uniform(*START_RADII), rng.uniform(*START_BEARINGS)
    while True:
        height = LOW if rng.random() < 0.5 else rng.uniform(LOW, HIGH)
        hand = posture(rng.uniform(0.43, 0.54), bearing + rng.normal(0, 0.12), height)
        pusher.arrange(hand, polar(radius, bearing))
        if not pusher.touching():
            return


def sample_goal(rng: np.random.Generator) -> State:
    """Return a state with the cylinder at a random place of the outer workspace, and the hand at rest behind it."""
    radius, bearing = rng.uniform(*GOAL_RADII), rng.uniform(*GOAL_BEARINGS)
    hand = [*polar(radius - SEAT, bearing), LOW, *posture(radius - SEAT, bearing, LOW), *np.zeros(7)]
    return np.array([*polar(radius, bearing), *hand], np.float32)


def _skill(rng: np.random.Generator) -> Controller:
    return controller(sample_goal(rng))


def mixture(rng: np.random.Generator) -> Controller:
    """Return a controller that does one thing after another, each for some actions and with noise of its own.

    It pushes the cylinder somewhere, knowing its place well or badly; it wanders; it drives each joint with a constant
    torque; it rests. For some of the time the arm is twisted. A hand that has left the picture comes back.
    """
    doing, left, noise, pace = "rest", 0, 0.0, 1.0
    goal, mistake, twist = np.zeros(2), np.zeros(2), np.zeros(7)
    target, torque = np.zeros(3), np.zeros(7)

    def choose(choices: list[str], shares: list[float]) -> None:
        nonlocal doing, left, noise, pace, goal, mistake, twist, target, torque
        doing = str(rng.choice(choices, p=shares))
        left = int(rng.integers(*{"push": (18, 45), "wander": (4, 10), "drive": (2, 5), "rest": (2, 6)}[doing]))
        noise, pace = float(rng.choice([0.05, 0.15, 0.4], p=[0.4, 0.35, 0.25])), float(rng.uniform(0.6, 1.2))
        goal = polar(rng.uniform(0.64, 0.86), rng.uniform(*GOAL_BEARINGS))
        mistake = rng.normal(0, rng.choice([0.0, 0.02, 0.06], p=[0.65, 0.15, 0.2]), 2)
        twist = rng.normal(0, 1, 7) * (0, 0, 0.3, 0, 0.5, 0.3, 0.5) * (rng.random() < 0.3)
        target = np.array([rng.uniform(0.43, 0.68), rng.uniform(*GOAL_BEARINGS), rng.uniform(LOW, HIGH)])
        torque = np.asarray(rng.uniform(-TORQUES, TORQUES))

    def act(state: State) -> Action:
        nonlocal left, torque
        if left == 0:
            choose(["push", "wander", "drive", "rest"], [0.66, 0.13, 0.13, 0.08])
        bearing = around(state[2:4].astype(np.float64))[1]
        if doing != "wander" and not GOAL_BEARINGS[0] - 0.15 < bearing < GOAL_BEARINGS[1] + 0.15:
            choose(["wander"], [1.0])
        left -= 1
        if doing == "push":
            seen = state.copy()
            seen[:2] += mistake
            torque = _go(state, *_push(seen, goal, pace), twist)
        elif doing == "wander":
            torque = _go(state, target, pace * FAST, twist)
        elif doing == "rest":
            torque = INERTIA @ -state[12:].astype(np.float64) / (2 * DT)
        return _action(torque + rng.normal(0, noise, 7) * TORQUES)

    return act


def _action(torque: Numbers) -> Action:
    return np.clip(torque, -TORQUES, TORQUES).astype(np.float32)


def controller(goal: State) -> Controller:
    """Return the scripted controller: bring the cylinder to its place in ``goal``, wherever the arm ends."""
    place = goal[:2].astype(np.float64)
    return lambda state: _action(_go(state, *_push(state, place)))


def distance(state: State, goal: State) -> float:
    """Metres between two places of the cylinder."""
    return float(np.linalg.norm(state[:2] - goal[:2]))


def _project(place: Numbers) -> Numbers:
    return VIEW.project(np.append(place, LOW), CAMERA.height, CAMERA.width)


def _span() -> tuple[Numbers, Numbers]:
    """Middle and half width of what the cylinder's places fill in the picture: column, row (pixels), distance (m)."""
    radii, bearings = np.linspace(START_RADII[0], GOAL_RADII[1], 9), np.linspace(*GOAL_BEARINGS, 9)
    seen = [_project(polar(radius, bearing)) for radius in radii for bearing in bearings]
    lower, upper = np.quantile(seen, [0.04, 0.96], axis=0)
    return (lower + upper) / 2, (upper - lower) / 2


MIDDLE, HALF = _span()


def place(state: State) -> Placement:
    """Say where the cylinder is as seen in the picture."""
    column, row, away = (_project(state[:2].astype(np.float64)) - MIDDLE) / HALF
    return Placement(right=float(column), up=float(-row), away=float(away))


TASK = Task(
    name="pusher",
    description="Arm of seven joints, driven by torques: push the cylinder to a place on the table (Pusher-v5)",
    licence="MIT (Gymnasium, with the robot model it ships)",
    action=ACTION,
    camera=CAMERA,
    states=(
        "object x [m]",
        "object y [m]",
        *(f"wrist {axis} (m)" for axis in "xyz"),
        *(f"{joint} (rad)" for joint in JOINTS),
        *(f"{joint} speed (rad/s)" for joint in JOINTS),
    ),
    open=Pusher,
    data_policy=partial(purposeful, _skill, mixture, ACTION),
    sample_goal=sample_goal,
    controller=controller,
    distance=distance,
    place=place,
    start=start,
    subject="cylinder",
    # The environment names no success; it starts every episode with at least 0.17 m to go.
    tolerances=(0.10, 0.05, 0.03),
    min_goal_distance=0.17,
    collect_frames=50,
    settle_steps=40,
    evaluation_steps=45,
    interval=INTERVAL,
)
