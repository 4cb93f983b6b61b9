"""Checks of times, actions and states: pure functions of the recordings' tables."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from hnet_vjepa.data.checks.finding import Finding, longest_run
from hnet_vjepa.data.importers.cleaning import GAP, constant_columns, find_outliers, motion_of, still_rows
from hnet_vjepa.data.importers.tracks import Recordings

SHORT = 0.1  # of the usual length
IDLE = 0.2  # of an episode, standing still at one stretch
REPEATED = 0.05  # of the rows
MOST_NAMED = 5  # findings of one kind that are written out


def lengths(found: Recordings) -> Iterator[Finding]:
    """Episodes that could not be read or are much shorter than the others."""
    for skipped in found.skipped:
        yield Finding("error", "unreadable", skipped.where, skipped.reason)
    usual = float(np.median([len(track) for track in found.tracks])) if found.tracks else 0.0
    for track in found.tracks:
        if len(track) < max(2, SHORT * usual):
            severity = "error" if len(track) < 2 else "warning"
            yield Finding(severity, "length", track.where, f"{len(track)} rows; usual are {usual:g}")  # type: ignore[arg-type]


def times(found: Recordings) -> Iterator[Finding]:
    """Times that go back, jump, or repeat; rows that repeat the one before."""
    steps = np.concatenate([np.diff(track.times) for track in found.tracks] or [np.zeros(0)])
    usual = float(np.median(steps)) if len(steps) else 0.0
    for track in found.tracks:
        step = np.diff(track.times)
        for row in np.flatnonzero(step < 0):
            yield Finding("error", "time", f"{track.where}: row {row + 1}", f"time goes back by {-step[row]:.4g} s")
        for row in np.flatnonzero(step > GAP * usual):
            detail = f"{step[row]:.4g} s after the row before (usual {usual:.4g} s)"
            yield Finding("warning", "time", f"{track.where}: row {row + 1}", detail)
        same = np.flatnonzero(step == 0)
        if len(same):
            detail = f"{len(same)} rows have the time of the row before"
            yield Finding("error", "time", f"{track.where}: row {same[0] + 1}", detail)
        rows = np.concatenate([track.actions, track.states], 1)
        equal = (rows[1:] == rows[:-1]).all(1) & bool(rows.shape[1])
        again = np.flatnonzero(equal[:-1] & ~equal[1:] & ~np.concatenate([[False], equal[:-2]]))  # no idle stretches
        if len(again) > REPEATED * len(track):
            detail = f"{len(again)} of {len(track)} rows repeat the numbers of the row before"
            yield Finding("warning", "repeated row", f"{track.where}: row {again[0] + 1}", detail)


def finite(found: Recordings) -> Iterator[Finding]:
    """Numbers that are NaN or infinite."""
    for track in found.tracks:
        for kind, rows, names in (
            ("action", track.actions, found.action_names),
            ("state", track.states, found.state_names),
        ):
            for row, column in np.argwhere(~np.isfinite(rows))[:1]:
                detail = f"{kind} {names[column]} is {rows[row, column]}"
                yield Finding("error", "not a number", f"{track.where}: row {row}", detail)


def constant(found: Recordings) -> Iterator[Finding]:
    """Columns of the actions that never or hardly ever change."""
    if not found.action_names or not found.tracks:
        return
    actions = np.concatenate([track.actions for track in found.tracks]).astype(np.float64)
    if not actions.std(0).max() > 1e-9:
        yield Finding("error", "constant", "", "no action ever changes: the robot stands still in all episodes")
        return
    for kind, phrase in constant_columns(actions, found.action_names, found.action_units):
        yield Finding("warning", kind, "", phrase)


def outliers(found: Recordings) -> Iterator[Finding]:
    """Actions and states far outside the usual."""
    for rows, names in (
        ([track.actions for track in found.tracks], found.action_names),
        ([track.states for track in found.tracks], found.state_names),
    ):
        named = list(find_outliers(rows, names, [track.where for track in found.tracks])) if rows else []
        for phrase in named[:MOST_NAMED]:
            yield Finding("error", "outlier", "", phrase)
        if len(named) > MOST_NAMED:
            yield Finding("error", "outlier", "", f"and {len(named) - MOST_NAMED} more")


def idle(found: Recordings) -> Iterator[Finding]:
    """Long stretches in which nothing moves."""
    for track in found.tracks:
        still = still_rows(motion_of(track.actions, track.states, found.changes))
        longest, first = longest_run(still)
        if longest > max(10, IDLE * len(track)) and longest < len(track) - 1:
            detail = f"{longest} of {len(track)} rows stand still (--trim-idle leaves out the ends)"
            yield Finding("warning", "idle", f"{track.where}: row {first}", detail)


def statistics(found: Recordings) -> Iterator[Finding]:
    """Statistics that came with the recordings and contradict themselves or the numbers."""
    for feature, told in found.stated.items():
        names = found.action_names if feature == "action" else found.state_names
        rows = [track.actions if feature == "action" else track.states for track in found.tracks]
        data = np.concatenate(rows).astype(np.float64) if rows else np.zeros((0, len(names)))
        low, high, mean, std = (np.asarray(told[key], np.float64).reshape(-1) for key in ("min", "max", "mean", "std"))
        for column, name in enumerate(names[: len(low)]):
            lowest, highest = low[column], high[column]
            slack = 1e-6 * max(abs(lowest), abs(highest), 1e-3)
            where = f"stated {feature} {name}"
            if not lowest - slack <= mean[column] <= highest + slack:
                detail = f"mean {mean[column]:.7g} outside {lowest:.7g} to {highest:.7g}"
                yield Finding("error", "statistics", where, detail)
            elif std[column] > (highest - lowest) / 2 + slack:
                detail = f"deviation {std[column]:.3g}, but all values within {lowest:.6g} to {highest:.6g}"
                yield Finding("error", "statistics", where, detail)
            elif len(data):
                least, most = data[:, column].min(), data[:, column].max()
                if least < lowest - 10 * slack or most > highest + 10 * slack:
                    detail = f"{lowest:.6g} to {highest:.6g}, but recorded are {least:.6g} to {most:.6g}"
                    yield Finding("error", "statistics", where, detail)
