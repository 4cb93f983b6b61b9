"""Ctrl-C and SIGTERM: a command ends with one line and the exit status that shells give, whatever it was doing."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

SAID = {signal.SIGINT: "interrupted", signal.SIGTERM: "stopped"}


@contextlib.contextmanager
def stoppable() -> Iterator[None]:
    """Turn both signals into SystemExit 130 and 143 around the block, once what it holds open is closed.

    Whatever error follows a signal comes from it (libraries turn KeyboardInterrupt into errors of their own), so no
    traceback is shown.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    told: list[int] = []

    def stop(number: int, _: object) -> NoReturn:
        told.append(number)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in SAID}
    try:
        yield
    except BaseException:
        if not told:
            raise
        said = SAID[signal.Signals(told[0])]
        print(f"hnet: {said}; what was finished is kept, the same command goes on from there", file=sys.stderr)
        raise SystemExit(128 + told[0]) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
