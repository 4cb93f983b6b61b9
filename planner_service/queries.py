"""From the bytes of a request to a PlanQuery, with the name of the field for everything that is wrong."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from hnet_vjepa.errors import UserError, one_of
from hnet_vjepa.planning.checks import check_places, check_region, check_weights
from hnet_vjepa.planning.interface import (
    AllGoals,
    Cost,
    Goal,
    ImageGoal,
    LabelGoal,
    LatentGoal,
    ModelCard,
    PlanQuery,
    PlanResult,
    Region,
    SearchSettings,
    SingleGoal,
    TextGoal,
)
from planner_service.images import decode_image
from planner_service.problems import from_validation, invalid
from planner_service.schemas import (
    MAX_SEARCH_STEPS,
    AllGoalsBody,
    CostBody,
    GoalBody,
    ImageGoalBody,
    LabelGoalBody,
    PlanRequest,
    PlanResponse,
    SearchBody,
    SingleGoalBody,
    TextGoalBody,
    Timing,
)

# JSON with more values than this is refused unread: the largest valid request has far fewer, and reading millions
# of them would hold the interpreter lock, and with it every other client, for seconds.
MAX_VALUES = 20_000
# The planner must be done this long before the client's deadline, for the answer to be written in time.
REPLY_S = 0.002


def parse_request(body: bytes) -> PlanRequest:
    """Return the request in ``body`` (JSON). Raises ProblemError (422) naming the fields that are wrong."""
    if body.count(b",") > MAX_VALUES:
        raise invalid("body", f"holds more than {MAX_VALUES} values; send images as base64 text, not as numbers")
    try:
        return PlanRequest.model_validate_json(body)
    except ValidationError as error:
        raise from_validation(error.errors(include_url=False, include_input=False, include_context=False)) from None


def to_query(request: PlanRequest, card: ModelCard, received: float) -> PlanQuery:
    """Return the query that ``request`` asks of the model that ``card`` describes.

    ``received`` is the time.monotonic() of the request's last byte; the deadline counts from there. Raises
    ProblemError (422) naming the field that does not fit the model.
    """
    frames = np.stack([_image(text, card, f"frames.{index}") for index, text in enumerate(request.frames)])
    return PlanQuery(
        frames=frames,
        goal=_goal(request.goal, card),
        seed=request.seed,
        previous_actions=_actions(request.previous_actions, card),
        deadline=None if request.deadline_ms is None else received + request.deadline_ms / 1e3 - REPLY_S,
        search=None if request.search is None else _search(request.search, card),
        cost=Cost() if request.cost is None else _cost(request.cost, card),
    )


def to_response(
    result: PlanResult, card: ModelCard, request: PlanRequest, timing: Timing, request_id: str
) -> PlanResponse:
    """Return the answer to ``request``. ``timing.total`` decides whether the deadline was met."""
    return PlanResponse(
        actions=result.actions.tolist(),
        action_names=list(card.action.names),
        action_units=list(card.action.units),
        energies=result.energies.tolist(),
        energy_now=result.energy_now,
        reached=result.reached,
        success_probability=result.success,
        unfamiliar=None if result.unfamiliar is None else list(result.unfamiliar),
        avoid_probability=None if result.avoid_probability is None else result.avoid_probability.tolist(),
        iterations=result.iterations,
        deadline_met=request.deadline_ms is None or timing.total <= request.deadline_ms,
        timing_ms=timing,
        state=result.state.tolist() if request.return_state else None,
        warnings=list(result.warnings),
        request_id=request_id,
        model=card.fingerprint,
    )


def warm_up_query(card: ModelCard) -> PlanQuery:
    """A query that every planner with this card can answer: grey frames and the first kind of goal it knows."""
    frame = np.full((card.camera.height, card.camera.width, 3), 128, np.uint8)
    goals: dict[str, Goal] = {
        "image": ImageGoal(frame),
        "text": TextGoal("warm up"),
        "label": LabelGoal(card.labels[:1]),
        "latent": LatentGoal(np.zeros(card.state_shape, np.float32)),
    }
    return PlanQuery(frames=np.repeat(frame[None], card.history + 1, axis=0), goal=goals[card.goals[0]])


def _image(text: str, card: ModelCard, field: str) -> NDArray[np.uint8]:
    with _at(field):
        return decode_image(text, card.camera)


def _goal(goal: GoalBody, card: ModelCard) -> Goal:
    if not isinstance(goal, AllGoalsBody):
        return _single(goal, card, "goal")
    goals = tuple(_single(one, card, f"goal.goals.{index}") for index, one in enumerate(goal.goals))
    if goal.weights is None:
        return AllGoals(goals)
    with _at("goal.weights"):
        check_weights(goal.weights, len(goals), "goals")
    return AllGoals(goals, tuple(goal.weights))


def _single(goal: SingleGoalBody, card: ModelCard, where: str) -> SingleGoal:
    if goal.kind not in card.goals:
        raise invalid(
            f"{where}.kind", f"this model was not trained for {goal.kind} goals; it takes {', '.join(card.goals)}"
        )
    if isinstance(goal, TextGoalBody):
        if not goal.text.strip():
            raise invalid(f"{where}.text", "is blank; say where the robot shall go")
        return TextGoal(goal.text)
    if isinstance(goal, LabelGoalBody):
        for index, label in enumerate(goal.labels):
            if label not in card.labels:
                raise invalid(f"{where}.labels.{index}", str(one_of("label", label, card.labels)))
        return LabelGoal(tuple(goal.labels))
    weights = None if goal.slot_weights is None else tuple(goal.slot_weights)
    if weights is not None:
        with _at(f"{where}.slot_weights"):
            check_weights(weights, card.state_shape[0], "slots")
    if not isinstance(goal, ImageGoalBody):
        return LatentGoal(_latent(goal.state, card.state_shape, f"{where}.state"), weights)
    if goal.region is None:
        return ImageGoal(_image(goal.image, card, f"{where}.image"), slot_weights=weights)
    if weights is not None:
        raise invalid(f"{where}.region", "give a region or slot_weights, not both")
    region = Region(goal.region.x0, goal.region.y0, goal.region.x1, goal.region.y1)
    with _at(f"{where}.region"):
        check_region(region, card.camera)
    return ImageGoal(_image(goal.image, card, f"{where}.image"), region)


def _cost(cost: CostBody, card: ModelCard) -> Cost:
    with _at("cost.avoid"):
        check_places(cost.avoid, card)
    return Cost(cost.over_steps, cost.control, tuple(map(tuple, cost.avoid)), cost.avoid_weight)


@contextlib.contextmanager
def _at(field: str) -> Iterator[None]:
    """Say of which field it is that a check complains."""
    try:
        yield
    except UserError as error:
        raise invalid(field, str(error)) from None


def _latent(rows: list[list[float]], shape: tuple[int, int], where: str) -> NDArray[np.float32]:
    if len(rows) != shape[0] or any(len(row) != shape[1] for row in rows):
        widths = sorted({len(row) for row in rows})
        given = f"{len(rows)} x {' or '.join(map(str, widths[:3]))}"
        raise invalid(where, f"{given} numbers; this model's states are {shape[0]} x {shape[1]}")
    state = _float32(rows)
    if not np.isfinite(state).all():
        raise invalid(where, "holds a number that does not fit 32-bit floating point")
    return state


def _actions(rows: list[list[float]] | None, card: ModelCard) -> NDArray[np.float32] | None:
    if rows is None:
        return None
    for index, row in enumerate(rows):
        if len(row) != card.action.dim:
            names = ", ".join(card.action.names)
            raise invalid(
                f"previous_actions.{index}", f"{len(row)} numbers; this robot takes {card.action.dim} ({names})"
            )
    actions = _float32(rows)
    if not np.isfinite(actions).all():
        raise invalid("previous_actions", "holds a number that does not fit 32-bit floating point")
    return actions


def _float32(rows: list[list[float]]) -> NDArray[np.float32]:
    # 1e300 is a valid JSON number but becomes infinity here; the callers look for it, so numpy need not warn.
    with np.errstate(over="ignore"):
        return np.asarray(rows, dtype=np.float32)


def _search(search: SearchBody, card: ModelCard) -> SearchSettings | None:
    default = card.search
    settings = SearchSettings(
        candidates=default.candidates if search.candidates is None else search.candidates,
        iterations=default.iterations if search.iterations is None else search.iterations,
        horizon=default.horizon if search.horizon is None else search.horizon,
        elites=default.elites if search.elites is None else search.elites,
    )
    if settings.elites > settings.candidates:
        if search.elites is None:  # fewer candidates were asked for; the checkpoint's elites must not forbid that
            settings = SearchSettings(settings.candidates, settings.iterations, settings.horizon, settings.candidates)
        else:
            raise invalid("search.elites", f"{settings.elites}; there are only {settings.candidates} candidates")
    steps = settings.candidates * settings.iterations * settings.horizon
    if steps > MAX_SEARCH_STEPS:
        raise invalid("search", f"candidates x iterations x horizon is {steps}; at most {MAX_SEARCH_STEPS}")
    # The same search, spelled out or left out, shall share a batch.
    return None if settings == default else settings
