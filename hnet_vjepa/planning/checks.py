"""Checks of queries against a model card, with one-line errors. Service and planner check here and nowhere else."""

from __future__ import annotations

from hnet_vjepa.errors import FieldError, UserError, one_of
from hnet_vjepa.planning.goals.checks import LARGEST, check_labels
from hnet_vjepa.planning.goals.factory import check_goal
from hnet_vjepa.planning.interface import Cost, ModelCard, PlanQuery, SearchSettings

OVER_STEPS = ("sum", "closest")


def check_query(query: PlanQuery, card: ModelCard) -> None:
    """Raise UserError when a query can not be answered, naming what is wrong and what is allowed."""
    if query.frames.ndim != 4 or not len(query.frames):
        raise FieldError("frames", f"shape {query.frames.shape}; expected T x H x W x 3 with T at least 1")
    card.camera.check(query.frames, "frames")
    check_search(query.search or card.search)
    if query.previous_actions is not None:
        if query.previous_actions.ndim != 2:
            shape = query.previous_actions.shape
            raise FieldError("previous_actions", f"shape {shape}; expected H x {card.action.dim}")
        card.action.check(query.previous_actions, "previous_actions")
    check_goal(query.goal, card)
    check_cost(query.cost, card)


def check_search(search: SearchSettings) -> None:
    """Raise UserError when the settings make no sense, naming the field."""
    for name in ("candidates", "iterations", "horizon", "elites"):
        if getattr(search, name) < 1:
            raise UserError(f"search.{name} = {getattr(search, name)}; it must be at least 1")
    if search.elites > search.candidates:
        raise UserError(f"search.elites = {search.elites} exceeds search.candidates = {search.candidates}")


def check_cost(cost: Cost, card: ModelCard) -> None:
    """Raise UserError when a model can not plan with a cost, naming the field."""
    if cost.over_steps not in OVER_STEPS:
        raise one_of("cost.over_steps", cost.over_steps, OVER_STEPS)
    for name in ("control", "avoid_weight"):
        value = getattr(cost, name)
        if not 0 <= value <= LARGEST:  # so NaN is refused
            raise UserError(f"cost.{name} = {value}; it must be a number from 0 to {LARGEST:g}")
    if not all(isinstance(place, tuple) for place in (cost.avoid, *cost.avoid)):
        raise FieldError("cost.avoid", "must be a tuple of places, each a tuple of labels: (('left', 'low'),)")
    if cost.avoid and not card.labels:
        phases = ", ".join(card.phases)
        raise FieldError(
            "cost.avoid", f"this model knows no labels (phases trained: {phases}); they come with the phase 'probe'"
        )
    for place in cost.avoid:
        if not place:
            every = ", ".join(card.labels)
            raise FieldError("cost.avoid", f"a place needs at least one label; choose from: {every}")
        check_labels(place, card, "cost.avoid", numbered=False)
