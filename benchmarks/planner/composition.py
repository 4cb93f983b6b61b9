"""Effects of composed goals and costs: a region to avoid, the aggregation over steps, and a region of a goal image."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.part import Part
from benchmarks.planner.avoidance import avoidance_row, pairs_across
from benchmarks.planner.cells import search_size
from benchmarks.planner.comparison import success_row
from benchmarks.planner.instrumented import Transform, policies, threads, unchanged
from benchmarks.table import Result, Table, rate
from hnet_vjepa.planning.goals.region import Region
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.interface import Cost, Planner, PlanQuery, SearchSettings
from hnet_vjepa.planning.planner import load_planner
from sims.core.task import Simulation, Task
from sims.evaluation.pairs import Pair, make_pairs
from sims.evaluation.policies import ScriptedPolicy, check_card
from sims.evaluation.units import in_unit, length, shown_in

PAIRS = 40
PLACE = ("centre", "middle")  # of the image: it can be passed on every side
WIDE = SearchSettings(64, 4, 6, 8)  # for long plans that are executed open loop
PATCH = 16  # side of the distractor square in the corner of goal images, in pixels

COSTS = {
    "sum over steps": Cost(),
    "closest approach": Cost("closest"),
    "sum, control 1": Cost(control=1.0),
    "closest approach, control 0.1": Cost("closest", 0.1),
}


def composition(
    task: Task, checkpoint: Path, pairs: int = PAIRS, wide: SearchSettings = WIDE, place: tuple[str, ...] = PLACE
) -> Part:
    """Play dev pairs with and without each of them, one thread.

    Raises UserError when there are not enough pairs whose path crosses ``place``.
    """
    planner = load_planner(checkpoint)
    check_card(task, planner.card, "image")
    with contextlib.closing(task.open()) as simulation, threads(1):
        blocked = pairs_across(task, simulation, place, pairs)
        transforms: dict[str, Transform] = {
            "planner": unchanged,
            "planner, avoid cost": lambda query: replace(query, cost=Cost(avoid=(place,))),
        }
        around = [
            avoidance_row(task, simulation, policy, place, blocked)
            for policy in (*policies(planner, transforms), ScriptedPolicy(task))
        ]
        drawn = make_pairs(task, simulation, "dev", 0, pairs, "image")
        over_steps = [open_loop_row(task, simulation, planner, name, cost, drawn, wide) for name, cost in COSTS.items()]
        in_part = [
            success_row(task, simulation, policy, drawn)
            for policy in policies(planner, {name: with_goal(make) for name, make in GOALS.items()})
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


def open_loop_row(
    task: Task,
    simulation: Simulation,
    planner: Planner,
    name: str,
    cost: Cost,
    pairs: Sequence[Pair],
    search: SearchSettings,
) -> dict[str, Any]:
    """One plan for each pair, executed open loop: nearest, mean and final distance to the goal, and size of actions."""
    paths, moved = list[list[float]](), list[float]()
    active = list(task.action.active)
    half = (np.array(task.action.high) - np.array(task.action.low))[active] / 2
    for pair in pairs:
        simulation.restore(pair.start)
        query = PlanQuery(simulation.frame()[None], pair.goal, pair.index, search=search, cost=cost)
        [plan] = planner.plan([query])
        path = []
        for action in plan.actions:
            simulation.step(action)
            path.append(task.distance(simulation.state(), pair.goal_state))
        paths.append(path)
        moved.append(float(np.square(plan.actions[:, active] / half).sum()))
    distances = np.array(paths)
    return {
        "cost": name,
        "nearest": float(np.median(distances.min(1))),
        "nearest_at": float(np.mean(distances.argmin(1) + 1)),
        "mean": float(np.median(distances.mean(1))),
        "end": float(np.median(distances[:, -1])),
        "moved": float(np.mean(moved)),
    }


def patched(frame: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """An image with a bright square in its upper left corner that no training image has."""
    changed = frame.copy()
    changed[:PATCH, :PATCH] = (250, 40, 220)
    return changed


def without_corner(frame: NDArray[np.uint8]) -> ImageGoal:
    """An image goal whose region is everything to the right of the square."""
    height, width, _ = frame.shape
    return ImageGoal(frame, Region(PATCH, 0, width, height))


GOALS: dict[str, Callable[[NDArray[np.uint8]], ImageGoal]] = {
    "original": ImageGoal,
    "with a distractor square": lambda frame: ImageGoal(patched(frame)),
    "with a distractor square, region without it": lambda frame: without_corner(patched(frame)),
    "original, the same region": without_corner,
}


def with_goal(make: Callable[[NDArray[np.uint8]], ImageGoal]) -> Transform:
    """Replace a query's goal by one made from its goal image."""

    def transform(query: PlanQuery) -> PlanQuery:
        assert isinstance(query.goal, ImageGoal)
        return replace(query, goal=make(query.goal.frame))

    return transform


def avoidance_table(result: Result) -> Table:
    """A region on the path, with and without the cost of being inside it."""
    part = result.parts["composition"]
    settings = part["settings"]
    rows = [
        [
            row["who"],
            f"{100 * row['inside']:.1f} %",
            f"{row['steps_inside']:.1f}",
            f"{100 * row['never_inside']:.0f} %",
            rate(row["success_end"][-1]),
            f"{shown_in(settings['unit'])[0] * row['final_distance']:.2g}",
        ]
        for row in part["around"]
    ]
    note = (
        f"The first {settings['pairs']} dev pairs of {settings['task']} whose scripted path crosses the region that is "
        f"{' and '.join(settings['place'])}; {search_size(settings['search'])}, `avoid_weight` "
        f"{settings['avoid_weight']:g}. Positions are the simulator's."
    )
    strict = f"within {length(settings['tolerance'], settings['unit'])} at the end"
    final = in_unit("final distance, median", settings["unit"])
    head = ["", "steps inside", "steps inside per episode", "episodes without any", strict, final]
    return Table(head, rows, note, ("composition",))


def over_steps_table(result: Result) -> Table:
    """How energies are aggregated over the steps: plans that are executed open loop."""
    part = result.parts["composition"]
    settings = part["settings"]
    factor = shown_in(settings["unit"])[0]
    rows = [
        [
            row["cost"],
            *(f"{factor * row[key]:.2g}" for key in ("nearest", "mean", "end")),
            f"{row['nearest_at']:.1f}",
            f"{row['moved']:.1f}",
        ]
        for row in part["over_steps"]
    ]
    note = (
        f"One plan for each of {settings['pairs']} dev pairs of {settings['task']} ({search_size(settings['wide'])}), "
        "executed open loop; medians over the pairs, in the last two columns means."
    )
    unit = settings["unit"]
    head = [
        "cost",
        *(in_unit(f"{what} distance", unit) for what in ("nearest", "mean", "final")),
        "nearest after action",
        "squared size of actions",
    ]
    return Table(head, rows, note, ("composition",))


def regions_table(result: Result) -> Table:
    """Goal images with a distractor in a corner, with and without a region."""
    part = result.parts["composition"]
    settings = part["settings"]
    unit = settings["unit"]
    rows = [
        [
            row["who"],
            *(rate(found) for found in (row["success_end"][0], row["success_end"][-1])),
            f"{shown_in(unit)[0] * row['final_distance']:.2g}",
        ]
        for row in part["in_part"]
    ]
    note = (
        f"{settings['pairs']} dev pairs of {settings['task']}; a bright square of {settings['patch']} x "
        f"{settings['patch']} pixels in the upper left corner of the goal image."
    )
    within = [f"within {length(settings[key], unit)} at the end" for key in ("loosest", "tolerance")]
    return Table(["goal image", *within, in_unit("final distance, median", unit)], rows, note, ("composition",))
