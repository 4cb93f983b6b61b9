"""Reacher-v5 of Gymnasium: two links that two torques turn in the plane.

The physics is Gymnasium's, untouched; how hard and how often the joints are driven is ours. Both joints behave alike
and independently: angle'' = torque - angle' (a rotor inertia of 1 kg m2, against which the links weigh nothing, and a
damping of 1 N m s). With the 200 N m that the environment offers, the arm spins at tens of rad/s. With 2 N m for
0.3 s per action no joint can turn by more than 0.6 rad between two pictures, and what an action does shows at once:
0.08 rad in its own time, twice that in the next. (With 3 N m for 0.12 s it was 0.02 rad, half a pixel, and the
dynamics that was learnt from 800 episodes reached 10 % of the goals.)
"""

from __future__ import annotations

from typing import cast

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.specs import ActionSpec, CameraSpec
from sims.core.language import LABELS, Placement
from sims.core.rendering import HIDDEN_GROUP, View, backend
from sims.core.scene import MujocoSimulation, Scene
from sims.core.task import Action, Controller, Simulation, State, Task

TORQUE = 2.0  # N m that an action may ask of a joint
GEAR = 200.0  # N m of an environment's action of 1
INTERVAL = 15  # environment steps in one action
DT = 0.02 * INTERVAL  # seconds in one action
KEPT = float(np.exp(-DT))  # share of its speed that a joint keeps when it coasts for one action
LINKS = (0.10, 0.11)  # metres from the shoulder to the elbow and from there to the fingertip
FOLDED = 2.8  # rad that the elbow may be bent by in a goal; it stops at 3
CAMERA = CameraSpec(height=64, width=64, dt=DT, name="above")
VIEW = View(look_at=(0.0, 0.0, 0.0), distance=0.58, azimuth=90.0, elevation=-90.0)
UNSEEN = ("target", "sideS", "sideE", "sideN", "sideW")
# How the arm is drawn: radius (metres; 0.01 in the model, two pixels) and colour. Nothing collides in this model.
LOOKS = {
    "link0": (0.014, (0.0, 0.35, 0.8, 1.0)),
    "link1": (0.014, (1.0, 0.65, 0.1, 1.0)),
    "fingertip": (0.018, (0.9, 0.1, 0.2, 1.0)),
}


class Reacher(MujocoSimulation):
    """The running environment behind sims.core.task.Simulation."""

    def __init__(self) -> None:
        chosen = backend()
        import mujoco
        from gymnasium.envs.mujoco.reacher_v5 import ReacherEnv

        self._mujoco, self._env = mujoco, ReacherEnv()
        self._model, self._data = self._env.model, self._env.data
        for name in UNSEEN:
            self._model.geom(name).group = HIDDEN_GROUP
        for name, (radius, colour) in LOOKS.items():
            self._model.geom(name).size[0], self._model.geom(name).rgba = radius, colour
        self._tip = self._data.body("fingertip")
        self._scene = Scene(self._model, self._data, VIEW, CAMERA, chosen)
        self._env.reset(seed=0)
        self.place_arm(np.zeros(2), np.zeros(2))
        self._initial = self.save()

    def place_arm(self, angles: NDArray[np.float64], speeds: NDArray[np.float64]) -> None:
        """Put the two joints at ``angles`` (rad), turning at ``speeds`` (rad/s)."""
        self._env.set_state(np.append(angles, np.zeros(2)), np.append(speeds, np.zeros(2)))

    def step(self, action: Action) -> None:
        torque = np.clip(np.asarray(action, np.float64), -TORQUE, TORQUE)
        # What INTERVAL calls of env.step do, less the observations and rewards.
        self._env.do_simulation(torque / GEAR, self._env.frame_skip * INTERVAL)
        self._mujoco.mj_kinematics(self._model, self._data)  # positions would be one physics step old

    def state(self) -> State:
        shoulder, elbow = self._data.qpos[:2]
        return np.array(
            [*self._tip.xpos[:2], np.cos(shoulder), np.sin(shoulder), elbow, *self._data.qvel[:2]], np.float32
        )


def _state(angles: NDArray[np.float64]) -> State:
    """Return the state of an arm that rests at two joint angles (rad)."""
    directions = np.cumsum(angles)
    tip = [np.dot(LINKS, np.cos(directions)), np.dot(LINKS, np.sin(directions))]
    return np.array([*tip, np.cos(angles[0]), np.sin(angles[0]), angles[1], 0.0, 0.0], np.float32)


def _posture(rng: np.random.Generator, folded: float = FOLDED) -> NDArray[np.float64]:
    """Return two joint angles (rad), drawn evenly; the elbow is bent by up to ``folded``."""
    return rng.uniform([-np.pi, -folded], [np.pi, folded])


def start(simulation: Simulation, rng: np.random.Generator) -> None:
    """Put the arm at rest into a random posture."""
    cast(Reacher, simulation).place_arm(_posture(rng), np.zeros(2))


def sample_goal(rng: np.random.Generator) -> State:
    """Return the state of an arm at rest in a posture drawn evenly from all."""
    return _state(_posture(rng))


def _error(state: State, goal: State) -> NDArray[np.float64]:
    """Return how far both joints have to turn (rad): the shoulder the shorter way round, the elbow cannot go round."""
    _, _, cosine, sine, elbow, _, _ = state.astype(np.float64)
    _, _, to_cosine, to_sine, to_elbow, _, _ = goal.astype(np.float64)
    return np.array(
        [np.arctan2(to_sine * cosine - to_cosine * sine, to_cosine * cosine + to_sine * sine), to_elbow - elbow]
    )


def data_policy(rng: np.random.Generator) -> Controller:
    """Return a controller that does one thing after another, each for some actions and with noise of its own.

    It turns towards random postures, hastily or slowly, and past them or not; it drives with a constant torque; it
    lets the arm coast; it brakes and rests. So every posture is met at every speed, and with every torque.
    """
    doing, left, noise = "rest", 0, 0.0
    goal, stiffness, damping = sample_goal(rng), 0.0, 0.0
    torque = np.zeros(2)

    def act(state: State) -> Action:
        nonlocal doing, left, noise, goal, stiffness, damping, torque
        if left == 0:
            doing = str(rng.choice(["turn", "drive", "coast", "rest"], p=[0.6, 0.2, 0.08, 0.12]))
            left = int(rng.integers(*{"turn": (4, 13), "drive": (1, 5), "coast": (1, 5), "rest": (2, 6)}[doing]))
            noise = float(rng.choice([0.1, 0.3, 0.7])) if doing != "rest" else 0.05
            # Past the elbow's stop, too: the arm passes through the middle far more often than it is folded.
            goal, stiffness, damping = (
                _state(_posture(rng, 3.6)),
                float(rng.uniform(0.5, 3)),
                float(rng.uniform(0.5, 3)),
            )
            torque = rng.uniform(-TORQUE, TORQUE, 2)
        left -= 1
        speed = state[5:].astype(np.float64)
        if doing == "turn":
            torque = stiffness * _error(state, goal) - damping * speed
        elif doing == "rest":
            torque = -3.0 * speed
        elif doing == "coast":
            torque = np.zeros(2)
        return _action(torque + rng.normal(0, noise, 2))

    return act


def _action(torque: NDArray[np.float64]) -> Action:
    return np.clip(torque, -TORQUE, TORQUE).astype(np.float32)


def controller(goal: State) -> Controller:
    """Return the scripted controller: turn as fast as can still be braked, then stop at the goal's posture."""

    def act(state: State) -> Action:
        error = _error(state, goal)
        # A fifth of the torque is left for what the braking distance does not know: time goes in steps.
        speed = np.sign(error) * np.minimum(np.sqrt(1.6 * TORQUE * np.abs(error)), np.abs(error) / (1.6 * DT))
        return _action((speed - KEPT * state[5:]) / (1 - KEPT))

    return act


def distance(state: State, goal: State) -> float:
    """Metres between two fingertip positions; the elbow may be bent the other way."""
    return float(np.linalg.norm(state[:2] - goal[:2]))


def place(state: State) -> Placement:
    """Say where the fingertip is in the picture, which the arm's length fills; seen from above nothing is far away."""
    right, up = state[:2] / sum(LINKS)
    return Placement(right=float(right), up=float(up), away=0.0)


TASK = Task(
    name="reacher",
    description="Two links in the plane, driven by torques: bring the fingertip to a position and stop (Reacher-v5)",
    licence="MIT (Gymnasium, with the robot model it ships)",
    action=ActionSpec(
        names=("shoulder", "elbow"),
        units=("N m", "N m"),
        low=(-TORQUE, -TORQUE),
        high=(TORQUE, TORQUE),
        active=(0, 1),
    ),
    camera=CAMERA,
    states=(
        "fingertip x [m]",
        "fingertip y [m]",
        "cosine of shoulder",
        "sine of shoulder",
        "elbow (rad)",
        "shoulder speed (rad/s)",
        "elbow speed (rad/s)",
    ),
    open=Reacher,
    data_policy=data_policy,
    sample_goal=sample_goal,
    controller=controller,
    distance=distance,
    place=place,
    start=start,
    subject="fingertip",
    labels=tuple(label for label in LABELS if label not in ("near", "far")),
    min_goal_distance=0.1,
    collect_frames=32,
    settle_steps=18,
    evaluation_steps=18,
    interval=INTERVAL,
)
