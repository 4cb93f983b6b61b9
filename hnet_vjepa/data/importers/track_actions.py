"""Which rows of a recorded episode are stored, and the action that leads from each to the next."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.data.importers.cleaning import motion_of, moving_rows, regular_rows
from hnet_vjepa.data.importers.rotation import composed, differences
from hnet_vjepa.data.importers.tracks import Actions, ImportOptions, Recordings, Track
from hnet_vjepa.errors import UserError

SAME_RATE = 0.05  # recorded intervals closer than this fraction are the same


class TooShort(Exception):
    """What is left of an episode has no transition."""


def action_mode(recordings: Recordings, options: ImportOptions, notes: list[str]) -> Actions:
    """What the actions of the store are; ``auto`` looks whether the recorded ones lie near the states."""
    recorded, measured = bool(recordings.action_names), bool(recordings.state_names)
    if options.actions == "differences" and not measured:
        raise UserError(f"{recordings.root} records no states, so actions can not be their differences")
    if options.actions in ("changes", "targets") and not recorded:
        raise UserError(f"{recordings.root} records no actions; give --actions differences if it has states")
    if options.actions != "auto":
        return options.actions
    if not recorded:
        if measured:
            notes.append("no recorded actions; an action is the difference of two states")
        return "differences" if measured else "changes"
    targets = measured and _near_states(recordings.tracks)
    if targets:
        notes.append(
            "the actions lie near the states: taken as absolute targets (--actions changes takes them as changes)"
        )
    else:
        notes.append("the actions are taken as changes, zero holding still (--actions targets: as absolute targets)")
    return "targets" if targets else "changes"


def _near_states(tracks: Sequence[Track], most: int = 50) -> bool:
    """Whether more than half of the action's numbers lie near some number of that row's state or the next one's."""
    chosen = [track for track in tracks[:most] if len(track) > 1]
    actions = np.concatenate([track.actions[:-1] for track in chosen]).astype(np.float64)
    now = np.concatenate([track.states[:-1] for track in chosen]).astype(np.float64)
    after = np.concatenate([track.states[1:] for track in chosen]).astype(np.float64)
    near = 0
    for column in actions.T:
        distance = min(np.abs(states - column[:, None]).mean(0).min() for states in (now, after))
        near += bool(distance < (0.5 * column.std() or 0.1 * np.abs(column).max()))
    return near > actions.shape[1] / 2


def interval(tracks: Sequence[Track], options: ImportOptions, notes: list[str]) -> float:
    """Seconds between two stored frames."""
    recorded = np.array([np.median(np.diff(track.times)) for track in tracks])
    usual = float(f"{np.median(recorded):.6g}")
    if usual <= 0:
        raise UserError(f"{tracks[0].where}: most rows have the same time; the timestamps are not usable")
    if options.dt is None:
        if len(odd := np.flatnonzero(np.abs(recorded / usual - 1) > SAME_RATE)):
            first = f"{tracks[odd[0]].where} with {recorded[odd[0]]:.4g} s between rows instead of {usual:g}"
            notes.append(f"{len(odd)} episodes have another rate, such as {first}; --dt resamples all to one")
        return usual
    if options.dt < usual * (1 - SAME_RATE):
        raise UserError(
            f"dt is {options.dt:g} s, finer than recorded ({usual:g} s between two rows); give at least that"
        )
    return options.dt


def cut(
    track: Track, dt: float, mode: Actions, recordings: Recordings, options: ImportOptions, notes: list[str]
) -> tuple[Track, NDArray[np.float32]]:
    """The stored rows of an episode, and its actions (T - 1 x A). Raises TooShort."""
    kept = np.arange(len(track))
    usual = float(np.median(np.diff(track.times)))
    if options.dt is not None and usual > 0:
        kept, gaps = regular_rows(track.times, dt, usual)
        if gaps:
            notes.append(f"{track.where}: {gaps[0]}; only the longest stretch without a gap is kept")
    if options.trim_idle and len(kept) > 1:
        moving = moving_rows(motion_of(track.actions[kept], track.states[kept], mode == "changes"))
        if len(moving) < len(kept):
            notes.append(f"{track.where}: {len(kept) - len(moving)} of {len(kept)} rows at the ends are idle, left out")
        kept = kept[moving]
    if len(kept) < 2:
        raise TooShort
    if mode == "differences":
        actions = differences(track.states[kept], recordings.state_names)
    elif mode == "targets":
        actions = track.actions[kept[1:] - 1]  # what was commanded last before the next stored frame
    else:
        parts = [track.actions[a:b] for a, b in pairwise(kept)]
        actions = np.stack([composed(part, recordings.action_names) if len(part) > 1 else part[0] for part in parts])
        actions[:, recordings.absolute] = track.actions[kept[1:] - 1][:, recordings.absolute]
    return track.rows(kept), actions
