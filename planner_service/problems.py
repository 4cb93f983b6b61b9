"""Error responses: application/problem+json (RFC 9457), without stack traces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from pydantic import BaseModel, Field
from pydantic_core import ErrorDetails
from starlette.responses import Response

MEDIA_TYPE = "application/problem+json"
TITLES = {
    400: "Bad request",
    401: "Not authorised",
    404: "Not found",
    405: "Method not allowed",
    408: "Request too slow",
    413: "Request too large",
    415: "Unsupported media type",
    422: "Invalid request",
    500: "Internal error",
    503: "Not available",
}
MAX_LISTED = 20  # field errors in one answer
MAX_TEXT = 300  # characters of text that repeats what the client sent


class FieldError(BaseModel):
    """One invalid field of a request."""

    field: str = Field(description="path of the field in the request", examples=["goal.image"])
    detail: str = Field(description="what is wrong and what is allowed")


class Problem(BaseModel):
    """The body of every error response."""

    type: str = Field(description="kind of problem; stable, for programs", examples=["urn:hnet:problem:422"])
    title: str = Field(description="the kind of problem in words", examples=["Invalid request"])
    status: int = Field(description="HTTP status", examples=[422])
    detail: str = Field(description="what went wrong and how to correct it")
    request_id: str = Field(description="the x-request-id of this request, which is also in the server's log")
    errors: list[FieldError] = Field(default_factory=list, description="the invalid fields, if any")


class ProblemError(Exception):
    """Ends a request with an error response. ``headers`` are added to it."""

    def __init__(
        self,
        status: int,
        detail: str,
        errors: Sequence[FieldError] = (),
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.detail = detail
        self.errors = tuple(errors)
        self.headers = dict(headers or {})


def invalid(field: str, detail: str) -> ProblemError:
    """One invalid field, status 422."""
    return ProblemError(422, f"{field}: {detail}", [FieldError(field=field, detail=detail)])


def unavailable(detail: str) -> ProblemError:
    """A temporary failure, status 503 with Retry-After."""
    return ProblemError(503, detail, headers={"retry-after": "1"})


def from_validation(errors: Sequence[ErrorDetails]) -> ProblemError:
    """The problem for pydantic's ``errors``, with field paths and without values (which may be images)."""
    listed = [FieldError(field=_path(error["loc"]), detail=error["msg"][:MAX_TEXT]) for error in errors[:MAX_LISTED]]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    detail = f"{listed[0].field}: {listed[0].detail}{more}"
    return ProblemError(422, detail, listed)


def _path(location: tuple[int | str, ...]) -> str:
    # Pydantic inserts the kind of a goal into the path, goal.image.image; the client wrote goal.image. Parts of a
    # combined goal have one each: goal.all.goals.0.image.image.
    parts = [str(part) for part in location]
    if len(parts) > 2 and parts[0] == "goal":
        if parts[1] == "all" and len(parts) > 5 and parts[2] == "goals":
            del parts[4]
        del parts[1]
    return ".".join(parts)[:MAX_TEXT] or "body"


def response(problem: ProblemError, request_id: str) -> Response:
    """The HTTP response for ``problem``."""
    content = Problem(
        type=f"urn:hnet:problem:{problem.status}",
        title=TITLES.get(problem.status, "Error"),
        status=problem.status,
        detail=problem.detail,
        request_id=request_id,
        errors=list(problem.errors),
    )
    return Response(content.model_dump_json(), problem.status, problem.headers, MEDIA_TYPE)
