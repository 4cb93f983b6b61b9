"""Progress of slow loops: a bar on a terminal, elsewhere a line by time, so that a log neither stalls nor floods."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Collection, Iterator
from typing import TextIO, TypeVar

from tqdm import tqdm

INTERVAL = 15.0  # seconds between two lines where there is no terminal

Item = TypeVar("Item")


@contextlib.contextmanager
def progress_counter(
    what: str,
    total: int,
    unit: str = "item",
    shown: bool = True,
    stream: TextIO | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[Callable[[int], object]]:
    """Show how many of ``total`` units are done; the block calls what this yields with the number of new ones.

    Without a terminal, a line such as ``random: 12 of 100 episodes, 31 s`` is written whenever INTERVAL seconds have
    passed since the last one; work that is faster writes none. ``stream``: by default standard error.
    """
    stream = sys.stderr if stream is None else stream
    if not shown:
        yield lambda count: None
    elif stream.isatty():
        with tqdm(total=total, desc=what, unit=unit, file=stream) as bar:
            yield bar.update
    else:
        yield _lines(what, total, unit, stream, clock)


def _lines(what: str, total: int, unit: str, stream: TextIO, clock: Callable[[], float]) -> Callable[[int], None]:
    start = last = clock()
    done = 0

    def add(count: int) -> None:
        nonlocal last, done
        done += count
        if (now := clock()) - last >= INTERVAL:
            last = now
            print(f"{what}: {done} of {total} {unit}s, {now - start:.0f} s", file=stream, flush=True)

    return add


def show_progress(items: Collection[Item], what: str, unit: str = "item", shown: bool = True) -> Iterator[Item]:
    """Iterate over ``items`` and show how many are done (see progress_counter)."""
    with progress_counter(what, len(items), unit, shown) as add:
        for item in items:
            yield item
            add(1)
