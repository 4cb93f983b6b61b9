"""FetchReach-v4 of gymnasium-robotics: a 7-joint arm whose gripper is moved in x, y and z above a table.

The physics is Gymnasium's, untouched; for the picture see sims.tasks.fetch.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.specs import ActionSpec, CameraSpec
from sims.core.language import Placement
from sims.core.rendering import View
from sims.core.task import Action, Controller, State, Task
from sims.tasks.fetch import REACH, STEP, Fetch, placer

CENTRE = np.array([1.3418, 0.7491, 0.5347])  # where the gripper is after a reset
LOW = CENTRE + np.array([-0.13, -0.13, -0.10])  # the table ends the room below, the arm's length that ahead
HIGH = CENTRE + np.array([0.13, 0.13, 0.12])
CAMERA = CameraSpec(height=64, width=64, dt=STEP, name="front-side")
VIEW = View(look_at=(1.3418, 0.7491, 0.5547), distance=0.95, azimuth=150.0, elevation=-35.0)


class FetchReach(Fetch):
    """The running environment behind sims.core.task.Simulation."""

    def __init__(self) -> None:
        super().__init__(_make, VIEW, CAMERA)


def _make() -> Any:
    from gymnasium_robotics.envs.fetch.reach import MujocoFetchReachEnv

    return MujocoFetchReachEnv()


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


_place = placer(VIEW, CAMERA, LOW, HIGH)


def place(state: State) -> Placement:
    """Say where the gripper is as seen in the picture."""
    return _place(state[:3])


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
