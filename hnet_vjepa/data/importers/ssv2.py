"""Something-Something v2: webm clips named by number, JSON files of sentences and of the 174 classes.

Both published layouts of the labels are read: ``labels/train.json`` and ``something-something-v2-train.json``.
"""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from hnet_vjepa.data.importers.tables import read_text
from hnet_vjepa.data.importers.tracks import ImportOptions, Recordings
from hnet_vjepa.data.importers.videos import recordings, video_tracks
from hnet_vjepa.errors import UserError

PREFIX = "something-something-v2-"
SPLITS = ("train", "validation", "test")
# A horizontal flip turns each of these classes into the other of its pair.
MIRRORED = (
    ("Pulling something from left to right", "Pulling something from right to left"),
    ("Pushing something from left to right", "Pushing something from right to left"),
    ("Turning the camera left while filming something", "Turning the camera right while filming something"),
)


def read_ssv2(path: Path, options: ImportOptions) -> Recordings:
    """Find the clips in ``path``, the folder of the data set, or those of one split: ``path`` is its label file.

    A clip's sentence becomes its caption, its template one of the labels. The labelled clips of the test split have
    their template alone. Raises UserError when the label files or all clips are missing.
    """
    root, splits = _splits(path)
    names = _classes(splits)
    known = set(names)
    clips = {file.stem: file for file in sorted(root.rglob("*.webm"))}
    entries, absent, files = [], 0, []
    for split, file in splits.items():
        files.append(file)
        answers = _answers(file) if split == "test" else {}
        for entry in _json(file):
            number = str(entry["id"])
            template = str(entry.get("template") or answers.get(number, "")).replace("[", "").replace("]", "")
            if template and template not in known:
                raise UserError(f"{file}: clip {number} has the template '{template}', which labels.json does not name")
            if number not in clips:
                absent += 1
                continue
            sentence = " ".join(str(entry.get("label", template)).split())
            entries.append((int(number), clips[number], sentence, (template,) if template else ()))
    if not entries:
        raise UserError(f"{root} has none of the {absent} clips that {', '.join(map(str, files))} name (<id>.webm)")
    tracks, skipped = video_tracks(entries)
    found = recordings("ssv2", root, tracks, skipped, [*files, *(file for _, file, _, _ in entries)], names)
    pairs = sum(set(pair) <= known for pair in MIRRORED)
    notes = [f"{absent} clips of the label files are not there"] if absent else []
    if pairs:
        notes.append(f"{2 * pairs} of {len(names)} classes name left or right: a mirrored clip belongs to the other")
    return replace(found, notes=[*found.notes, *notes])


def _splits(path: Path) -> tuple[Path, dict[str, Path]]:
    """The data set's folder, and the label file of each split that is there."""
    if path.is_file():
        split = path.stem.removeprefix(PREFIX)
        if split not in SPLITS:
            raise UserError(f"{path} is not the label file of a split ({', '.join(f'{s}.json' for s in SPLITS)})")
        folder = path.parent
        return (folder.parent if folder.name in ("labels", "annotations") else folder), {split: path}
    for folder in (path / "labels", path / "annotations", path):
        names = {split: [folder / f"{prefix}{split}.json" for prefix in ("", PREFIX)] for split in SPLITS}
        found = {split: file for split, files in names.items() for file in files if file.is_file()}
        if found:
            return path, found
    raise UserError(f"{path} has no labels/train.json (or {PREFIX}train.json); it is not Something-Something v2")


def _classes(splits: dict[str, Path]) -> tuple[str, ...]:
    """The templates, without brackets, in the order of their numbers in labels.json."""
    folder = next(iter(splits.values())).parent
    files = [folder / name for name in ("labels.json", f"{PREFIX}labels.json")]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise UserError(f"{folder} has no labels.json")
    numbers = _json(file)
    try:
        return tuple(sorted(numbers, key=lambda name: int(numbers[name])))
    except (TypeError, ValueError) as error:
        raise UserError(f"{file} does not give each template its number ({error})") from error


def _answers(test: Path) -> dict[str, str]:
    """Templates of the test clips, where the answers are published: ``id;template`` a line."""
    file = test.with_name("test-answers.csv")
    return dict(row[:2] for row in csv.reader(read_text(file).splitlines(), delimiter=";")) if file.is_file() else {}


def _json(file: Path) -> Any:
    try:
        return json.loads(read_text(file))
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error})") from error
