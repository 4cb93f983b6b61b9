"""Progress without a terminal: lines by time, neither silence nor a flood."""

from __future__ import annotations

import io

from hnet_vjepa.utils.progress import progress_counter, show_progress


def lines(seconds: list[float], counts: list[int]) -> list[str]:
    """What is written when the clock shows these times, at the start and after each count."""
    stream, times = io.StringIO(), iter(seconds)
    with progress_counter("random", 100, "episode", stream=stream, clock=lambda: next(times)) as add:
        for count in counts:
            add(count)
    return stream.getvalue().splitlines()


def test_a_line_whenever_fifteen_seconds_have_passed() -> None:
    found = lines([0, 5, 14.9, 15, 20, 29.9, 31, 46.5], [1] * 6 + [30])
    assert found == [
        "random: 3 of 100 episodes, 15 s",
        "random: 6 of 100 episodes, 31 s",
        "random: 36 of 100 episodes, 46 s",
    ]


def test_a_line_carries_the_last_note_and_counts_from_where_a_run_goes_on() -> None:
    stream, times = io.StringIO(), iter([0.0, 1.0, 16.0])
    with progress_counter("action", 600, "step", stream=stream, clock=lambda: next(times), first=100) as add:
        add(1, "loss 0.250")
        add(1)
    assert stream.getvalue() == "action: 102 of 600 steps, loss 0.250, 16 s\n"


def test_fast_work_writes_nothing() -> None:
    assert lines([100, 101, 102], [50, 50]) == []


def test_not_shown_writes_nothing() -> None:
    stream = io.StringIO()
    with progress_counter("x", 1, shown=False, stream=stream, clock=iter([0.0, 99.0]).__next__) as add:
        add(1)
    assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar() -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    stream = Terminal()
    with progress_counter("planner", 2, "episode", stream=stream) as add:
        add(1)
        add(1)
    assert "planner" in stream.getvalue() and "2/2" in stream.getvalue()


def test_items_come_through_in_order() -> None:
    assert list(show_progress([3, 1, 2], "x")) == [3, 1, 2]
