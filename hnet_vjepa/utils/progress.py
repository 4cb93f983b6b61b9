"""Progress of slow loops: a bar on a terminal, elsewhere a line by time, so that a log neither stalls nor floods."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Collection, Iterator
from typing import NoReturn, Protocol, TextIO, TypeVar

from tqdm import tqdm

INTERVAL = 15.0  # seconds between two lines where there is no terminal

Item = TypeVar("Item")


class Add(Protocol):
    """Count ``count`` more units; ``note`` says how the work is going, for instance ``loss 0.12``."""

    def __call__(self, count: int, note: str = "") -> None: ...


@contextlib.contextmanager
def progress_counter(
    what: str,
    total: int,
    unit: str = "item",
    shown: bool = True,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
    first: int = 0,
) -> Iterator[Add]:
    """Show how many of ``total`` units are done; the block calls what this yields with the number of new ones.

    A second argument says how the work is going and is shown beside the count. Without a terminal, a line such as
    ``random: 12 of 100 episodes, 31 s`` is written whenever INTERVAL seconds have passed since the last one; work that
    is faster writes none. ``stream``: by default standard error. ``first``: units done before.
    """
    stream = sys.stderr if stream is None else stream
    if not shown:
        yield lambda count, note="": None
    elif stream.isatty():
        with tqdm(total=total, initial=first, desc=what, unit=unit, file=stream) as bar:
            yield _bar(bar)
    else:
        yield _lines(what, total, unit, stream, clock, first)


def _bar(bar: tqdm[NoReturn]) -> Add:
    def add(count: int, note: str = "") -> None:
        if note:
            bar.set_postfix_str(note, refresh=False)
        bar.update(count)

    return add


def _lines(what: str, total: int, unit: str, stream: TextIO, clock: Callable[[], float], first: int) -> Add:
    start = last = clock()
    done, latest = first, ""

    def add(count: int, note: str = "") -> None:
        nonlocal last, done, latest
        done, latest = done + count, note or latest
        if (now := clock()) - last >= INTERVAL:
            last = now
            shown = f", {latest}" if latest else ""
            print(f"{what}: {done} of {total} {unit}s{shown}, {now - start:.0f} s", file=stream, flush=True)

    return add


def show_progress(items: Collection[Item], what: str, unit: str = "item", shown: bool = True) -> Iterator[Item]:
    """Iterate over ``items`` and show how many are done (see progress_counter)."""
    with progress_counter(what, len(items), unit, shown) as add:
        for item in items:
            yield item
            add(1)
