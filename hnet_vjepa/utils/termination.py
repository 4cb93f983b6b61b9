"""SIGTERM held back until a piece of work can be saved."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def termination() -> Iterator[Callable[[], bool]]:
    """Hold SIGTERM back in the block and say whether it has come, so that the step can be finished and saved."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread can handle signals
        yield lambda: False
        return
    came: list[int] = []
    before = signal.getsignal(signal.SIGTERM)

    def note(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, before)
        came.append(number)

    signal.signal(signal.SIGTERM, note)
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before)
