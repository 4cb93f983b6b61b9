"""Recordings as an ``EpisodeSource``: actions, control rate, idle ends, outliers, repeated episodes and labels."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.data.importers.base import Damaged, Report, Skipped, Survey, write_store
from hnet_vjepa.data.importers.cleaning import check_outliers, clip_outliers, nearly_constant
from hnet_vjepa.data.importers.pictures import Corrected
from hnet_vjepa.data.importers.robot_file import as_robot
from hnet_vjepa.data.importers.track_actions import TooShort, action_mode, cut, interval
from hnet_vjepa.data.importers.tracks import ImportOptions, Recordings, Track
from hnet_vjepa.data.importers.usable import usable_tracks
from hnet_vjepa.data.store import Episode
from hnet_vjepa.data.summary import evenly_spaced
from hnet_vjepa.data.video import Size, different_sizes
from hnet_vjepa.errors import UserError
from hnet_vjepa.specs import ActionSpec, bounds_of, camera_spec
from hnet_vjepa.utils.files import content_hash

MOST_SIZES = 256  # recordings whose size is looked at: it takes decoding a picture of each
MOST_LABELS = 64  # a label for each of thousands of sentences would need more space than the frames


def import_tracks(
    recordings: Recordings, options: ImportOptions, out: Path, report: Report | None = None, progress: bool = True
) -> Path:
    """Write ``recordings`` into the store ``out`` and return ``out``; see ``write_store``.

    Raises UserError when there is no usable episode, an episode's data is damaged, or ``out`` holds other data.
    """
    return write_store(TrackSource(recordings, options), out, report, progress)


class TrackSource:
    """Recordings as an ``EpisodeSource``. Raises UserError when an option does not fit them."""

    def __init__(self, recordings: Recordings, options: ImportOptions) -> None:
        notes = list(recordings.notes)
        tracks, skipped = usable_tracks(recordings)
        if not tracks:
            first = next(iter([*recordings.skipped, *skipped]), "")
            raise UserError(f"{recordings.root}: no usable episode{f'; {first}' if first else ''}")
        mode = action_mode(recordings.only(tracks), options, notes)
        dt = interval(tracks, options, notes)
        kept: list[tuple[Track, NDArray[np.float32]]] = []
        for track in tracks:
            try:
                kept.append(cut(track, dt, mode, recordings, options, notes))
            except TooShort:
                skipped.append(Skipped(track.where, f"fewer than 2 rows at {dt:g} s"))
        if not kept:
            raise UserError(f"{recordings.root}: no usable episode; {skipped[0]}")
        names, units = recordings.action_names, recordings.action_units
        if mode == "differences":
            names, units = _split_units(recordings.state_names)
        absolute = tuple(range(len(names))) if mode == "targets" else recordings.absolute if mode == "changes" else ()
        actions = [action for _, action in kept]
        where = [track.where for track, _ in kept]
        if options.outliers == "refuse":
            check_outliers(actions, names, where)
        elif options.outliers == "clip":
            actions = clip_outliers(actions, names, where, notes.append)
        notes += nearly_constant(actions, names, units)
        low, high = bounds_of(np.concatenate(actions)) if names else ((), ())
        spec = ActionSpec(names=names, units=units, low=low, high=high, active=_active(actions), absolute=absolute)
        if options.robot is not None:
            spec, actions = as_robot(options.robot, names, actions, notes)
        self._tracks, self._actions = [track for track, _ in kept], actions
        labels = recordings.labels
        if labels is None:
            labels = _labels(self._tracks, notes)
        size = (options.size[0], options.size[1] * (2 if options.beside else 1))
        sizes: dict[Size, list[str]] = {}
        for track in [self._tracks[i] for i in evenly_spaced(len(self._tracks), MOST_SIZES)]:
            sizes.setdefault(track.pictures.size(), []).append(track.where)
        if options.beside:
            notes.append(f"'{options.beside}' is stored at the right of '{recordings.camera}': {size[1]} pixels wide")
        self._correct, self._damaged = (options.flip, options.bgr), options.damaged
        states = recordings.state_names
        self.survey = Survey(
            format=recordings.format,
            camera=camera_spec(size, dt, recordings.camera + (f"+{options.beside}" if options.beside else "")),
            action=spec,
            lengths=[len(track) for track in self._tracks],
            fingerprint=content_hash(recordings.files, recordings.root),
            states=states,
            labels=labels,
            settings={"actions": mode if names else "none", **_changed(options)},
            skipped=[*recordings.skipped, *skipped],
            notes=[*notes, *different_sizes(sizes, size)],
        )

    def decode(self, indices: Sequence[int]) -> Iterator[Episode | Damaged]:
        """Yield the episodes with these indices. Raises UserError naming a picture or video that is damaged, or yields
        a Damaged for it if the options say so.
        """
        for index in indices:
            try:
                yield self._episode(index)
            except UserError as error:
                if self._damaged == "refuse":
                    raise
                yield Damaged(index, Skipped(self._tracks[index].where, str(error)))

    def _episode(self, index: int) -> Episode:
        size = (self.survey.camera.height, self.survey.camera.width)
        track = self._tracks[index]
        true = [set(track.classes or map(label_of, captions)) for captions in track.captions]
        labels = [[name in names for name in self.survey.labels] for names in true]
        return Episode(
            index=index,
            seed=track.number,
            frames=Corrected(track.pictures, *self._correct).read(range(len(track)), size),
            actions=self._actions[index],
            captions=track.captions,
            states=track.states if self.survey.states else None,
            labels=np.array(labels, np.uint8) if self.survey.labels else None,
        )


def _active(actions: Sequence[NDArray[np.float32]]) -> tuple[int, ...]:
    """The active columns: those that are not always zero, or all when every one is."""
    moved = np.concatenate(actions).any(0)
    return tuple(np.flatnonzero(moved if moved.any() else ~moved).tolist())


def _labels(tracks: Sequence[Track], notes: list[str]) -> tuple[str, ...]:
    """Labels from the most frequent captions."""
    counts = Counter(caption for track in tracks for caption in set().union(*track.captions))
    labels = {label for text, _ in counts.most_common(MOST_LABELS) if (label := label_of(text))}
    if len(counts) > len(labels):
        notes.append(f"{len(counts)} different sentences, {len(labels)} labels (the most frequent, spelling aside)")
    return tuple(sorted(labels))


def label_of(sentence: str) -> str:
    """A sentence's words in lower case, joined by hyphens."""
    return "-".join(re.findall(r"\w+", sentence.lower()))


def _split_units(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """``x [m]`` to the name and the unit of a difference."""
    parts = [re.fullmatch(r"(.*?)(?: \[(.*)\])?", name) for name in names]
    return tuple(p[1] if p else "" for p in parts), tuple((p[2] if p else "") or "unknown" for p in parts)


def _changed(options: ImportOptions) -> dict[str, str | int | float]:
    """The options beyond the defaults that change what is stored, for StoreInfo.settings."""
    given = {
        "beside": options.beside,
        "action key": options.action_key,
        "state key": options.state_key,
        "rate": options.rate,
        "trim idle": int(options.trim_idle),
        "outliers": options.outliers if options.outliers != "refuse" else None,
        "flip": options.flip if options.flip != "none" else None,
        "bgr": int(options.bgr),
    }
    return {name: value for name, value in given.items() if value}
