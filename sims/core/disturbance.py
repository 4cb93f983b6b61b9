"""Disturbances: what a script does when it is pushed off its way, so that episodes show how to come back."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from hnet_vjepa.specs import ActionSpec
from sims.core.task import Action, Controller, State

PURPOSE = 0.9  # share of the episodes, of tasks with an object, that have one goal
NOISE = (0.03, 0.09, 0.22)  # deviations that an episode may have, in shares of the largest action
KICKS = 0.06  # how often an action begins a kick
HARDEST = 0.75  # of a kick, in shares of the largest action
LONGEST = 3  # actions that a kick lasts


def disturbed(script: Controller, spec: ActionSpec, rng: np.random.Generator) -> Controller:
    """Return ``script`` with noise in its actions, one amount for all of an episode, and a kick now and then.

    Noise in what a teacher does shows a learner the states that its own errors will lead to, with what is right there
    (Laskey et al. 2017, DART).
    """
    half = (np.array(spec.high) - np.array(spec.low)) / 2
    noise, kick, left = float(rng.choice(NOISE)), np.zeros(spec.dim), 0

    def act(state: State) -> Action:
        nonlocal kick, left
        if left == 0 and rng.random() < KICKS:
            left, kick = int(rng.integers(1, LONGEST + 1)), rng.uniform(-HARDEST, HARDEST, spec.dim)
        action = script(state) + half * rng.normal(0, noise, spec.dim)
        if left:
            left, action = left - 1, action + half * kick
        return np.clip(action, spec.low, spec.high).astype(np.float32)

    return act


def purposeful(
    skill: Callable[[np.random.Generator], Controller],
    mixture: Callable[[np.random.Generator], Controller],
    spec: ActionSpec,
    rng: np.random.Generator,
) -> Controller:
    """Return a controller for collecting that mostly does one thing, disturbed, and otherwise what ``mixture`` does.

    ``skill(rng)`` makes a script that brings an object somewhere, ``mixture(rng)`` one that does one thing after
    another: who goes on to something else before it is done shows the way to nothing, but more of what can happen.
    """
    return disturbed(skill(rng), spec, rng) if rng.random() < PURPOSE else mixture(rng)
