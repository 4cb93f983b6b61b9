"""Reading a request's body within limits of size and time."""

from __future__ import annotations

import asyncio

from starlette.requests import ClientDisconnect, Request

from planner_service.problems import ProblemError

BODY_TIMEOUT_S = 30.0


async def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the body. Raises ProblemError: 415 when it is not JSON, 413 when too large, 408 when too slow."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        # Also excludes web pages of other origins: browsers send other types without a preflight request.
        raise ProblemError(415, "send JSON, with the header content-type: application/json")
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                size += len(chunk)
                if size <= max_bytes:
                    chunks.append(chunk)
                # The rest is read and dropped: a client that is still sending would see a closed connection as broken
                # and never read the response.
    except TimeoutError:
        raise ProblemError(408, f"the body did not arrive within {BODY_TIMEOUT_S:g} seconds") from None
    except ClientDisconnect:
        raise ProblemError(400, "the client disconnected before the body was complete") from None
    if size > max_bytes:
        raise ProblemError(413, f"body of {size} bytes; at most {max_bytes} are read")
    return b"".join(chunks)
