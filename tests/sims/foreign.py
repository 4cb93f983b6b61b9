"""Tasks of environments that nobody here wrote, one for each way of restoring a Gymnasium environment."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import gymnasium
import numpy as np

from hnet_vjepa.specs import ActionSpec, CameraSpec
from sims.core.gymnasium_simulation import GymnasiumSimulation
from sims.core.task import Controller, State, Task

CAMERA = CameraSpec(height=48, width=64, dt=0.1, name="front")


def anything(low: float, high: float) -> Callable[[np.random.Generator], Controller]:
    """A data policy that draws every action anew."""
    return lambda rng: lambda state: rng.uniform(low, high, 1).astype(np.float32)


def task(
    name: str,
    env: str,
    state: Callable[[Any], Any],
    states: tuple[str, ...],
    bound: float,
    attributes: Sequence[str] = (),
    **more: Any,
) -> Task:
    """A task without a scripted controller and without captions: its goals are where random actions lead."""

    def make() -> Any:
        return gymnasium.make(env, render_mode="rgb_array")

    def distance(now: State, goal: State) -> float:
        return float(np.abs(now - goal).max())

    return Task(
        name=name,
        description=env,
        licence="MIT (gymnasium)",
        action=ActionSpec(names=("push",), units=("",), low=(-bound,), high=(bound,), active=(0,)),
        camera=CAMERA,
        states=states,
        open=lambda: GymnasiumSimulation(make, CAMERA, state, repeat=2, attributes=attributes),
        data_policy=anything(-bound, bound),
        distance=distance,
        unit="",
        collect_frames=12,
        settle_steps=10,
        evaluation_steps=10,
        interval=2,
        factors=(),
        renderer="gymnasium",
        **{"tolerances": (0.1,), "min_goal_distance": 0.2, **more},
    )


def cosine_sine(env: Any) -> Any:
    """Direction and speed of the pendulum."""
    angle, speed = env.state
    return [np.cos(angle), np.sin(angle), speed]


PENDULUM = task("pendulum", "Pendulum-v1", cosine_sine, ("cosine", "sine", "speed (rad/s)"), 2.0, ("state", "last_u"))
FORGETFUL = task("forgetful", "Pendulum-v1", cosine_sine, ("cosine", "sine", "speed (rad/s)"), 2.0, ("state",))
CAR = task(
    "hill-car",
    "MountainCarContinuous-v0",
    lambda env: env.state,
    ("x", "speed"),
    1.0,
    tolerances=(0.01,),
    min_goal_distance=0.02,
)
POLE = task(
    "pole",
    "InvertedPendulum-v5",
    lambda env: np.concatenate([env.data.qpos, env.data.qvel]),
    ("cart x (m)", "angle (rad)", "cart speed (m/s)", "speed (rad/s)"),
    3.0,
)
