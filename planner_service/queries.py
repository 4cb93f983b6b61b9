"""From the bytes of a request to a PlanQuery, with the name of the field for everything that is wrong."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from hnet_vjepa.errors import FieldError, UserError
from hnet_vjepa.planning.checks import check_query
from hnet_vjepa.planning.goals.label import LabelGoal
from hnet_vjepa.planning.goals.state import ImageGoal, LatentGoal
from hnet_vjepa.planning.goals.text import TextGoal
from hnet_vjepa.planning.interface import Cost, Goal, ModelCard, PlanQuery, PlanResult, SearchSettings
from planner_service.images import decode_image
from planner_service.problems import from_validation, invalid
from planner_service.schemas import (
    MAX_SEARCH_STEPS,
    CostBody,
    PlanRequest,
    PlanResponse,
    SearchBody,
    Timing,
    to_float32,
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
    """Return the query that ``request`` makes of the model that ``card`` describes.

    ``received`` is the time.monotonic() of the request's last byte; the deadline counts from there. Raises
    ProblemError (422) naming the field that does not fit the model.
    """

    def decode(text: str, where: str) -> NDArray[np.uint8]:
        try:
            return decode_image(text, card.camera)
        except UserError as error:
            raise FieldError(where, str(error)) from None

    try:
        query = PlanQuery(
            frames=np.stack([decode(text, f"frames.{index}") for index, text in enumerate(request.frames)]),
            goal=request.goal.goal("goal", decode),
            seed=request.seed,
            previous_actions=_actions(request.previous_actions, card),
            deadline=None if request.deadline_ms is None else received + request.deadline_ms / 1e3 - REPLY_S,
            search=None if request.search is None else _search(request.search, card),
            cost=Cost() if request.cost is None else _cost(request.cost),
        )
        check_query(query, card)
    except FieldError as error:
        raise invalid(error.field, error.detail) from None
    return query


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
        unfamiliar=None if result.ood is None else list(result.ood),
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


def _cost(cost: CostBody) -> Cost:
    return Cost(cost.over_steps, cost.control, tuple(map(tuple, cost.avoid)), cost.avoid_weight)


def _actions(rows: list[list[float]] | None, card: ModelCard) -> NDArray[np.float32] | None:
    if rows is None:
        return None
    for index, row in enumerate(rows):
        if len(row) != card.action.dim:
            names = ", ".join(card.action.names)
            raise FieldError(
                f"previous_actions.{index}", f"{len(row)} numbers; this robot takes {card.action.dim} ({names})"
            )
    return to_float32(rows, "previous_actions")


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
            raise FieldError("search.elites", f"{settings.elites}; there are only {settings.candidates} candidates")
    steps = settings.candidates * settings.iterations * settings.horizon
    if steps > MAX_SEARCH_STEPS:
        raise FieldError("search", f"candidates x iterations x horizon is {steps}; at most {MAX_SEARCH_STEPS}")
    # The same search, spelled out or left out, shall share a batch.
    return None if settings == default else settings
