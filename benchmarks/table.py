"""Tables of results in Markdown: what stands in one, how a rate is written, and where the numbers come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Rate = Callable[[Mapping[str, Any]], str]
"""Writes a success rate with its interval."""


@dataclass(frozen=True)
class Table:
    """What stands in a table, and a sentence below it. ``parts`` of the result are what it was made from."""

    head: list[str]
    rows: list[list[str]]
    note: str
    parts: tuple[str, ...]


class MissingPartError(LookupError):
    """A result has not got the part that a table is made from."""


class Parts(dict[str, Any]):
    """The parts of a result by name. Asking for one that was not made raises MissingPartError."""

    def __missing__(self, name: str) -> Any:
        """Called by ``parts[name]``."""
        raise MissingPartError(name)


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def rate(found: Mapping[str, Any]) -> str:
    """A success rate as text: per cent with its 95 % interval."""
    return f"{100 * found['successes'] / found['trials']:.0f} % ({100 * found['low']:.0f}–{100 * found['high']:.0f})"


def origin(*made: Mapping[str, Any]) -> str:
    """A line that says by which commands, when, where and from which commits results or parts of them were written."""
    commands = ", ".join(f"`{one['command']}`" for one in made)
    dates = ", ".join(sorted({one["date"] for one in made}))
    commits = sorted({one["commit"] for one in made})
    machines = "; ".join(dict.fromkeys(_machine(one["machine"]) for one in made))
    word = "commit" if len(commits) == 1 else "commits"
    return f"\nWritten by {commands} on {dates} ({machines}; {word} {', '.join(commits)}).\n"


def _machine(machine: Mapping[str, Any]) -> str:
    return f"{machine['cpu']}, {machine['cores']} cores" + (f", {machine['gpu']}" if "gpu" in machine else "")
