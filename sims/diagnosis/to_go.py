"""How much of the way to a goal is left: steps of the scripted controller, or else the straight distance.

Where the way is a detour (around a wall, the swing-up of a pendulum), whoever makes progress first moves away from the
goal. Straight distance then calls a good model weak; steps to go do not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from sims.core.task import Simulation, Task
from sims.evaluation.pairs import Pair

SOLVED = 0.9  # share of the pairs that the scripted controller must solve for its steps to count
GRAIN = 0.01  # smallest difference that counts: of a step, or of the loosest tolerance

Progress = Literal["steps", "distance"]


@dataclass(frozen=True)
class ToGo:
    """A measure of what is left of the way to a pair's goal; 0 is the goal itself.

    ``measure``: from the simulation's present state, which it may change. ``grain``: differences below it do not count.
    """

    by: Progress
    unit: str
    grain: float
    measure: Callable[[Simulation, Pair], float]


def to_go(task: Task, simulation: Simulation, pairs: Sequence[Pair]) -> ToGo:
    """Choose the measure for these pairs: steps where a scripted controller solves SOLVED of them, else distance."""
    limit = 2 * task.evaluation_steps

    def steps(simulation: Simulation, pair: Pair) -> float:
        return steps_to_go(task, simulation, pair, limit)

    def solved(pair: Pair) -> bool:
        simulation.restore(pair.start)
        return steps(simulation, pair) < limit

    if task.controller is not None and np.mean([solved(pair) for pair in pairs]) >= SOLVED:
        return ToGo("steps", "steps", GRAIN, steps)
    return ToGo("distance", task.unit, GRAIN * task.tolerances[0], lambda s, p: task.distance(s.state(), p.goal_state))


def steps_to_go(task: Task, simulation: Simulation, pair: Pair, limit: int) -> float:
    """Steps that the scripted controller still needs from the simulation's present state, at most ``limit``.

    The last step is the one inside the loosest tolerance: there, the distance as a share of the tolerance is returned,
    and outside, 1 plus the steps until it is entered, with a fraction by linear interpolation of the distance. The
    measure is thereby continuous, and 0 at the goal.
    """
    assert task.controller is not None
    tolerance, control = task.tolerances[0], task.controller(pair.goal_state)
    before = task.distance(simulation.state(), pair.goal_state)
    if before <= tolerance:
        return before / tolerance
    for step in range(limit - 1):
        simulation.step(control(simulation.state()))
        after = task.distance(simulation.state(), pair.goal_state)
        if after <= tolerance:
            return 1 + step + (before - tolerance) / (before - after)
        before = after
    return float(limit)
