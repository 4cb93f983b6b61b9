"""The FastAPI application: its routes and error handlers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future
from typing import Any, cast

from fastapi import Depends, FastAPI, Request
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse, JSONResponse, Response
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from pydantic import TypeAdapter
from starlette.exceptions import HTTPException

from hnet_vjepa import __version__
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.interface import ModelCard, Planner, PlanQuery
from planner_service import problems
from planner_service.auth import require_token
from planner_service.batching import Planned, PlannerWorker, State
from planner_service.body import read_body
from planner_service.metrics import Metrics
from planner_service.middleware import Surround
from planner_service.problems import Problem, ProblemError, unavailable
from planner_service.queries import parse_request, to_query, to_response
from planner_service.schemas import PlanRequest, PlanResponse, Timing

STOP_S = 10.0  # time to finish the running batch when the server stops
DESCRIPTION = """\
Send the robot's camera images and a goal; receive the actions that lead there, within a deadline.

1. `GET /v1/model` returns the size of the camera image, the robot's actions and the kinds of goals.
2. `POST /v1/plan` with `frames` (the last one is the current image) and a `goal`: a picture or a part of it, a
   sentence, labels, a stored state, or several of them. A `cost` defines places to avoid and a control cost.
3. Execute the first action, take the next image, and send it with the response's `actions` as `previous_actions`.

Every error response is `application/problem+json` with a `detail` that explains how to correct the request; for an
invalid request, `errors` lists the path of each wrong field. A 503 has the time to wait in `Retry-After`.
"""
PAGE = """<!doctype html><html lang="en"><meta charset="utf-8"><title>H-Net V-JEPA planner</title>
<body style="font-family: sans-serif; max-width: 40em; margin: 3em auto; line-height: 1.5">
<h1>H-Net V-JEPA planner</h1>
<p>This server plans actions of a robot from camera images and a goal. State: {state}.</p>
<ul><li><a href="docs">API documentation</a> with a form to try requests (<a href="openapi.json">OpenAPI</a>)</li>
<li><a href="v1/model">The loaded model</a> (needs the token, if one is set)</li>
<li><a href="readyz">Readiness</a>, <a href="metrics">metrics</a> for Prometheus</li></ul></body></html>
"""
_PROBLEM = {"content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}}
_PLAN_BODY = {
    "requestBody": {
        "required": True,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/PlanRequest"}}},
    }
}


def create_app(
    load: Callable[[], Planner] | Planner,
    token: str | None = None,
    max_batch: int = 8,
    max_queue: int = 64,
    max_body_bytes: int = 32 * 2**20,
) -> FastAPI:
    """Return the application that serves a planner, or what ``load`` returns once the server runs.

    With a ``token``, /v1/* and /plan need ``Authorization: Bearer <token>``. At most ``max_batch`` requests are
    planned together and ``max_queue`` wait; further ones get a 503. Raises UserError for an unusable token.
    """
    loader = (lambda: cast(Planner, load)) if hasattr(load, "plan") else load
    metrics = Metrics(lambda: worker.state[0] == State.READY, lambda: worker.depth)
    worker = PlannerWorker(loader, max_batch, max_queue, metrics.batch)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        worker.start()
        yield
        await asyncio.to_thread(worker.stop, STOP_S)

    app = FastAPI(
        title="H-Net V-JEPA planner", version=__version__, description=DESCRIPTION, lifespan=lifespan, redoc_url=None
    )
    app.add_middleware(Surround, metrics=metrics)
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(UserError, _on_user_error)
    app.add_exception_handler(HTTPException, _on_http_error)
    app.openapi = lambda: _openapi(app)  # type: ignore[method-assign]
    guard = [Depends(require_token(token))]

    @app.post(
        "/v1/plan",
        summary="Plan",
        dependencies=guard,
        response_model=PlanResponse,
        responses={
            status: {"description": problems.TITLES[status], **_PROBLEM} for status in (401, 413, 422, 500, 503)
        },
        openapi_extra=_PLAN_BODY,
    )
    @app.post("/plan", summary="Plan (the same as /v1/plan)", dependencies=guard, openapi_extra=_PLAN_BODY)
    async def plan(request: Request) -> Response:
        """Find the actions that lead from `frames` to `goal`."""
        body = await read_body(request, max_body_bytes)
        received = time.monotonic()
        card = worker.card
        # In a thread: decoding megabytes of JSON and images would block the other connections.
        parsed, query = await asyncio.to_thread(_read, body, card, received)
        decode_ms = _ms_since(received)
        planned = await _answer_unless_gone(request, worker.submit(query))
        if planned is None:
            return Response(status_code=499)  # the client has disconnected; only the metrics see the status
        result = planned.result
        timing = Timing(
            queue=planned.queue_ms,
            decode=decode_ms,
            encode=result.timing_ms.get("encode", 0.0),
            plan=result.timing_ms.get("plan", 0.0),
            total=_ms_since(received),
        )
        answer = to_response(result, card, parsed, timing, request.state.request_id)
        metrics.plan_seconds.observe(timing.total / 1e3)
        if not answer.deadline_met:
            metrics.deadlines_missed.inc()
        return Response(answer.model_dump_json(), media_type="application/json")

    @app.get("/v1/model", summary="The loaded model", dependencies=guard, response_model=ModelCard)
    async def model() -> Response:
        """What a client needs to send requests: task, camera, actions, kinds of goals, labels, default search."""
        return Response(TypeAdapter(ModelCard).dump_json(worker.card), media_type="application/json")

    @app.get("/healthz", summary="Alive")
    async def healthz() -> JSONResponse:
        """Succeeds as long as the process responds."""
        return JSONResponse({"status": "alive"})

    @app.get("/readyz", summary="Ready", responses={503: {"description": "Not ready", **_PROBLEM}})
    async def readyz() -> JSONResponse:
        """Succeeds once the model is loaded and has made a first plan, and as long as planning works."""
        state, detail = worker.state
        if state != State.READY:
            raise unavailable(detail)
        return JSONResponse({"status": "ready"})

    @app.get("/metrics", summary="Metrics for Prometheus", response_class=Response)
    async def metrics_page() -> Response:
        """Requests by route and status, plan latency, batch size, queue depth, requests in flight."""
        return Response(generate_latest(metrics.registry), media_type=CONTENT_TYPE_LATEST)

    @app.get("/", include_in_schema=False)
    async def page() -> HTMLResponse:
        return HTMLResponse(PAGE.format(state=worker.state[0].value))

    return app


def _read(body: bytes, card: ModelCard, received: float) -> tuple[PlanRequest, PlanQuery]:
    parsed = parse_request(body)
    return parsed, to_query(parsed, card, received)


def _ms_since(moment: float) -> float:
    return (time.monotonic() - moment) * 1e3


async def _answer_unless_gone(request: Request, future: Future[Planned]) -> Planned | None:
    """Wait for the plan; cancel the query and return None if the client disconnects first."""
    answer = asyncio.wrap_future(future)
    gone = asyncio.ensure_future(request.receive())  # the body is read: the next message is the disconnect
    try:
        either: list[asyncio.Future[Any]] = [answer, gone]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        return answer.result() if answer.done() else None
    finally:
        gone.cancel()
        answer.cancel()


async def _on_problem(request: Request, error: Exception) -> Response:
    return problems.response(cast(ProblemError, error), request.state.request_id)


async def _on_user_error(request: Request, error: Exception) -> Response:
    return problems.response(ProblemError(422, str(error)), request.state.request_id)


async def _on_http_error(request: Request, error: Exception) -> Response:
    failure = cast(HTTPException, error)
    details = {
        404: f"there is no {request.url.path[: problems.MAX_TEXT]}; the paths are listed at /docs",
        405: f"{request.url.path[: problems.MAX_TEXT]} does not take {request.method[:20]}",
    }
    detail = details.get(failure.status_code, str(failure.detail))
    return problems.response(
        ProblemError(failure.status_code, detail, headers=failure.headers), request.state.request_id
    )


def _openapi(app: FastAPI) -> dict[str, Any]:
    # The plan route reads its body itself (limits of size and time, a thread), so FastAPI does not know its models.
    if app.openapi_schema is None:
        schema = get_openapi(title=app.title, version=app.version, description=app.description, routes=app.routes)
        models = schema.setdefault("components", {}).setdefault("schemas", {})
        for model in (PlanRequest, Problem):
            described = model.model_json_schema(ref_template="#/components/schemas/{model}")
            models.update(described.pop("$defs", {}))
            models[model.__name__] = described
        app.openapi_schema = schema
    return app.openapi_schema
