"""Meta-World button-press: press a button into its box with the closed fingers.

The button stops at 6 cm and gives way to a hand that presses on; Meta-World asks for 9.3 cm, within 2 cm. Pressed that
far, it sticks for a while.
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
VIEW = View(look_at=(0.0, 0.62, 0.12), distance=0.68, azimuth=178.0, elevation=-25.0)
BOXES: Box = ((-0.1, 0.85, 0.115), (0.1, 0.9, 0.115))  # where the box stands, obj_low and obj_high of the environment
HANDS: Box = ((-0.1, 0.42, 0.08), (0.1, 0.52, 0.2))  # about (0, 0.4, 0.15), where Meta-World starts
BUTTONS: Box = ((-0.1, 0.66, 0.115), (0.1, 0.79, 0.115))
ROOM: Box = ((-0.13, 0.45, 0.02), (0.13, 0.63, 0.2))  # where the hand wanders
BELOW = 0.09  # metres that the fingertips are below the button, so that the palm clears the box
PRESSED = 0.083  # metres
PRESS = 1.5  # metres that the hand's target shifts by, per metre that the button must still go


def controller(goal: State) -> Controller:
    """Return the scripted controller: in front of the button, then press as far as in ``goal``."""

    def decide(state: State) -> Action:
        hand, left = state[HAND], state[6] - goal[6]
        x, y, z = state[:3] - hand - (0, 0, BELOW)
        aside = max(abs(x), abs(z))
        if y < 0.05 and aside < 0.05:
            return act(np.array([GAIN * x, PRESS * left, GAIN * z]))
        return act(GAIN * np.array([x, y - 0.08 if aside > 0.02 else y, z]))

    return decide


def _pressed(by: float) -> State:
    return np.array([0.0, 0.68 + by, 0.115, 0.0, 0.67 + by, 0.025, -by], np.float32)


def sample_goal(_: np.random.Generator) -> State:
    """Return the pressed state, for a box that stands in the middle; the controller looks at the depth only."""
    return _pressed(PRESSED)


def _skill(rng: np.random.Generator) -> Controller:
    return controller(_pressed(PRESSED if rng.random() < 0.5 else rng.uniform(0.0, 0.08)))


TASK = Task(
    name="meta-world-button-press",
    description="Sawyer arm: press a button (Meta-World button-press-v3)",
    licence=LICENCE,
    action=SPEC,
    camera=CAMERA,
    states=(
        "button x [m]",
        "button y [m]",
        "button z [m]",
        "hand x (m)",
        "hand y (m)",
        "hand z (m)",
        "button joint (m)",
    ),
    open=partial(MetaWorld, Setup("button-press-v3", VIEW, effort=1.0, stand="box", joint="btnbox_joint")),
    data_policy=partial(purposeful, _skill, partial(mixture, _skill, ROOM, False), SPEC),
    sample_goal=sample_goal,
    controller=controller,
    distance=distance,
    place=placing(VIEW, BUTTONS),
    start=partial(start, BOXES, HANDS),
    subject="button",
    tolerances=(0.02, 0.01, 0.005),  # Meta-World's success: the button within 2 cm
    min_goal_distance=0.05,
    settle_steps=20,
    evaluation_steps=22,
    interval=REPEAT,
    needs=NEEDS,
)
