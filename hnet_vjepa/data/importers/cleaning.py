"""Rows of recorded tables that should not be trained on as they are: outliers, idle ends, irregular times."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.errors import UserError
from hnet_vjepa.specs import NEARLY

Outliers = Literal["refuse", "clip", "keep"]
FAR = 10.0  # times the spread of a column that a value may lie beyond it
STILL = 0.02  # of the usual motion: less is standing still
GAP = 3.0  # times the usual interval: more is a gap


def limits(actions: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Beyond which values each column of N x D is an outlier: FAR spreads outside the 1st and 99th percentile.

    The spread is the distance of the two. It says nothing of a column that hardly ever changes; there, a value is an
    outlier when it is a hundred times larger than the column's median (or than 1).
    """
    bottom, middle, top = np.percentile(actions.astype(np.float64), (1, 50, 99), axis=0)
    spread = top - bottom
    margin = np.where(spread > 0, FAR * spread, 100 * np.maximum(np.abs(middle), 1))
    return bottom - margin, top + margin


def find_outliers(actions: Sequence[NDArray[np.float32]], names: Sequence[str], where: Sequence[str]) -> Iterator[str]:
    """A phrase for each outlier in the episodes' ``actions`` (T x D each): episode, row, column and value."""
    if not names:
        return
    low, high = limits(np.concatenate(actions))
    for place, rows in zip(where, actions, strict=True):
        for row, column in np.argwhere((rows < low) | (rows > high)):
            usual = f"{low[column]:.4g} to {high[column]:.4g}"
            yield f"{place}: row {row}, {names[column]} is {rows[row, column]:.4g} (expected within {usual})"


def check_outliers(actions: Sequence[NDArray[np.float32]], names: Sequence[str], where: Sequence[str]) -> None:
    """Raise UserError naming the first outlier by episode and row, with the number of all."""
    found = list(find_outliers(actions, names, where))
    if found:
        raise UserError(
            f"{len(found)} outliers in the actions; {found[0]}; mend the recording, or give --outliers clip (or keep)"
        )


def clip_outliers(
    actions: Sequence[NDArray[np.float32]], names: Sequence[str], where: Sequence[str], report: Callable[[str], None]
) -> list[NDArray[np.float32]]:
    """The same actions, outliers moved to the 1st or 99th percentile of their column; ``report`` says how many."""
    found = list(find_outliers(actions, names, where))
    if not found:
        return list(actions)
    together = np.concatenate(actions)
    low, high = limits(together)
    bottom, top = np.percentile(together.astype(np.float64), (1, 99), axis=0)
    report(f"{len(found)} outliers are clipped; the first is {found[0]}")
    clipped = [np.where(rows < low, bottom, np.where(rows > high, top, rows)) for rows in actions]
    return [rows.astype(np.float32) for rows in clipped]


def constant_columns(
    actions: NDArray[np.float64] | NDArray[np.float32], names: Sequence[str], units: Sequence[str]
) -> Iterator[tuple[str, str]]:
    """Columns of N x D that never or hardly ever change: ``constant`` or ``nearly constant``, and a phrase.

    The spread from the 1st to the 99th percentile counts, because an outlier says nothing of the others; it is compared
    with the largest of the same unit.
    """
    exact = actions.astype(np.float64)
    spread = np.diff(np.percentile(exact, (1, 99), axis=0), axis=0)[0]
    spread = np.where(spread > 0, spread, exact.std(0))
    for column, (name, unit) in enumerate(zip(names, units or ("unknown",) * len(names), strict=True)):
        largest = max(spread[i] for i in range(len(names)) if not units or units[i] == unit)
        middle = f"{np.median(actions[:, column]):.4g}"
        if spread[column] <= 1e-9:
            yield "constant", f"action {name} is always {middle}"
        elif spread[column] < NEARLY * largest:
            yield "nearly constant", f"action {name} is {middle}, give or take {spread[column] / 2:.2g}"


def nearly_constant(actions: Sequence[NDArray[np.float32]], names: Sequence[str], units: Sequence[str]) -> list[str]:
    """A note on columns of the episodes' actions that hardly ever change, if there are any."""
    columns = constant_columns(np.concatenate(actions), names, units) if names else ()
    found = [phrase for kind, phrase in columns if kind == "nearly constant"]
    return [f"nearly constant: {'; '.join(found)}: normalisation bounds such columns"] if found else []


def motion_of(actions: NDArray[np.float32], states: NDArray[np.float32], changes: bool) -> NDArray[np.float64]:
    """How much each row of an episode moves the robot: T - 1 x D of state differences, and of actions (T x A).

    ``changes``: the actions are motions themselves, not targets.
    """
    commanded = actions[:-1] if changes else np.diff(actions, axis=0)
    return np.abs(np.concatenate([commanded, np.diff(states, axis=0)], 1).astype(np.float64))


def still_rows(motion: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which of N rows of motion are standing still: less than STILL of what is usual (95th percentile) everywhere."""
    if not motion.size:
        return np.zeros(len(motion), bool)
    usual = np.percentile(motion, 95, axis=0)
    usual = np.where(usual > 0, usual, motion.max(0))
    return np.asarray((motion <= STILL * np.where(usual > 0, usual, np.inf)).all(axis=1), np.bool_)


def moving_rows(motion: NDArray[np.float64]) -> range:
    """The rows of an episode from the first motion (T - 1 x D) to the last; all of them when nothing moves."""
    moved = np.flatnonzero(~still_rows(motion))
    return range(moved[0], moved[-1] + 2) if len(moved) else range(len(motion) + 1)


def regular_rows(times: NDArray[np.float64], dt: float, usual: float) -> tuple[NDArray[np.int64], list[str]]:
    """Row numbers nearest to every ``dt`` seconds of the longest stretch without a gap, and a phrase for each gap.

    ``times``: T rising seconds; ``usual``: the recorded interval in seconds, at most ``dt``.
    """
    gaps = np.flatnonzero(np.diff(times) > GAP * max(usual, dt))
    starts, ends = np.append(0, gaps + 1), np.append(gaps, len(times) - 1)
    best = int(np.argmax(times[ends] - times[starts]))
    first, last = int(starts[best]), int(ends[best])
    grid = times[first] + dt * np.arange(int((times[last] - times[first]) / dt + 0.5 * usual / dt) + 1)
    inside = times[first : last + 1]
    right = np.clip(np.searchsorted(inside, grid), 0, len(inside) - 1)
    left = np.maximum(right - 1, 0)
    rows = np.where(grid - inside[left] <= inside[right] - grid, left, right) + first
    return np.unique(rows), [f"gap of {times[g + 1] - times[g]:.3g} s after row {g}" for g in gaps]
