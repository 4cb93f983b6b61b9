"""Minimal pairs of sentences: from the same start, does the robot go left for "left" and right for "right"?

Pairs are used whose sentence names the direction, where neither sentence is true at the start, and where some goal of
the task fulfils the opposite: seen from above, nothing is low in the image and far from the camera.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from hnet_vjepa.planning.goals.text import TextGoal
from sims.core.language import OPPOSITES, opposite
from sims.core.task import Simulation, Task
from sims.evaluation.evaluate import play
from sims.evaluation.pairs import Pair, fulfils
from sims.evaluation.policies import Policy
from sims.evaluation.statistics import wilson

GOALS = 1000  # goals drawn to find which sentences can be fulfilled


def mirrored(task: Task, pairs: Sequence[Pair], axis: str) -> list[tuple[Pair, Pair]]:
    """Text pairs that name a direction along ``axis``, each with the pair of the opposite sentence."""
    rng = np.random.default_rng(0)
    assert task.sample_goal is not None
    goals = [task.sample_goal(rng) for _ in range(GOALS)]
    found = []
    for pair in pairs:
        if not isinstance(pair.goal, TextGoal) or opposite(pair.goal.text, axis) == pair.goal.text:
            continue
        required = tuple(opposite(label, axis) for label in pair.required)
        other = replace(pair, goal=TextGoal(opposite(pair.goal.text, axis)), required=required)
        possible = any(fulfils(task, goal, required) for goal in goals)
        if possible and not fulfils(task, pair.start_state, required):
            found.append((pair, other))
    return found


def minimal_pairs(
    task: Task, simulation: Simulation, planner: Policy, pairs: Sequence[Pair], most: int
) -> dict[str, dict[str, Any]]:
    """For left/right and up/down: of up to ``most`` minimal pairs, how often both sentences were followed, and each."""
    results: dict[str, dict[str, Any]] = {}
    for axis, name in zip(OPPOSITES, ("left_right", "up_down"), strict=True):
        both = mirrored(task, pairs, axis)[:most]
        played = [pair for two in both for pair in two]
        done = [r.end(0) for r in play(task, simulation, planner, played, task.evaluation_steps).rollouts]
        followed = [first and second for first, second in zip(done[::2], done[1::2], strict=True)]
        results[name] = {
            "both": {**vars(wilson(sum(followed), len(followed))), "value": sum(followed) / len(followed)},
            "either": {**vars(wilson(sum(done), len(done))), "value": sum(done) / len(done)},
        }
    return results
