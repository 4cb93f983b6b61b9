"""Which recorded episodes can be used: finite numbers, rising times, and no copy of another."""

from __future__ import annotations

import numpy as np

from hnet_vjepa.data.importers.base import Skipped
from hnet_vjepa.data.importers.tracks import Recordings, Track


def usable_tracks(recordings: Recordings) -> tuple[list[Track], list[Skipped]]:
    """Episodes with finite numbers, rising times and no copy before them; and the others."""
    usable: list[Track] = []
    skipped: list[Skipped] = []
    seen: dict[tuple[int, bytes, bytes], list[Track]] = {}
    for track in recordings.tracks:
        if reason := _damage(track, recordings):
            skipped.append(Skipped(track.where, reason))
            continue
        # Pictures are compared only where the tables agree.
        same = seen.setdefault((len(track), track.actions.tobytes(), track.states.tobytes()), [])
        if copy := next((t for t in same if t.pictures.identity() == track.pictures.identity()), None):
            skipped.append(Skipped(track.where, f"it is the same as {copy.where}"))
            continue
        same.append(track)
        usable.append(track)
    return usable, skipped


def _damage(track: Track, recordings: Recordings) -> str | None:
    """What makes an episode unusable, or None."""
    for kind, rows, names in (
        ("action", track.actions, recordings.action_names),
        ("state", track.states, recordings.state_names),
    ):
        if rows.shape != (len(track), len(names)):
            return f"{kind}s of shape {rows.shape}; needs {len(track)} rows of {len(names)}"
        if len(wrong := np.argwhere(~np.isfinite(rows))):
            row, column = wrong[0]
            return f"row {row}, {kind} {names[column]} is {rows[row, column]}"
    if len(track) < 2:
        return f"{len(track)} rows; an episode needs at least 2"
    if len(back := np.flatnonzero(np.diff(track.times) < 0)):
        return f"time goes back after row {back[0]} (by {-np.diff(track.times)[back[0]]:.3g} s)"
    return None
