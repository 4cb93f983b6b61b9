"""Meta-World door-open: hook the closed fingers behind the handle of a door and pull it open, around its hinge."""

from __future__ import annotations

from functools import partial

import numpy as np

from sims.core.disturbance import purposeful
from sims.core.rendering import View
from sims.core.task import Action, Controller, State, Task
from sims.tasks.meta_world.scripted import GAIN, HAND, Box, Point, act, action_spec, mixture, placing, start
from sims.tasks.meta_world.simulation import CAMERA, LICENCE, NEEDS, REPEAT, MetaWorld, Setup

SPEC = action_spec()
VIEW = View(look_at=(-0.02, 0.65, 0.12), distance=0.95, azimuth=160.0, elevation=-42.0)
FRAMES: Box = ((0.0, 0.85, 0.15), (0.1, 0.95, 0.15))  # where the frame stands, obj_low and obj_high of the environment
HANDS: Box = ((-0.08, 0.53, 0.1), (0.08, 0.65, 0.25))  # about (0, 0.6, 0.15), where Meta-World starts
HANDLES: Box = ((-0.3, 0.38, 0.15), (0.3, 0.74, 0.15))
ROOM: Box = ((-0.25, 0.45, 0.08), (0.3, 0.75, 0.28))  # where the hand wanders
HANDLE = (0.376, -0.107)  # the handle from the hinge, in x and y and metres, while the door is shut
HOOK = (0.40, -0.057)  # where the fingers are between handle and door
OPEN = -1.59  # radians at which the handle is where Meta-World wants it in x: 30 cm left of the frame's middle
HOVER, OVER, LOW = 0.25, 0.19, 0.12  # metres: on the way, over the handle, behind it
LEAD = 0.25  # radians that the hand's target may be ahead of the door


def _turned(point: tuple[float, float], angle: float) -> Point:
    cosine, sine = np.cos(angle), np.sin(angle)
    return np.array([cosine * point[0] - sine * point[1], sine * point[0] + cosine * point[1]])


def controller(goal: State) -> Controller:
    """Return the scripted controller: over the handle, down behind it, around the hinge to the goal's angle."""

    def decide(state: State) -> Action:
        hand, angle = state[HAND], float(state[6])
        hinge = state[:2] - _turned(HANDLE, angle)
        hook = hinge + _turned(HOOK, angle)
        away = hook - hand[:2]
        flat = np.hypot(*away)
        if hand[2] < OVER - 0.02 and flat > 0.06:
            return act(GAIN * np.array([0.0, 0.0, HOVER - hand[2]]))
        if hand[2] > OVER - 0.02 and flat > 0.02:
            return act(GAIN * np.array([*away, (HOVER if flat > 0.05 else OVER) - hand[2]]))
        if hand[2] > LOW + 0.02 and flat < 0.045:
            return act(GAIN * np.array([*away, LOW - hand[2]]))
        ahead = hinge + _turned(HOOK, angle + np.clip(goal[6] - angle, -LEAD, LEAD)) - hook
        return act(np.array([*(ahead + 0.3 * away), GAIN * (LOW - hand[2])]))

    return decide


def distance(state: State, goal: State) -> float:
    """Metres between two states' handles in x, which Meta-World looks at; x falls all the way as the door opens."""
    return float(abs(state[0] - goal[0]))


def _at(angle: float) -> State:
    hinge = np.array([-0.135, 0.8])  # of a frame in the middle of where it can stand
    handle, hand = hinge + _turned(HANDLE, angle), hinge + _turned(HOOK, angle)
    return np.array([*handle, 0.15, *hand, LOW, angle], np.float32)


def sample_goal(_: np.random.Generator) -> State:
    """Return the open state, for a frame that stands in the middle; the controller looks at the angle only."""
    return _at(OPEN)


def _skill(rng: np.random.Generator) -> Controller:
    return controller(_at(OPEN if rng.random() < 0.5 else rng.uniform(OPEN, 0.0)))


TASK = Task(
    name="meta-world-door-open",
    description="Sawyer arm: open a door (Meta-World door-open-v3)",
    licence=LICENCE,
    action=SPEC,
    camera=CAMERA,
    states=(
        "handle x [m]",
        "handle y [m]",
        "handle z [m]",
        "hand x (m)",
        "hand y (m)",
        "hand z (m)",
        "door angle (rad)",
    ),
    open=partial(MetaWorld, Setup("door-open-v3", VIEW, effort=1.0, stand="door", joint="doorjoint")),
    data_policy=partial(purposeful, _skill, partial(mixture, _skill, ROOM, False), SPEC),
    sample_goal=sample_goal,
    controller=controller,
    distance=distance,
    place=placing(VIEW, HANDLES),
    start=partial(start, FRAMES, HANDS),
    subject="door",
    tolerances=(0.08, 0.05, 0.03),  # Meta-World's success: the handle within 8 cm in x
    min_goal_distance=0.3,
    collect_frames=41,
    settle_steps=32,
    evaluation_steps=40,
    interval=REPEAT,
    needs=NEEDS,
)
