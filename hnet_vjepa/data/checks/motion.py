"""Checks of the actions against the motion that is seen in states and pictures."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.data.checks.finding import Finding, longest_run
from hnet_vjepa.data.importers.cleaning import motion_of
from hnet_vjepa.data.importers.pictures import Pictures
from hnet_vjepa.data.importers.rotation import differences
from hnet_vjepa.data.importers.tracks import Recordings, Track
from hnet_vjepa.errors import UserError

MOST_LAG = 5  # rows that actions may be off by
CLEAR = 0.05  # by how much a correlation must be better to count
ENOUGH = 0.3  # a correlation below says nothing
THUMB = (32, 32)  # pictures are compared this small
PART = 4096  # pictures decoded in one go, which bounds the memory that raw arrays take
FROZEN = 10  # equal pictures in a row while the robot moves


def state_lag(found: Recordings) -> Iterator[Finding]:
    """Actions that fit the states best when they are moved by some rows.

    An action's row should be the row whose change to the next state it makes: for changes, lag 0. Commands as targets
    run ahead of the states by the controller's delay, so only those that lag behind are named.
    """
    if not found.action_names or not found.state_names:
        return
    moved = [differences(track.states, found.state_names) for track in found.tracks]
    # Where the format does not say which are targets, what fits better decides.
    known = [column for column in range(len(found.action_names)) if column not in found.absolute]
    plain = [track.actions[:-1, known] for track in found.tracks]
    targets = [np.diff(track.actions[:, list(found.absolute) or known], axis=0) for track in found.tracks]
    scores = {"changes": _best_lag(plain, moved), "targets": _best_lag(targets, moved)}
    if not found.absolute:
        likely = max(scores, key=lambda kind: scores[kind][1])
        scores = {likely: scores[likely]}
    for kind, (lag, best, at_zero) in scores.items():
        wrong = lag != 0 if kind == "changes" else lag < -1
        if wrong and best > ENOUGH and best > at_zero + CLEAR:
            detail = f"as {kind}, the actions fit the states best {_rows(lag)} ({_fits(best, at_zero)})"
            yield Finding("error", "lag", "", detail)
            return


def _best_lag(actions: Sequence[NDArray[np.float32]], moved: Sequence[NDArray[np.float32]]) -> tuple[int, float, float]:
    """The lag of the largest correlation between an action's column and the state's column that fits it, its value
    there and at zero. At a positive lag the motion comes after the action's row.
    """
    if not actions[0].shape[1]:
        return 0, 0.0, 0.0
    columns: dict[int, NDArray[np.float64]] = {}
    most = min(MOST_LAG, int(np.median([len(a) for a in actions])) // 3)  # short episodes have no rows to spare
    long = [(a, m) for a, m in zip(actions, moved, strict=True) if len(a) > 2 * most]
    if not long:
        return 0, 0.0, 0.0
    for lag in range(-most, most + 1):
        pairs = [(_cut(a, -lag), _cut(m, lag)) for a, m in long]
        columns[lag] = np.abs(_correlation(*(np.concatenate(side) for side in zip(*pairs, strict=True))))
    # The state's number that an action drives is the one it fits best at any lag.
    partner = np.max(list(columns.values()), 0).argmax(1)
    fits = {lag: float(table[np.arange(len(partner)), partner].mean()) for lag, table in columns.items()}
    best = max(fits, key=lambda lag: (fits[lag], -abs(lag)))
    return best, fits[best], fits[0]


def _cut(rows: NDArray[np.float32], lag: int) -> NDArray[np.float64]:
    """Rows from ``lag`` on, or without the last ``-lag``."""
    return (rows[lag:] if lag >= 0 else rows[:lag]).astype(np.float64)


def _correlation(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correlations of the columns of N x A with those of N x B; 0 for a column that never changes."""
    a, b = (x - x.mean(0) for x in (a, b))
    scale = np.sqrt((a**2).sum(0))[:, None] * np.sqrt((b**2).sum(0))
    return np.where(scale > 1e-12, (a.T @ b) / np.maximum(scale, 1e-12), 0.0)


def units(found: Recordings) -> Iterator[Finding]:
    """Numbers too large for their unit."""
    for kind, names, rows in (
        ("action", _with_units(found.action_names, found.action_units), [t.actions for t in found.tracks]),
        ("state", found.state_names, [t.states for t in found.tracks]),
    ):
        if not names or not rows:
            continue
        size = np.percentile(np.abs(np.concatenate(rows).astype(np.float64)), 99, axis=0)
        for name, usual in zip(names, size, strict=True):
            if name.endswith("[m]") and kind == "action" and usual > 0.5:
                yield Finding("warning", "unit", "", f"action {name} reaches {usual:.3g}: metres, or normalised?")
            elif name.endswith("[m]") and usual > 20:
                yield Finding("warning", "unit", "", f"{kind} {name} reaches {usual:.3g}: metres, or mm?")
            elif name.endswith("[rad]") and usual > 4 * np.pi:
                yield Finding("warning", "unit", "", f"{kind} {name} reaches {usual:.3g}: radians, or degrees?")


def _with_units(names: Sequence[str], given: Sequence[str]) -> list[str]:
    return [f"{name} [{unit}]" for name, unit in zip(names, given or ["unknown"] * len(names), strict=True)]


def gripper(found: Recordings) -> Iterator[Finding]:
    """Grippers whose command opens in some episodes and closes in others, or has another range."""
    for column, name in enumerate(found.action_names):
        state = next((i for i, n in enumerate(found.state_names) if "gripper" in n.lower()), None)
        if "gripper" not in name.lower():
            continue
        signs: dict[float, list[str]] = {}
        ranges: dict[bool, list[str]] = {}
        for track in found.tracks:
            command = track.actions[:, column].astype(np.float64)
            ranges.setdefault(bool(command.min() < -0.1), []).append(track.where)
            if state is not None and command.std() > 1e-6 and track.states[:, state].std() > 1e-6:
                fit = float(np.corrcoef(command, track.states[:, state])[0, 1])
                if abs(fit) > ENOUGH:
                    signs.setdefault(float(np.sign(fit)), []).append(track.where)
        fewest = min(signs.values(), key=len, default=[])
        if len(signs) > 1:
            detail = f"{name} moves the gripper the other way in {len(fewest)} episodes than in the others"
            yield Finding("error", "gripper", fewest[0], detail)
        if len(ranges) > 1:
            odd = min(ranges.values(), key=len)
            detail = f"{name} has another range in {len(odd)} episodes than in the others"
            yield Finding("warning", "gripper", odd[0], detail)


def pictures(found: Recordings, done: Callable[[int], None] = lambda count: None) -> Iterator[Finding]:
    """Videos that do not decode, frozen or empty pictures, pictures that lag behind the actions. Decodes all."""
    speeds: list[NDArray[np.float32]] = []
    changes: list[NDArray[np.float32]] = []
    for track in found.tracks:
        done(1)
        try:
            seen = _thumbnails(track.pictures, len(track))
        except UserError as error:
            yield Finding("error", "video", track.where, str(error))
            continue
        if np.ptp(seen, axis=(1, 2, 3)).max() < 8:
            yield Finding("error", "video", track.where, "every picture is of one colour")
            continue
        change = np.abs(np.diff(seen, axis=0)).mean((1, 2, 3))
        speed = _speed(track, found.changes)
        longest, first = longest_run((change == 0) & (speed > 0))
        if longest >= FROZEN:
            detail = f"{longest} equal pictures in a row while the robot moves"
            yield Finding("error", "video", f"{track.where}: row {first}", detail)
        speeds.append(speed[:, None].astype(np.float32))
        changes.append(change[:, None].astype(np.float32))
    lag, best, at_zero = _best_lag(speeds, changes) if speeds else (0, 0.0, 0.0)
    if lag and best > ENOUGH and best > at_zero + CLEAR:
        detail = f"motion in the pictures fits the robot's best {_rows(lag)} ({_fits(best, at_zero)})"
        yield Finding("warning", "lag", "", detail)


def _thumbnails(source: Pictures, count: int) -> NDArray[np.float32]:
    """All pictures, small: T x 32 x 32 x 3."""
    parts = [source.read(range(start, min(start + PART, count)), THUMB) for start in range(0, count, PART)]
    return np.concatenate(parts).astype(np.float32)


def _speed(track: Track, changes: bool) -> NDArray[np.float64]:
    """How fast the robot moves from each row to the next, by its states or else by its actions: T - 1."""
    actions = track.actions[:, : 0 if track.states.shape[1] else None]
    motion = motion_of(actions, track.states, changes)
    return np.linalg.norm(motion / np.maximum(motion.std(0), 1e-9), axis=1)


def _fits(best: float, at_zero: float) -> str:
    return f"correlation {best:.2f}, as recorded {at_zero:.2f}"


def _rows(lag: int) -> str:
    return f"{abs(lag)} rows {'later' if lag > 0 else 'earlier'}"
