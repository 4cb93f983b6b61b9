"""What composed goals and costs do to plans: a place in the way, how steps count, and a part of a goal picture."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.part import Part
from benchmarks.planner.instrumented import Watched, as_asked, threads
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.goals.region import Region
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.interface import Cost, Planner, PlanQuery, SearchSettings
from hnet_vjepa.planning.planner import load_planner
from sims.core.task import Simulation, State, Task
from sims.evaluation.evaluate import play
from sims.evaluation.pairs import Pair, fulfils, make_pair, make_pairs
from sims.evaluation.policies import Actor, Decision, Observation, Policy, ScriptedPolicy, check_card, local_planner
from sims.evaluation.results import MethodResult

PAIRS = 40
PLACE = ("centre", "middle")  # of the picture: there is a way around it on every side
WIDE = SearchSettings(64, 4, 6, 8)  # of plans that are done without looking: long ones
MOST_DRAWS = 50  # for each pair with the place on its way
PATCH = 16  # pixels of the foreign square in the corner of goal pictures

Change = Callable[[PlanQuery], PlanQuery]


@dataclass
class Tracked:
    """A policy of which every state is noted that it decides in: one list for each episode."""

    policy: Policy
    states: list[list[State]] = field(default_factory=list)

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.policy.name

    def begin(self, pair: Pair) -> Actor:
        """Start an episode."""
        act, seen = self.policy.begin(pair), list[State]()
        self.states.append(seen)

        def noted(now: Observation) -> Decision:
            seen.append(now.state)
            return act(now)

        return noted


def composition(
    task: Task, checkpoint: Path, pairs: int = PAIRS, wide: SearchSettings = WIDE, place: tuple[str, ...] = PLACE
) -> Part:
    """Play dev pairs with and without each of them, one thread. Raises UserError when no pair has ``place`` between."""
    planner = load_planner(checkpoint)
    check_card(task, planner.card, "image")
    with contextlib.closing(task.open()) as simulation, threads(1):
        blocked = pairs_across(task, simulation, place, pairs)
        ways: dict[str, Change] = {
            "planner": as_asked,
            "planner that avoids it": lambda query: replace(query, cost=Cost(avoid=(place,))),
        }
        around = [
            keeping_out(task, simulation, policy, place, blocked)
            for policy in (*planners(planner, ways), ScriptedPolicy(task))
        ]
        drawn = make_pairs(task, simulation, "dev", 0, pairs, "image")
        over_steps = [blindly(task, simulation, planner, name, cost, drawn, wide) for name, cost in COSTS.items()]
        in_part = [
            reaching(task, simulation, policy, drawn)
            for policy in planners(planner, {name: on_picture(change) for name, change in PICTURES.items()})
        ]
    without, avoiding = around[0], around[1]
    return Part(
        {
            "task": task.name,
            "weights": planner.card.fingerprint,
            "search": asdict(planner.card.search),
            "wide": asdict(wide),
            "split": "dev",
            "pairs": pairs,
            "unit": task.unit,
            "loosest": task.tolerances[0],
            "tolerance": task.tolerances[-1],
            "place": list(place),
            "avoid_weight": Cost().avoid_weight,
            "patch": PATCH,
            "threads": 1,
        },
        {"inside_without_avoid": without["inside"], "inside_with_avoid": avoiding["inside"]},
        {"around": around, "over_steps": over_steps, "in_part": in_part},
    )


# A place in the way


def pairs_across(task: Task, simulation: Simulation, place: tuple[str, ...], count: int) -> list[Pair]:
    """The first dev pairs that begin and end outside of the place, with the scripted way leading through it."""
    found = list[Pair]()
    for index in range(MOST_DRAWS * count):
        pair = make_pair(task, simulation, "dev", 0, index, "image")
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
        f"{task.name}: {len(found)} pairs with the place {', '.join(place)} on their way; {count} are needed"
    )


def planners(planner: Planner, changes: dict[str, Change]) -> list[Policy]:
    """The planner, asked in different ways."""
    return [replace(local_planner(Watched(planner, change)), name=name) for name, change in changes.items()]


def keeping_out(
    task: Task, simulation: Simulation, policy: Policy, place: tuple[str, ...], pairs: Sequence[Pair]
) -> dict[str, Any]:
    """How often one policy is in the place, by the simulator's truth, beside how often it arrives."""
    tracked = Tracked(policy)
    row = reaching(task, simulation, tracked, pairs)
    inside = [[fulfils(task, state, place) for state in states] for states in tracked.states[1:]]  # see ``play``
    return {
        **row,
        "inside": float(np.mean(inside)),
        "steps_inside": float(np.sum(inside) / len(inside)),
        "never_inside": float(np.mean([not any(steps) for steps in inside])),
    }


def reaching(task: Task, simulation: Simulation, policy: Policy, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Success at the end at every tolerance, and the distance there."""
    played: MethodResult = play(task, simulation, policy, pairs, task.evaluation_steps, progress=False)
    return {
        "who": policy.name,
        "success_end": [asdict(played.end(i)) for i in range(len(task.tolerances))],
        "final_distance": float(np.median(played.final_distances())),
    }


# How steps count


COSTS = {
    "sum over steps": Cost(),
    "closest approach": Cost("closest"),
    "sum, control 1": Cost(control=1.0),
    "closest approach, control 0.1": Cost("closest", 0.1),
}


def blindly(
    task: Task,
    simulation: Simulation,
    planner: Planner,
    name: str,
    cost: Cost,
    pairs: Sequence[Pair],
    search: SearchSettings,
) -> dict[str, Any]:
    """One plan of each pair, done to its end without looking: how near it comes, stays and ends, and what it moves."""
    ways, moved = list[list[float]](), list[float]()
    active = list(task.action.active)
    half = (np.array(task.action.high) - np.array(task.action.low))[active] / 2
    for pair in pairs:
        simulation.restore(pair.start)
        query = PlanQuery(simulation.frame()[None], pair.goal, pair.index, search=search, cost=cost)
        [plan] = planner.plan([query])
        way = []
        for action in plan.actions:
            simulation.step(action)
            way.append(task.distance(simulation.state(), pair.goal_state))
        ways.append(way)
        moved.append(float(np.square(plan.actions[:, active] / half).sum()))
    distances = np.array(ways)
    return {
        "cost": name,
        "nearest": float(np.median(distances.min(1))),
        "nearest_at": float(np.mean(distances.argmin(1) + 1)),
        "mean": float(np.median(distances.mean(1))),
        "end": float(np.median(distances[:, -1])),
        "moved": float(np.mean(moved)),
    }


# A part of a goal picture


def patched(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture with a bright square in its upper left corner that no training picture has."""
    changed = frame.copy()
    changed[:PATCH, :PATCH] = (250, 40, 220)
    return changed


def without_corner(frame: NDArray[np.uint8]) -> ImageGoal:
    """A goal picture of which only what is to the right of the square counts."""
    height, width, _ = frame.shape
    return ImageGoal(frame, Region(PATCH, 0, width, height))


PICTURES: dict[str, Callable[[NDArray[np.uint8]], ImageGoal]] = {
    "as it is": ImageGoal,
    "with a foreign square": lambda frame: ImageGoal(patched(frame)),
    "with a foreign square, region without it": lambda frame: without_corner(patched(frame)),
    "as it is, the same region": without_corner,
}


def on_picture(change: Callable[[NDArray[np.uint8]], ImageGoal]) -> Change:
    """Ask for another goal picture in place of the one that was asked for."""

    def changed(query: PlanQuery) -> PlanQuery:
        assert isinstance(query.goal, ImageGoal)
        return replace(query, goal=change(query.goal.frame))

    return changed
