"""Meta-World drawer-open: hook a finger behind the handle of a drawer and pull it open.

The drawer stops at 16 cm and gives way a little to a hand that pulls on; Meta-World asks for 19 cm, within 3 cm.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from sims.core.disturbance import purposeful
from sims.core.rendering import View
from sims.core.task import Action, Controller, State, Task
from sims.tasks.meta_world.scripted import GAIN, HAND, Box, act, action_spec, distance, mixture, placing, start
from sims.tasks.meta_world.simulation import CAMERA, LICENCE, NEEDS, REPEAT, MetaWorld, Setup

SPEC = action_spec()
VIEW = View(look_at=(0.0, 0.7, 0.12), distance=0.72, azimuth=150.0, elevation=-35.0)
CASES: Box = ((-0.1, 0.9, 0.0), (0.1, 0.9, 0.0))  # where the case stands, obj_low and obj_high of the environment
HANDS: Box = ((-0.08, 0.55, 0.1), (0.08, 0.65, 0.2))  # about (0, 0.6, 0.15), where Meta-World starts
HANDLES: Box = ((-0.1, 0.54, 0.09), (0.1, 0.73, 0.09))
ROOM: Box = ((-0.13, 0.5, 0.02), (0.13, 0.75, 0.2))  # where the hand wanders
OPEN = 0.19  # metres: Meta-World's target is that far in front of the closed handle
HOOKED = 0.045  # metres above the table at which the handle is between the fingers
LOW = 0.03
PULL = 1.5  # metres that the hand's target shifts by, per metre that the drawer must still go


def controller(goal: State) -> Controller:
    """Return the scripted controller: over the handle, down astride it, pull or push to the goal's opening."""

    def decide(state: State) -> Action:
        hand, left = state[HAND], goal[6] - state[6]
        away = state[:3] - hand
        flat = np.hypot(*away[:2])
        if hand[2] > 0.06 and flat > 0.03:
            return act(GAIN * np.array([*away[:2], (0.2 if flat > 0.1 else 0.16) - hand[2]]))
        if hand[2] > HOOKED:
            return act(GAIN * np.array([*away[:2], LOW - hand[2]]))
        if flat > 0.06:
            return act(GAIN * np.array([0.0, 0.0, 0.2 - hand[2]]))
        return act(np.array([GAIN * away[0], PULL * left, GAIN * (LOW - hand[2])]))

    return decide


def _opened(by: float) -> State:
    return np.array([0.0, 0.73 - by, 0.09, 0.0, 0.71 - by, LOW, -by], np.float32)


def sample_goal(_: np.random.Generator) -> State:
    """Return the open state, for a case that stands in the middle; the controller looks at the opening only."""
    return _opened(OPEN)


def _skill(rng: np.random.Generator) -> Controller:
    return controller(_opened(OPEN if rng.random() < 0.5 else rng.uniform(0.0, 0.17)))


TASK = Task(
    name="meta-world-drawer-open",
    description="Sawyer arm: open a drawer (Meta-World drawer-open-v3)",
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
        "drawer joint (m)",
    ),
    open=partial(MetaWorld, Setup("drawer-open-v3", VIEW, stand="drawer", joint="goal_slidey")),
    data_policy=partial(purposeful, _skill, partial(mixture, _skill, ROOM, False), SPEC),
    sample_goal=sample_goal,
    controller=controller,
    distance=distance,
    place=placing(VIEW, HANDLES),
    start=partial(start, CASES, HANDS),
    subject="drawer",
    tolerances=(0.03, 0.02, 0.01),  # Meta-World's success: the handle within 3 cm
    min_goal_distance=0.1,
    collect_frames=31,
    settle_steps=22,
    evaluation_steps=25,
    interval=REPEAT,
    needs=NEEDS,
)
