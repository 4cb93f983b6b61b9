"""Errors whose message is meant for the user of the command line or the client of the service."""

from __future__ import annotations


class UserError(Exception):
    """The user's input is wrong and can be corrected.

    The message is one line: what is wrong, where, and what is allowed. The command line prints it and exits
    with status 2; the service answers with a 4xx that carries it. Anything that is not a UserError is a bug.
    """


def one_of(what: str, given: object, allowed: object) -> UserError:
    """Build the error for a choice that does not exist: ``unknown task 'x'; choose one of: a, b``."""
    names = ", ".join(str(name) for name in allowed) if isinstance(allowed, list | tuple | set | dict) else str(allowed)
    return UserError(f"unknown {what} '{given}'; choose one of: {names}")


class FieldError(UserError):
    """A UserError about one field of the user's input: ``goal.labels.1: unknown label 'up'; choose one of: left``."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(f"{field}: {detail}")
        self.field, self.detail = field, detail
