"""Plans with and without the cost of a region to avoid, on pairs whose scripted path crosses that region."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.planner.comparison import success_row
from hnet_vjepa.errors import UserError
from sims.core.task import Simulation, State, Task
from sims.evaluation.pairs import Pair, fulfils, make_pair
from sims.evaluation.policies import Actor, Decision, Observation, Policy

MOST_DRAWS = 50  # pairs drawn for each one whose path crosses the region


@dataclass
class TrackedPolicy:
    """A policy that records every simulator state in which it decides: one list for each episode."""

    policy: Policy
    states: list[list[State]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """Its name in tables."""
        return self.policy.name

    def begin(self, pair: Pair) -> Actor:
        """Start an episode."""
        act, seen = self.policy.begin(pair), list[State]()
        self.states.append(seen)

        def recorded(now: Observation) -> Decision:
            seen.append(now.state)
            return act(now)

        return recorded


def pairs_across(task: Task, simulation: Simulation, place: tuple[str, ...], count: int) -> list[Pair]:
    """The first dev pairs that start and end outside the place (a conjunction of labels) while the path crosses it.

    The path is the scripted controller's. Raises UserError when there are not enough such pairs.
    """
    found = list[Pair]()
    for index in range(MOST_DRAWS * count):
        pair = make_pair(task, simulation, "dev", 0, index, "image")
        assert task.controller is not None
        control, inside = task.controller(pair.goal_state), list[bool]()
        simulation.restore(pair.start)
        for _ in range(task.evaluation_steps):
            inside.append(fulfils(task, simulation.state(), place))
            simulation.step(control(simulation.state()))
        if any(inside) and not inside[0] and not fulfils(task, pair.goal_state, place):
            found.append(pair)
            if len(found) == count:
                return found
    raise UserError(
        f"{task.name}: {len(found)} pairs with the place {', '.join(place)} on their path; {count} are needed"
    )


def avoidance_row(
    task: Task, simulation: Simulation, policy: Policy, place: tuple[str, ...], pairs: Sequence[Pair]
) -> dict[str, Any]:
    """How often one policy is inside the place, by the simulator's state, and its success."""
    tracked = TrackedPolicy(policy)
    row = success_row(task, simulation, tracked, pairs)
    inside = [[fulfils(task, state, place) for state in states] for states in tracked.states[1:]]  # see ``play``
    return {
        **row,
        "inside": float(np.mean(inside)),
        "steps_inside": float(np.sum(inside) / len(inside)),
        "never_inside": float(np.mean([not any(steps) for steps in inside])),
    }
