"""Bearer-token authentication."""

from __future__ import annotations

import hmac
from collections.abc import Awaitable, Callable

from fastapi import Security
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from hnet_vjepa.errors import UserError
from planner_service.problems import ProblemError


def require_token(token: str | None) -> Callable[..., Awaitable[None]]:
    """Return a FastAPI dependency that accepts only requests with ``Authorization: Bearer <token>``.

    None accepts all requests. Raises UserError when the token cannot be sent in an HTTP header.
    """
    if token is not None and not (token.isascii() and token.isprintable() and token.strip() == token != ""):
        raise UserError("the token must be printable ASCII, not empty, without spaces at its ends")
    scheme = HTTPBearer(auto_error=False, description="The token with which the server was started.")

    async def check(credentials: HTTPAuthorizationCredentials | None = Security(scheme)) -> None:
        given = "" if credentials is None else credentials.credentials
        # Constant time: the duration of a comparison must not reveal how much of a guess was right.
        if token is not None and not hmac.compare_digest(given.encode(), token.encode()):
            detail = "send the header Authorization: Bearer <token>, with the token with which the server was started"
            raise ProblemError(401, detail, headers={"www-authenticate": "Bearer"})

    return check
