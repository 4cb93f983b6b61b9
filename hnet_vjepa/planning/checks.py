"""What is wrong with a goal or a cost, in one line, for a model of which only the card is known."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import numpy as np

from hnet_vjepa.errors import UserError, one_of
from hnet_vjepa.planning.interface import (
    LARGEST,
    AllGoals,
    Cost,
    Goal,
    ImageGoal,
    LabelGoal,
    ModelCard,
    Region,
    SingleGoal,
    TextGoal,
)
from hnet_vjepa.specs import CameraSpec
from hnet_vjepa.tokenization import tokenize


def check_goal(goal: Goal, card: ModelCard) -> None:
    """Raise UserError when a model can not be asked for a goal, naming the field."""
    if not isinstance(goal, AllGoals):
        _check_single(goal, card, "goal")
        return
    if not goal.goals:
        raise UserError("goal.goals is empty; give at least one goal")
    for i, one in enumerate(goal.goals):
        if isinstance(one, AllGoals):
            raise UserError(f"goal.goals.{i} is itself several goals; put them all into one list")
        _check_single(one, card, f"goal.goals.{i}")
    if goal.weights is not None:
        with _at("goal.weights"):
            check_weights(goal.weights, len(goal.goals), "goals")


def check_cost(cost: Cost, card: ModelCard) -> None:
    """Raise UserError when a model can not plan with a cost, naming the field."""
    if cost.over_steps not in ("sum", "closest"):
        raise one_of("cost.over_steps", cost.over_steps, ("sum", "closest"))
    for name in ("control", "avoid_weight"):
        value = getattr(cost, name)
        if not 0 <= value <= LARGEST:  # so NaN is refused
            raise UserError(f"cost.{name} = {value}; it must be a number from 0 to {LARGEST:g}")
    if not all(isinstance(place, tuple) for place in (cost.avoid, *cost.avoid)):
        raise UserError("cost.avoid must be a tuple of places, each a tuple of labels: (('left', 'low'),)")
    with _at("cost.avoid"):
        check_places(cost.avoid, card)


def check_weights(weights: Sequence[float], count: int, of: str) -> None:
    """Raise UserError unless there is a weight for each of ``count`` things, none negative, not all zero."""
    if len(weights) != count:
        raise UserError(f"{len(weights)} numbers for {count} {of}")
    if not all(0 <= weight <= LARGEST for weight in weights):  # so NaN is refused
        raise UserError(f"every weight must be a number from 0 to {LARGEST:g}")
    if not any(weights):
        raise UserError("all weights are zero; nothing is left to reach")


def check_region(region: Region, camera: CameraSpec) -> None:
    """Raise UserError unless a region is a rectangle of some area inside the camera's pictures."""
    across, down = (region.x0, region.x1, camera.width), (region.y0, region.y1, camera.height)
    if not all(0 <= first < last <= size for first, last, size in (across, down)):
        raise UserError(
            f"columns {region.x0} to {region.x1}, rows {region.y0} to {region.y1}: no rectangle inside the picture of "
            f"{camera.width} columns and {camera.height} rows"
        )


def check_places(places: Sequence[Sequence[str]], card: ModelCard) -> None:
    """Raise UserError unless each place is named by some of the model's labels."""
    if places and not card.labels:
        raise UserError(
            f"this model knows no labels (phases trained: {', '.join(card.phases)}); they come with the phase 'probe'"
        )
    for place in places:
        if not place:
            raise UserError(f"a place without labels is everywhere; choose from: {', '.join(card.labels)}")
        check_labels(place, card)


def check_labels(labels: Sequence[str], card: ModelCard) -> None:
    """Raise UserError for the first label that the model does not know."""
    for name in labels:
        if name not in card.labels:
            raise one_of("label", name, card.labels)


def _check_single(goal: SingleGoal, card: ModelCard, where: str) -> None:
    kinds = {ImageGoal: "image", TextGoal: "text", LabelGoal: "label"}
    kind = kinds.get(type(goal), "latent")
    if kind not in card.goals:
        raise UserError(
            f"{where}: this model takes no {kind} goals (phases trained: {', '.join(card.phases)}); "
            f"it takes: {', '.join(card.goals)}"
        )
    if isinstance(goal, TextGoal):
        if not tokenize(goal.text):
            raise UserError(f"{where}.text is empty; say in words where the robot shall go")
        return
    if isinstance(goal, LabelGoal):
        if isinstance(goal.labels, str):
            raise UserError(f"{where}.labels is one string; give a tuple of labels: ('{goal.labels}',)")
        if not goal.labels:
            raise UserError(f"{where}.labels is empty; choose from: {', '.join(card.labels)}")
        with _at(f"{where}.labels"):
            check_labels(goal.labels, card)
        return
    if isinstance(goal, ImageGoal):
        if goal.frame.ndim != 3:
            raise UserError(f"{where}.image: shape {goal.frame.shape}; expected H x W x 3")
        card.camera.check(goal.frame, f"{where}.image")
        if goal.region is not None:
            with _at(f"{where}.region"):
                check_region(goal.region, card.camera)
                if goal.slot_weights is not None:
                    raise UserError("give a region or slot_weights, not both")
    elif goal.state.shape != card.state_shape or not (np.abs(goal.state) <= LARGEST).all():  # so NaN is refused
        size = f"{card.state_shape[0]} x {card.state_shape[1]}"
        raise UserError(f"{where}.state: expected {size} finite numbers, none beyond {LARGEST:g}")
    if goal.slot_weights is not None:
        with _at(f"{where}.slot_weights"):
            check_weights(goal.slot_weights, card.state_shape[0], "slots")


@contextlib.contextmanager
def _at(field: str) -> Iterator[None]:
    """Put the name of a field before what a check says."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{field}: {error}") from None
