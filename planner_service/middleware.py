"""Around every request: its id, its count, and the last catch for what nobody expected."""

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
_VALID = re.compile(r"[A-Za-z0-9._:-]{1,128}")  # it is written to logs: no spaces, no control characters


class Surround:
    """ASGI middleware. Plain ASGI, because Starlette's BaseHTTPMiddleware hides that a client has gone."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on. The client's x-request-id is kept when it is a plain word, else one is made."""
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
            if status:  # half an answer is out; only cutting the connection tells the client
                raise
            problem = ProblemError(500, "something unexpected happened; the server's log says what")
            await response(problem, request_id)(scope, receive, send_with_id)
        finally:
            self._metrics.in_flight.dec()
            # Unknown paths share one label: a scanner must not grow the metrics without end.
            route = getattr(scope.get("route"), "path", "other")
            self._metrics.requests.labels(route, str(status)).inc()
