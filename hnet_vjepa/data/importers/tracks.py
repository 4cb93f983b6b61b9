"""Recorded episodes as tables with pictures beside them: what most formats hold, and what a reader of one returns.

``read_<format>(path, options) -> Recordings`` finds the tables of all episodes; ``track_source.TrackSource`` makes an
``EpisodeSource`` of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.data.importers.base import Skipped
from hnet_vjepa.data.importers.cleaning import Outliers
from hnet_vjepa.data.importers.pictures import Flip, Pictures
from hnet_vjepa.data.store import Captions
from hnet_vjepa.data.video import Size
from hnet_vjepa.errors import UserError, one_of

Actions = Literal["auto", "changes", "targets", "differences"]


@dataclass(frozen=True)
class ImportOptions:
    """What the user decides about an import.

    ``size`` is that of one camera (height, width). ``dt``: seconds between two stored frames, by default as recorded.
    ``camera``, ``beside``: names of a camera and of a second one, stored at its right. ``action_key``, ``state_key``:
    names of tables, joined by commas, where a format has several. ``rate``: recorded rows per second, where a format
    does not say them. ``damaged``: what to do when a video or picture turns out to be damaged while it is decoded.
    ``robot``: a robot.json with names, units and bounds of the actions, instead of estimated ones.
    """

    size: Size = (64, 64)
    dt: float | None = None
    camera: str | None = None
    beside: str | None = None
    actions: Actions = "auto"
    action_key: str | None = None
    state_key: str | None = None
    rate: float | None = None
    trim_idle: bool = False
    outliers: Outliers = "refuse"
    damaged: Literal["refuse", "skip"] = "refuse"
    robot: Path | None = None
    flip: Flip = "none"
    bgr: bool = False


@dataclass(frozen=True)
class Track:
    """One recorded episode of T rows."""

    where: str  # for messages
    number: int  # its number in the recordings, kept as Episode.seed
    times: NDArray[np.float64]  # T, seconds
    pictures: Pictures
    actions: NDArray[np.float32]  # T x A; row t was commanded at times[t]. A may be 0
    states: NDArray[np.float32]  # T x S; S may be 0
    captions: tuple[Captions, ...]  # T
    classes: tuple[str, ...] = ()  # which of Recordings.labels hold, where the format has classes

    def __len__(self) -> int:
        return len(self.times)

    def rows(self, kept: NDArray[np.int64]) -> Track:
        """The same episode with these rows only; actions are the recorded ones of these rows."""
        return replace(
            self,
            times=self.times[kept],
            pictures=_Some(self.pictures, kept),
            actions=self.actions[kept],
            states=self.states[kept],
            captions=tuple(self.captions[row] for row in kept),
        )


@dataclass(frozen=True)
class Recordings:
    """All usable episodes that a reader found, and what it knows about their columns."""

    format: str
    camera: str
    tracks: Sequence[Track]
    files: Sequence[Path]  # what the tables and pictures come from, for the fingerprint
    root: Path
    action_names: tuple[str, ...] = ()
    action_units: tuple[str, ...] = ()
    absolute: tuple[int, ...] = ()  # action columns that are targets whatever the others are, such as a gripper's
    state_names: tuple[str, ...] = ()
    labels: tuple[str, ...] | None = None  # names of the format's classes; else labels are made from captions
    skipped: Sequence[Skipped] = ()
    notes: Sequence[str] = ()
    # Statistics that came with the recordings: of "action" and "state", min, max, mean and std by column.
    stated: Mapping[str, Mapping[str, Sequence[float]]] = field(default_factory=dict)

    @property
    def changes(self) -> bool:
        """Whether the actions are motions, as far as the format says, and not targets."""
        return 2 * len(self.absolute) < len(self.action_names)

    def only(self, tracks: Sequence[Track]) -> Recordings:
        """The same recordings with these episodes alone."""
        return replace(self, tracks=tracks)


@dataclass(frozen=True)
class _Some:
    """Some rows of other pictures."""

    source: Pictures
    kept: NDArray[np.int64]

    def read(self, rows: Sequence[int] | NDArray[np.int64], size: Size) -> NDArray[np.uint8]:
        return self.source.read(self.kept[np.asarray(rows)], size)

    def size(self) -> Size:
        return self.source.size()

    def identity(self) -> str:
        return self.source.identity()


def chosen_cameras(where: str, cameras: Sequence[str], options: ImportOptions) -> list[str]:
    """The camera, and the one to store beside it if any.

    Raises UserError when there is none of that name, or none is named and there are several.
    """
    if not cameras:
        raise UserError(f"{where} has no pictures")
    if options.camera is None and len(cameras) > 1:
        raise UserError(f"{where} has several cameras ({', '.join(cameras)}); choose one with --camera NAME")
    chosen = [options.camera or cameras[0], *([options.beside] if options.beside else [])]
    for name in chosen:
        if name not in cameras:
            raise one_of("camera", name, sorted(cameras))
    return chosen


def chosen_keys(where: str, tables: Sequence[str], given: str | None, usual: Sequence[str]) -> list[str]:
    """Names of tables: those given, joined by commas, else the usual ones that are there.

    Raises UserError when one that was given is not there.
    """
    if given is None:
        return [key for key in usual if key in tables]
    keys = [key.strip() for key in given.split(",")]
    for key in keys:
        if key not in tables:
            raise one_of(f"table of {where}", key, sorted(tables))
    return keys
