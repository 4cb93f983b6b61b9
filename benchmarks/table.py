"""Tables of results in Markdown: their content, the format of rates, and the origin of the numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Table:
    """Header, rows and the note below a table. ``parts`` names the parts of the result that it is made from."""

    head: list[str]
    rows: list[list[str]]
    note: str
    parts: tuple[str, ...]


class MissingPartError(LookupError):
    """A result lacks the part that a table is made from."""


class Parts(dict[str, Any]):
    """The parts of a result by name. Looking up a part that was not measured raises MissingPartError."""

    def __missing__(self, name: str) -> Any:
        """Called by ``parts[name]``."""
        raise MissingPartError(name)


@dataclass(frozen=True)
class Result:
    """A result that consists of parts: the record of each part, and the metrics of all of them."""

    parts: Parts
    metrics: Mapping[str, Any]


MakeTable = Callable[[Result], Table]
"""Makes a table from a result. Raises MissingPartError when a part that it needs was not measured."""


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def rate(found: Mapping[str, Any]) -> str:
    """A success rate as text: per cent with its 95 % interval."""
    return f"{100 * found['successes'] / found['trials']:.0f} % ({100 * found['low']:.0f}–{100 * found['high']:.0f})"


def origin(*made: Mapping[str, Any]) -> str:
    """One line with the commands, date, machine and commits that results, or parts of them, were written with."""
    commands = ", ".join(f"`{one['command']}`" for one in made)
    dates = ", ".join(sorted({one["date"] for one in made}))
    commits = sorted({one["commit"] for one in made})
    machines = "; ".join(dict.fromkeys(_machine(one["machine"]) for one in made))
    word = "commit" if len(commits) == 1 else "commits"
    return f"\nWritten by {commands} on {dates} ({machines}; {word} {', '.join(commits)}).\n"


def _machine(machine: Mapping[str, Any]) -> str:
    return f"{machine['cpu']}, {machine['cores']} cores" + (f", {machine['gpu']}" if "gpu" in machine else "")
