"""Ctrl-C and SIGTERM end a command with one line and the exit status that shells use, at whatever point it is."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

WORDS = {signal.SIGINT: "interrupted", signal.SIGTERM: "stopped"}


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Turn both signals into SystemExit 130 and 143 around the block, after the block's resources are closed.

    Any error after a signal is taken to be its consequence (libraries convert KeyboardInterrupt into errors of their
    own), so no traceback is shown.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread can handle signals
        yield
        return
    received: list[int] = []

    def stop(number: int, _: object) -> NoReturn:
        received.append(number)
        raise KeyboardInterrupt

    previous = {number: signal.signal(number, stop) for number in WORDS}
    try:
        yield
    except BaseException:
        if not received:
            raise
        word = WORDS[signal.Signals(received[0])]
        print(f"hnet: {word}; what was finished is kept, the same command goes on from there", file=sys.stderr)
        raise SystemExit(128 + received[0]) from None
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
