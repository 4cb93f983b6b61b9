"""Import robot episodes in the RLDS format, as BridgeData V2 is published: TFRecord files, one episode per record.

The steps of an episode are flattened: ``steps/action`` of T steps is one list of 7 T floats, and
``steps/observation/image_0`` is T encoded pictures. ``action[t]`` moves step t to step t + 1, so the last step's
action has no next frame and is dropped.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.data.importers.base import Report, Skipped, Survey, write_store
from hnet_vjepa.data.importers.tfrecord import Feature, parse_example, read_records
from hnet_vjepa.data.store import Episode
from hnet_vjepa.data.video import Size, decode_picture, different_sizes, fit, same_size
from hnet_vjepa.errors import UserError, one_of
from hnet_vjepa.specs import CARTESIAN_NAMES, CARTESIAN_UNITS, ActionSpec, bounds_of, camera_spec
from hnet_vjepa.utils.files import content_hash
from hnet_vjepa.utils.progress import show_progress

# BridgeData V2 was recorded at 5 Hz (Walke et al. 2023, arXiv 2308.12952); the files have no timestamps.
BRIDGE_DT = 0.2
MOST_LABELS = 64  # Bridge has 22 000 different instructions; a label for each would need more space than the frames

OBSERVATION = "steps/observation/"


def import_rlds(
    path: Path,
    out: Path,
    camera: str = "image_0",
    dt: float = BRIDGE_DT,
    size: Size | None = None,
    report: Report | None = None,
    progress: bool = True,
) -> Path:
    """Import a TFRecord file, or all of a directory, into the store ``out`` and return ``out``.

    The actions are 7 numbers per step: relative x, y, z in m and roll, pitch, yaw in rad, and the gripper (an absolute
    command: 0 closed, 1 open). Their bounds are estimated (see ``specs.bounds_of``). An instruction becomes the caption
    of its frames and a label: its words in lower case, joined by hyphens; at most 64 labels, of the most frequent
    instructions. Episodes in which the chosen camera's first picture is of one colour are left out.

    Args:
        dt: seconds between two steps (the files do not state it; 0.2 for Bridge).
        size: height and width of the stored frames in pixels, by default those of the first picture.
        report: receives a sentence about everything left out or assumed.

    An interrupted import is resumed by the same call. Raises UserError when a file is missing, truncated, damaged or
    holds something else.
    """
    return write_store(RldsSource(path, camera, dt, size, progress), out, report, progress)


class RldsSource:
    """TFRecord files as an ``EpisodeSource``: the constructor reads every record once, without keeping its pictures.

    Raises UserError naming the file and record that is not usable.
    """

    def __init__(self, path: Path, camera: str, dt: float, size: Size | None, progress: bool) -> None:
        self._files, self._camera = tfrecord_files(path), camera
        scan = _scan(self._files, camera, progress)
        self._records = scan.records
        low, high = bounds_of(scan.actions)
        frequent = [text for text, _ in scan.instructions.most_common(MOST_LABELS)]
        labels = tuple(sorted({label for text in frequent if (label := _label(text))}))
        size = size or next(iter(scan.sizes))
        notes = list(different_sizes(scan.sizes, size))
        if (count := len(scan.instructions)) > len(labels):
            notes.insert(0, f"{count} different instructions, {len(labels)} labels (the most frequent, spelling aside)")
        self.survey = Survey(
            format="rlds",
            camera=camera_spec(size, dt, camera),
            action=ActionSpec(
                names=CARTESIAN_NAMES,
                units=CARTESIAN_UNITS,
                low=low,
                high=high,
                active=tuple(range(len(CARTESIAN_NAMES))),
                absolute=(CARTESIAN_NAMES.index("gripper"),),
            ),
            lengths=scan.lengths,
            fingerprint=content_hash(self._files, self._files[0].parent),
            states=_state_names(scan.states),
            labels=labels,
            settings={"files": len(self._files)},
            skipped=scan.skipped,
            notes=notes,
        )

    def decode(self, indices: Sequence[int]) -> Iterator[Episode]:
        """Yield the episodes with these indices. Raises UserError when a picture is damaged or of another size."""
        index_of = {self._records[index]: index for index in indices}
        for steps, record in _read_episodes(self._files, self._camera, set(index_of)):
            yield _decode(steps, index_of[record], self.survey)


@dataclass(frozen=True)
class _Steps:
    """One episode of a file, pictures still encoded."""

    where: str
    pictures: list[bytes]  # T
    actions: NDArray[np.float32]  # T x 7
    states: NDArray[np.float32]  # T x S; S may be 0
    instructions: list[str]  # T; an empty string where there is none


@dataclass(frozen=True)
class _Scan:
    """The result of reading every record once."""

    records: list[int]  # numbers of the usable records, counted over all files
    lengths: list[int]
    actions: NDArray[np.float32]  # N x 7, of all usable records, without the dropped last ones
    instructions: Counter[str]
    states: int
    sizes: dict[Size, list[str]]  # size of a record's first picture -> the records with that size, in file order
    skipped: list[Skipped]


def tfrecord_files(path: Path) -> list[Path]:
    """A TFRecord file, or all of a folder. Raises UserError when there is none."""
    if not path.exists():
        raise UserError(f"{path} does not exist; give a .tfrecord file or a directory of them")
    files = sorted(path.glob("*.tfrecord*")) if path.is_dir() else [path]
    if not files:
        raise UserError(f"{path} has no .tfrecord files")
    return files


def _scan(files: Sequence[Path], camera: str, progress: bool) -> _Scan:
    """Read every record once. Raises UserError when one is damaged or none is usable."""
    records: list[int] = []
    lengths: list[int] = []
    actions: list[NDArray[np.float32]] = []
    skipped: list[Skipped] = []
    instructions: Counter[str] = Counter()
    widths: set[int] = set()
    seen: dict[bytes, str] = {}
    sizes: dict[Size, list[str]] = {}
    for steps, record in _read_episodes(show_progress(files, "reading", "file", progress), camera):
        if len(steps.pictures) < 2:
            skipped.append(Skipped(steps.where, "it has fewer than 2 steps"))
            continue
        first = decode_picture(steps.pictures[0], f"{steps.where}: {camera} of step 0")
        if all(darkest == brightest for darkest, brightest in first.getextrema()):  # type: ignore[misc]
            skipped.append(Skipped(steps.where, f"{camera} shows nothing"))
            continue
        if not (np.isfinite(steps.actions).all() and np.isfinite(steps.states).all()):
            raise UserError(f"{steps.where}: an action or state holds NaN or infinity; every number must be finite")
        content = hashlib.sha256(b"".join([steps.actions.tobytes(), steps.states.tobytes(), *steps.pictures])).digest()
        if content in seen:  # might lie on both sides of the split
            skipped.append(Skipped(steps.where, f"it is the same as {seen[content]}"))
            continue
        seen[content] = steps.where
        sizes.setdefault((first.height, first.width), []).append(steps.where)
        widths.add(steps.states.shape[1])
        records.append(record)
        lengths.append(len(steps.pictures))
        actions.append(steps.actions[:-1])
        instructions.update({text for text in steps.instructions if text})
    if not sizes:
        raise UserError(f"{files[0]}: no usable episode ({skipped[0] if skipped else 'no records'})")
    if len(widths) > 1:
        raise UserError(f"{files[0]}: states of different sizes ({sorted(widths)}); import each robot by itself")
    return _Scan(records, lengths, np.concatenate(actions), instructions, widths.pop(), sizes, skipped)


def _read_episodes(files: Iterable[Path], camera: str, wanted: set[int] | None = None) -> Iterator[tuple[_Steps, int]]:
    """Yield the episodes of all files with their record number (counted over all files), or only those ``wanted``."""
    number = 0
    for file in files:
        try:
            for in_file, record in enumerate(read_records(file)):
                if wanted is None or number in wanted:
                    where = f"{file}: record {in_file}"
                    try:
                        yield _steps(parse_example(record), camera, where), number
                    except ValueError as error:
                        raise UserError(f"{where} is not an episode ({error})") from error
                number += 1
        except OSError as error:
            raise UserError(f"cannot read {file}: {error.strerror}") from error


def _steps(example: dict[str, Feature], camera: str, where: str) -> _Steps:
    """Select the needed features of a record. Raises UserError when one is missing or has another shape."""
    pictures = example.get(OBSERVATION + camera)
    if not isinstance(pictures, list):
        cameras = [name.removeprefix(OBSERVATION) for name, value in example.items() if _is_camera(name, value)]
        if not cameras:
            raise UserError(f"{where} has no {OBSERVATION}*image*; it is not an RLDS episode with pictures")
        raise one_of("camera", camera, sorted(cameras))
    actions, states = (_table(example, name, len(pictures), where) for name in ("steps/action", OBSERVATION + "state"))
    if actions.shape[1] != len(CARTESIAN_NAMES):
        raise UserError(
            f"{where}: steps/action has {actions.size} numbers for {len(pictures)} steps; "
            f"needs {len(CARTESIAN_NAMES)} per step ({', '.join(CARTESIAN_NAMES)})"
        )
    texts = example.get("steps/language_instruction", [])
    if not isinstance(texts, list) or len(texts) not in (0, len(pictures)):
        raise UserError(f"{where}: steps/language_instruction has {len(texts)} texts for {len(pictures)} steps")
    instructions = [" ".join(text.decode("utf-8", "replace").split()) for text in texts] or [""] * len(pictures)
    return _Steps(where, pictures, actions, states, instructions)


def _is_camera(name: str, value: Feature) -> bool:
    return name.startswith(OBSERVATION) and "image" in name and isinstance(value, list)


def _table(example: dict[str, Feature], name: str, steps: int, where: str) -> NDArray[np.float32]:
    """A feature as T x width; width is 0 when there is none. Raises UserError when T does not divide its size."""
    flat = example.get(name, [])
    if isinstance(flat, list) and flat:
        raise UserError(f"{where}: {name} holds text or pictures; needs numbers")
    if steps == 0 or len(flat) % steps:
        raise UserError(f"{where}: {name} has {len(flat)} numbers for {steps} steps")
    return np.asarray(flat, np.float32).reshape(steps, len(flat) // steps)


def _decode(steps: _Steps, index: int, survey: Survey) -> Episode:
    size = (survey.camera.height, survey.camera.width)
    pictures = [decode_picture(data, f"{steps.where}: picture {t}") for t, data in enumerate(steps.pictures)]
    first = ("", (0, 0))
    for t, picture in enumerate(pictures):
        first = same_size(first, f"picture {t}", picture, steps.where)
    labels = [[name == _label(text) for name in survey.labels] for text in steps.instructions]
    return Episode(
        index=index,
        seed=index,
        frames=np.stack([fit(picture, size) for picture in pictures]),
        actions=steps.actions[:-1],
        captions=tuple((text,) if text else () for text in steps.instructions),
        states=steps.states if survey.states else None,
        labels=np.array(labels, np.uint8) if survey.labels else None,
    )


def _state_names(width: int) -> tuple[str, ...]:
    if width == len(CARTESIAN_NAMES):  # Bridge: the gripper's pose and its opening
        return tuple(f"{name} [{unit}]" for name, unit in zip(CARTESIAN_NAMES, CARTESIAN_UNITS, strict=True))
    return tuple(f"state {number}" for number in range(width))


def _label(instruction: str) -> str:
    return "-".join(re.findall(r"\w+", instruction.lower()))
