"""``hnet serve``."""

from __future__ import annotations


def serve() -> None:
    """Not written yet."""
