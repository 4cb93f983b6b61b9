"""What is asked of every method: pairs of a start and a goal that no collected episode can contain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.protocols import Goal, ImageGoal, LabelGoal, TextGoal
from sims.language import goal_text, position_labels
from sims.seeds import episode_seed, generator
from sims.task import Simulation, State, Task, scatter, walk

Split = Literal["dev", "test"]  # tune on dev, report on test
GoalKind = Literal["image", "text", "label"]
MAX_DRAWS = 200


@dataclass(frozen=True)
class Pair:
    """A start and a goal. Every method gets the same pairs.

    ``start`` is what Simulation.restore takes; ``goal_frame`` is the picture of the robot really being at the goal.
    ``required`` are the labels that must hold for a goal given in words or labels; empty for an image goal.
    """

    index: int
    seed: int
    start: NDArray[np.float64]
    start_state: State
    goal_state: State
    goal_frame: NDArray[np.uint8]
    goal: Goal
    required: tuple[str, ...]


def make_pair(task: Task, simulation: Simulation, split: Split, seed: int, index: int, kind: GoalKind) -> Pair:
    """Draw one pair: a random start, and goals that the scripted controller reaches from there until one will do.

    A goal will do when it is at least ``task.min_goal_distance`` from the start and, if it is given in words or labels,
    when these are not already true at the start.
    """
    number = episode_seed(split, seed, index)
    rng = generator(number)
    words = rng.spawn(1)[0]
    start_state = scatter(task, simulation, rng)
    start = simulation.save()
    for _ in range(MAX_DRAWS):
        simulation.restore(start)
        goal_state = walk(task, simulation, rng)
        goal, required = _goal(task, simulation, goal_state, kind, words)
        if task.distance(start_state, goal_state) < task.min_goal_distance:
            continue
        if required and fulfils(task, start_state, required):
            continue
        return Pair(index, number, start, start_state, goal_state, simulation.frame(), goal, required)
    raise RuntimeError(f"{task.name}: no goal far enough from the start in {MAX_DRAWS} draws")


def make_pairs(task: Task, simulation: Simulation, split: Split, seed: int, count: int, kind: GoalKind) -> list[Pair]:
    """Draw ``count`` pairs of an evaluation. Raises UserError when count or seed is out of range."""
    if count < 1:
        raise UserError(f"episodes is {count}; it must be at least 1")
    return [make_pair(task, simulation, split, seed, index, kind) for index in range(count)]


def fulfils(task: Task, state: State, required: tuple[str, ...]) -> bool:
    """Say whether all required labels hold in a state."""
    return set(required) <= set(position_labels(task.place(state)))


def refuse_evaluation_data(settings: Mapping[str, str | int | float], where: str) -> None:
    """Raise UserError when a data set (StoreInfo.settings) was made with the seeds that evaluations use."""
    domain = settings.get("domain", "collect")
    if domain in ("dev", "test"):
        raise UserError(
            f"{where} was trained on '{domain}' evaluation episodes; success on them says nothing, "
            "train on episodes made by 'hnet data collect'"
        )


def _goal(
    task: Task, simulation: Simulation, state: State, kind: GoalKind, words: np.random.Generator
) -> tuple[Goal, tuple[str, ...]]:
    if kind == "image":
        return ImageGoal(simulation.frame()), ()
    if kind == "text":
        sentence, required = goal_text(task.place(state), words, task.subject)
        return TextGoal(sentence), required
    required = position_labels(task.place(state))
    return LabelGoal(required), required
