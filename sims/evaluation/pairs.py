"""Pairs of a start and a goal, the same for every method, from seeds that no collected episode can have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.goals.label import LabelGoal
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.goals.text import TextGoal
from hnet_vjepa.planning.interface import Goal
from hnet_vjepa.utils.progress import show_progress
from sims.core.language import Placement, goal_text, position_labels
from sims.core.seeds import episode_seed, generator
from sims.core.task import Simulation, State, Task, scatter, walk

Split = Literal["dev", "test"]  # tune on dev, report on test
GoalKind = Literal["image", "text", "label"]
MAX_DRAWS = 200


class NoGoalError(UserError):
    """No goal was found: within so few steps the data policy changes nothing that the task measures."""


@dataclass(frozen=True)
class Pair:
    """A start and a goal. Every method gets the same pairs.

    ``start`` and ``goal_saved`` are arguments of Simulation.restore; ``goal_frame`` is the rendered frame at the goal.
    ``required``: the labels that must hold for a text or label goal; empty for an image goal. ``actions`` (K x dim)
    lead from the start to the goal where the goal was taken from an episode. ``excluded``: the number of draws before
    this one that were rejected because start and goal were too near.
    """

    index: int
    seed: int
    start: NDArray[np.float64]
    start_state: State
    goal_saved: NDArray[np.float64]
    goal_state: State
    goal_frame: NDArray[np.uint8]
    goal: Goal
    required: tuple[str, ...]
    actions: NDArray[np.float32] | None = None
    excluded: int = 0


def make_pair(
    task: Task,
    simulation: Simulation,
    split: Split,
    seed: int,
    index: int,
    kind: GoalKind,
    distance: int | None = None,
) -> Pair:
    """Draw one pair by rejection sampling: a random start and a goal that can be reached from it.

    Without ``distance`` the scripted controller (or, for want of one, the data policy) goes to the goal, from the same
    start at every draw; the goal must be at least ``task.min_goal_distance`` away. With it, the goal is the state of a
    data-policy episode ``distance`` steps of the environment after its start, and the loosest criterion must not be met
    at the start. A text or label goal must not be fulfilled at the start.
    """
    number = episode_seed(split, seed, index)
    rng = generator(number)
    words = rng.spawn(1)[0]
    start_state = scatter(task, simulation, rng)
    start = simulation.save()
    actions = None
    for excluded in range(MAX_DRAWS):
        if distance is not None and excluded:  # nothing moved from this start, so draw another
            start_state, start = scatter(task, simulation, rng), simulation.save()
        simulation.restore(start)
        if distance is None:
            goal_state = walk(task, simulation, rng)
        else:
            actions = _act(task, simulation, rng, actions_of(task, distance))
            goal_state = simulation.state()
        goal, required = _goal(task, simulation, goal_state, kind, words)
        apart = task.distance(start_state, goal_state)
        near = apart < task.min_goal_distance if distance is None else not required and apart <= task.tolerances[0]
        if near or (required and fulfils(task, start_state, required)):
            continue
        return Pair(
            index=index,
            seed=number,
            start=start,
            start_state=start_state,
            goal_saved=simulation.save(),
            goal_state=goal_state,
            goal_frame=simulation.frame(),
            goal=goal,
            required=required,
            actions=actions,
            excluded=excluded,
        )
    advice = "lower min_goal_distance or raise settle_steps" if distance is None else "a larger distance helps"
    raise NoGoalError(f"{task.name}: no goal far enough from the start in {MAX_DRAWS} draws; {advice}")


def make_pairs(
    task: Task,
    simulation: Simulation,
    split: Split,
    seed: int,
    count: int,
    kind: GoalKind,
    distance: int | None = None,
    progress: bool = True,
) -> list[Pair]:
    """Draw ``count`` pairs of an evaluation (see make_pair).

    Raises UserError when count, seed or distance is out of range, NoGoalError when no goal can be found.
    """
    if count < 1:
        raise UserError(f"episodes is {count}; it must be at least 1")
    if distance is not None and distance < 1:
        raise UserError(f"distance is {distance}; it must be at least 1 step of the environment")
    shown = show_progress(range(count), f"{split} pairs", "pair", progress)
    return [make_pair(task, simulation, split, seed, index, kind, distance) for index in shown]


def actions_of(task: Task, steps: int) -> int:
    """How many actions fill ``steps`` steps of the environment."""
    return -(-steps // task.interval)


def budget(task: Task, distance: int | None) -> int:
    """Actions per episode: the task's own number, or as many as fill twice the goal distance."""
    return task.evaluation_steps if distance is None else actions_of(task, 2 * distance)


def _act(task: Task, simulation: Simulation, rng: np.random.Generator, count: int) -> NDArray[np.float32]:
    """Execute ``count`` actions of the data policy and return them (count x dim)."""
    act = task.data_policy(rng)
    done = []
    for _ in range(count):
        action = np.clip(act(simulation.state()), task.action.low, task.action.high).astype(np.float32)
        simulation.step(action)
        done.append(action)
    return np.stack(done)


def fulfils(task: Task, state: State, required: tuple[str, ...]) -> bool:
    """Whether all required labels hold in a state."""
    return set(required) <= set(position_labels(_placement(task, state)))


def refuse_evaluation_data(settings: Mapping[str, str | int | float], where: str) -> None:
    """Raise UserError when a data set (its StoreInfo.settings) was collected with evaluation seeds."""
    domain = settings.get("domain", "collect")
    if domain in ("dev", "test"):
        raise UserError(
            f"{where} was trained on '{domain}' evaluation episodes; success on them is no evidence; "
            "train on episodes made by 'hnet data collect'"
        )


def _goal(
    task: Task, simulation: Simulation, state: State, kind: GoalKind, words: np.random.Generator
) -> tuple[Goal, tuple[str, ...]]:
    if kind == "image":
        return ImageGoal(simulation.frame()), ()
    place = _placement(task, state)
    if kind == "text":
        sentence, required = goal_text(place, words, task.subject)
        return TextGoal(sentence), required
    required = position_labels(place)
    return LabelGoal(required), required


def _placement(task: Task, state: State) -> Placement:
    if task.place is None:
        raise UserError(f"{task.name} says of no state where things are (it has no 'place'); give image goals")
    return task.place(state)
