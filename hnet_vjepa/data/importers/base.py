"""What an importer's source offers, and the one loop that writes a store from it.

To add a format: write a class with the two members of ``EpisodeSource`` and a function ``import_<format>`` that
constructs it and passes it to ``write_store``. Shards, resuming, progress and notes are handled here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from hnet_vjepa.data.importers.partial import PartialShard
from hnet_vjepa.data.store import Episode, StoreInfo, create_store, plan_shards, write_shard
from hnet_vjepa.errors import UserError
from hnet_vjepa.specs import ActionSpec, CameraSpec
from hnet_vjepa.utils.progress import progress_counter

Report = Callable[[str], None]  # receives one sentence about something assumed or left out


@dataclass(frozen=True)
class Skipped:
    """An input that is left out of the store."""

    where: str  # file and record, or folder
    reason: str

    def __str__(self) -> str:
        return f"{self.where}: {self.reason}"


@dataclass(frozen=True)
class Damaged:
    """In place of an episode whose damage shows only when it is decoded, from a source that leaves such out."""

    index: int
    skipped: Skipped


@dataclass(frozen=True)
class Survey:
    """What is known about a source's episodes before they are decoded."""

    format: str  # becomes StoreInfo.source
    camera: CameraSpec  # of the frames that ``EpisodeSource.decode`` yields
    action: ActionSpec
    lengths: Sequence[int]  # frames of each usable episode; used to size the shards, so an estimate is enough
    fingerprint: str  # of the input files; an interrupted import is not resumed from other files
    states: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    settings: Mapping[str, str | int | float] = field(default_factory=dict)  # further StoreInfo.settings
    skipped: Sequence[Skipped] = ()
    notes: Sequence[str] = ()  # what was assumed or ignored


class EpisodeSource(Protocol):
    """Recorded episodes in some format, surveyed and checked as far as that is possible without decoding all frames.

    A source is constructed for one camera, frame size and control interval, and matches frames to actions by itself
    (by row, or by recorded timestamps). ``write_store`` reads neither actions nor pixels, so a format with several
    cameras, timestamps or no actions needs no change there: only ``Survey`` and ``Episode`` describe what is stored.
    """

    @property
    def survey(self) -> Survey:
        """The description of all usable episodes."""

    def decode(self, indices: Sequence[int]) -> Iterator[Episode | Damaged]:
        """Yield the episodes with these indices (ascending, each below ``len(survey.lengths)``), in this order.

        Called once per import. Raises UserError naming the input that is damaged, or yields a Damaged for it.
        """


def write_store(source: EpisodeSource, out: Path, report: Report | None = None, progress: bool = True) -> Path:
    """Write the episodes of ``source`` into the store ``out`` and return ``out``.

    What a previous, interrupted call has decoded is kept, but for its last seconds. ``report`` receives the survey's
    notes before anything is written. Raises UserError when ``out`` holds other data or an input is damaged; completed
    shards stay.
    """
    survey = source.survey
    if report:
        for note in _notes(survey):
            report(note)
    total, frame_bytes = len(survey.lengths), survey.camera.height * survey.camera.width * 3
    shards = plan_shards([length * frame_bytes for length in survey.lengths])
    info = StoreInfo(
        source=survey.format,
        camera=survey.camera,
        action=survey.action,
        shards=len(shards),
        states=survey.states,
        labels=survey.labels,
        settings={"episodes": total, **survey.settings, "content": survey.fingerprint},
    )
    done = create_store(out, info)
    missing = [number for number in range(len(shards)) if number not in done]
    partial = PartialShard(out)
    kept = partial.indices()
    left = sum(len(shards[number]) for number in missing)
    damaged: list[Skipped] = []
    episodes = source.decode([index for number in missing for index in shards[number] if index not in kept])
    with progress_counter("importing", total, "episode", progress, first=total - left) as count:
        for number in missing:
            shard = []
            for index in shards[number]:
                episode = partial.load(index) if index in kept else next(episodes, None)
                if episode is None or episode.index != index:
                    raise UserError(f"the recordings changed while {out} was written; import them again")
                count(1)
                if isinstance(episode, Damaged):
                    damaged.append(episode.skipped)
                    continue
                shard.append(episode)
                if index not in kept:
                    partial.add(episode)
            if not shard:
                raise UserError(f"{len(damaged)} episodes in a row are damaged, too many to go on; {damaged[-1]}")
            write_shard(out, number, info, shard)
            partial.clear(shards[number])
    if damaged and report:
        report(f"{len(damaged)} damaged episodes are left out; the first is {damaged[0]}")
    return out


def _notes(survey: Survey) -> Iterator[str]:
    if survey.skipped:
        yield f"{len(survey.skipped)} episodes are left out; the first is {survey.skipped[0]}"
    yield from survey.notes
