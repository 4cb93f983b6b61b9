"""Meta-World push: take a puck between the fingers and push it over the table to another place."""

from __future__ import annotations

from functools import partial

import numpy as np

from sims.core.disturbance import purposeful
from sims.core.rendering import View
from sims.core.task import Action, Controller, State, Task
from sims.tasks.meta_world.scripted import GAIN, HAND, Box, act, action_spec, distance, draw, mixture, placing, start
from sims.tasks.meta_world.simulation import CAMERA, LICENCE, NEEDS, REPEAT, MetaWorld, Setup

VIEW = View(look_at=(0.0, 0.72, 0.12), distance=0.62, azimuth=155.0, elevation=-38.0)
STARTS: Box = ((-0.1, 0.6, 0.02), (0.1, 0.7, 0.02))  # of the puck, obj_low and obj_high of the environment
GOALS: Box = ((-0.1, 0.8, 0.02), (0.1, 0.9, 0.02))  # goal_low and goal_high; Meta-World sets the height to the puck's
HANDS: Box = ((-0.08, 0.55, 0.1), (0.08, 0.68, 0.2))  # about (0, 0.6, 0.15), where Meta-World starts
TABLE: Box = ((-0.13, 0.58, 0.02), (0.13, 0.92, 0.02))  # where collected episodes push the puck to
ROOM: Box = ((-0.13, 0.55, 0.015), (0.13, 0.92, 0.15))  # and the hand wanders
SPEC = action_spec(gripper=True)
HOVER = 0.1  # metres above the table at which the fingers pass over the puck
LOW = 0.02  # at which they take it
BESIDE = 0.035  # at which they are low enough to close
GRIP = 0.6  # as in Meta-World's scripted policy; more would lift the puck
CLOSED = 0.07  # gap in metres below which the fingers hold the puck; about 0.052 then


def controller(goal: State) -> Controller:
    """Return the scripted controller: over the puck, down, close the fingers, push to ``goal``."""

    def decide(state: State) -> Action:
        puck, hand, gap = state[:3], state[HAND], state[6]
        away = puck - hand
        if np.hypot(*away[:2]) > 0.03:
            return act(GAIN * np.array([*away[:2], HOVER - hand[2]]))
        if hand[2] > BESIDE:
            return act(GAIN * np.array([*away[:2], LOW - hand[2]]))
        if gap > CLOSED:
            return act(GAIN * np.array([*away[:2], LOW - hand[2]]), GRIP)
        return act(GAIN * np.array([*(goal - state)[:2], LOW - hand[2]]), GRIP)

    return decide


def _at(place: np.ndarray) -> State:
    return np.array([*place, *place, 0.052], np.float32)


def sample_goal(rng: np.random.Generator) -> State:
    """Return a state with the puck, between the fingers, in Meta-World's goal box."""
    return _at(draw(GOALS, rng))


def _skill(rng: np.random.Generator) -> Controller:
    return controller(_at(draw(GOALS if rng.random() < 0.5 else TABLE, rng)))


TASK = Task(
    name="meta-world-push",
    description="Sawyer arm: take a puck and push it to another place on the table (Meta-World push-v3)",
    licence=LICENCE,
    action=SPEC,
    camera=CAMERA,
    states=(
        "puck x [m]",
        "puck y [m]",
        "puck z [m]",
        "hand x (m)",
        "hand y (m)",
        "hand z (m)",
        "gap between the fingers (m)",
    ),
    open=partial(MetaWorld, Setup("push-v3", VIEW, gripper=True)),
    data_policy=partial(purposeful, _skill, partial(mixture, _skill, ROOM, True), SPEC),
    sample_goal=sample_goal,
    controller=controller,
    distance=distance,
    place=placing(VIEW, TABLE),
    start=partial(start, STARTS, HANDS),
    subject="puck",
    tolerances=(0.05, 0.03, 0.02),  # Meta-World's success: the puck within 5 cm (TARGET_RADIUS)
    min_goal_distance=0.1,
    collect_frames=36,
    settle_steps=22,
    evaluation_steps=25,
    interval=REPEAT,
    needs=NEEDS,
)
