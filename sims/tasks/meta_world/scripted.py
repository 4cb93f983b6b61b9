"""What the Meta-World tasks share besides the simulation: actions, words for places, and how data are collected."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.specs import ActionSpec
from sims.core.language import Placement
from sims.core.rendering import View
from sims.core.task import Action, Controller, Simulation, State
from sims.tasks.meta_world.simulation import CAMERA, REACH, MetaWorld

Point = NDArray[np.floating[Any]]
Box = tuple[tuple[float, float, float], tuple[float, float, float]]  # lowest and highest corner, metres

GAIN = 0.6  # of the way, per action: more would overshoot, as the hand is behind its target by about two actions
HAND = slice(3, 6)  # of a state with an object
START_STEPS = 6  # actions that take the hand from where a reset leaves it to where an episode starts


def action_spec(gripper: bool = False) -> ActionSpec:
    """Describe the actions: metres in x, y and z, and the gripper from 0 (open) to 1 (closed) where it matters."""
    return ActionSpec(
        low=(-REACH, -REACH, -REACH, 0.0, 0.0, 0.0, 0.0),
        high=(REACH, REACH, REACH, 0.0, 0.0, 0.0, 1.0 if gripper else 0.0),
        active=(0, 1, 2, 6) if gripper else (0, 1, 2),
        absolute=(6,) if gripper else (),
    )


def act(move: Point, grip: float = 0.0) -> Action:
    """Return the action that shifts the hand's target by ``move`` (3, metres, clipped) and sets the gripper."""
    full = np.zeros(7, np.float32)
    full[:3] = np.clip(move, -REACH, REACH)
    full[6] = np.clip(grip, 0, 1)
    return full


def draw(box: Box, rng: np.random.Generator) -> Point:
    """Return a point drawn evenly from a box (3, metres)."""
    return rng.uniform(*box)


def placing(view: View, box: Box) -> Callable[[State], Placement]:
    """Return the function that says where a state's first point is as seen in the picture; ``box``: where it can be."""
    grid = np.stack(np.meshgrid(*[np.linspace(a, b, 9) for a, b in zip(*box, strict=True)]), -1).reshape(-1, 3)
    lower, upper = np.quantile(view.project(grid, CAMERA.height, CAMERA.width), [0.04, 0.96], axis=0)
    middle, half = (lower + upper) / 2, (upper - lower) / 2

    def place(state: State) -> Placement:
        column, row, away = (view.project(state[:3], CAMERA.height, CAMERA.width) - middle) / half
        return Placement(right=float(column), up=float(-row), away=float(away))

    return place


def distance(state: State, goal: State) -> float:
    """Metres between two states' first points: the hand, or the object where there is one."""
    return float(np.linalg.norm(state[:3] - goal[:3]))


def go(simulation: Simulation, hand: slice, target: Point, steps: int) -> None:
    """Let the hand, which ``hand`` picks from a state, go straight to a target (3, metres)."""
    for _ in range(steps):
        simulation.step(act(GAIN * (target - simulation.state()[hand])))


def start(objects: Box, hands: Box, simulation: Simulation, rng: np.random.Generator) -> None:
    """Put the object, or what carries it, at a random place, and let the hand go to another."""
    assert isinstance(simulation, MetaWorld)
    simulation.arrange(draw(objects, rng))
    go(simulation, HAND, draw(hands, rng), START_STEPS)


def mixture(
    skill: Callable[[np.random.Generator], Controller], room: Box, grips: bool, rng: np.random.Generator
) -> Controller:
    """Return a controller for collecting: spells of ``skill`` with noise, of wandering in ``room``, and of rest.

    ``skill(rng)`` makes a controller that does something with the object, another at each call.
    """
    follow, noise, grip, left = skill(rng), 0.0, 0.0, 0

    def wander(target: Point, gain: float) -> Controller:
        return lambda state: act(gain * (target - state[HAND]), grip)

    def decide(state: State) -> Action:
        nonlocal follow, noise, grip, left
        if left == 0:
            kind = rng.choice(["skill", "wander", "rest"], p=[0.6, 0.3, 0.1])
            noise, grip = float(rng.choice([0.004, 0.01, 0.02])), float(rng.uniform()) if grips else 0.0
            if kind == "skill":
                follow, left = skill(rng), int(rng.integers(12, 29))
            elif kind == "wander":
                follow, left = wander(draw(room, rng), float(rng.choice([0.3, GAIN]))), int(rng.integers(4, 9))
            else:
                follow, noise, left = wander(state[HAND], 0.0), 0.002, 3
        left -= 1
        action = follow(state)
        return act(action[:3] + rng.normal(0, noise, 3), action[6] + (rng.normal(0, 0.15) if grips else 0.0))

    return decide
