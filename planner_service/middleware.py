"""Middleware around every request: request id, metrics, and a handler for unexpected errors."""

from __future__ import annotations

import logging
import re
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from planner_service.metrics import Metrics
from planner_service.problems import ProblemError, response

log = logging.getLogger(__name__)

HEADER = "x-request-id"
_VALID = re.compile(r"[A-Za-z0-9._:-]{1,128}")  # it is logged, so no spaces and control characters


class Surround:
    """ASGI middleware. Plain ASGI, because Starlette's BaseHTTPMiddleware hides that a client has disconnected."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request. A valid x-request-id of the client is kept, otherwise a new id is generated."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        request_id = given if _VALID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        status = 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, send_with_id)
        except Exception:
            log.exception("request %s failed", request_id)
            if status:  # the response has begun; the client notices only a closed connection
                raise
            problem = ProblemError(500, "unexpected error; see the server's log")
            await response(problem, request_id)(scope, receive, send_with_id)
        finally:
            self._metrics.in_flight.dec()
            # Unknown paths share one label, so that a scanner cannot create any number of time series.
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()
