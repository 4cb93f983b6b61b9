"""Videos without actions: a folder of them, or one with a folder for each class, as Kinetics is kept.

They can train the phase ``pretrain``; with sentences ``language``, with classes ``probe``.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from hnet_vjepa.data.importers.base import Skipped
from hnet_vjepa.data.importers.pictures import VideoPictures
from hnet_vjepa.data.importers.tables import read_text
from hnet_vjepa.data.importers.tracks import ImportOptions, Recordings, Track
from hnet_vjepa.data.video import VIDEOS
from hnet_vjepa.data.video_times import presentation_times
from hnet_vjepa.errors import UserError
from hnet_vjepa.utils.progress import show_progress

NO_ACTIONS = "no actions are recorded: the data set can train pretrain, language and probe, not action"


def read_videos(path: Path, options: ImportOptions) -> Recordings:
    """Find the videos anywhere below ``path``; a text file of the same name (``a.mp4``, ``a.txt``) has its sentence.

    Raises UserError when there is none.
    """
    files = find_videos(path, options.camera)
    texts = [file.with_suffix(".txt") for file in files]
    captions = [" ".join(read_text(text).split()) if text.is_file() else "" for text in texts]
    tracks, skipped = video_tracks(zip(range(len(files)), files, captions, [()] * len(files), strict=True))
    return recordings("videos", path, tracks, skipped, [*files, *(text for text in texts if text.is_file())])


def read_kinetics(path: Path, options: ImportOptions) -> Recordings:
    """Find videos in class folders (``riding_a_bike/x.mp4``, also below ``train/``): the class is label and caption.

    Raises UserError when there is no video, or one that lies in no class folder.
    """
    files = find_videos(path, options.camera)
    if loose := next((file for file in files if file.parent == path), None):
        raise UserError(f"{loose} lies in no class folder; 'hnet data import videos' takes videos without classes")
    names = [" ".join(file.parent.name.replace("_", " ").split()) for file in files]
    classes = tuple(sorted(set(names)))
    tracks, skipped = video_tracks(zip(range(len(files)), files, names, [(name,) for name in names], strict=True))
    return recordings("kinetics", path, tracks, skipped, files, classes)


def find_videos(path: Path, camera: str | None) -> list[Path]:
    """Video files below ``path`` in order of their names, or only those named ``camera``. Raises UserError if none."""
    if not path.is_dir():
        raise UserError(f"{path} is not a directory; give the folder that holds the videos")
    found = [file for file in path.rglob("[!.]*") if file.suffix.lower() in VIDEOS and file.is_file()]
    found = sorted(file for file in found if camera is None or file.stem == camera)
    if not found:
        raise UserError(f"{path} has no videos{f' named {camera}' if camera else ''} ({', '.join(VIDEOS)})")
    return found


def video_tracks(
    entries: Iterable[tuple[int, Path, str, tuple[str, ...]]],
) -> tuple[list[Track], list[Skipped]]:
    """Tracks without actions of (number, file, sentence or "", classes), and files that can not be read."""
    tracks, skipped = [], []
    for number, file, caption, classes in show_progress(list(entries), "reading", "video"):
        try:
            times = presentation_times(file)
        except UserError as error:
            skipped.append(Skipped(str(file), str(error).removeprefix(f"{file} ")))
            continue
        nothing = np.zeros((len(times), 0), np.float32)
        captions = ((caption,) if caption else (),) * len(times)
        tracks.append(
            Track(str(file), number, times - times[0], VideoPictures(file, times), nothing, nothing, captions, classes)
        )
    return tracks, skipped


def recordings(
    kind: str,
    path: Path,
    tracks: Sequence[Track],
    skipped: Sequence[Skipped],
    files: Sequence[Path],
    classes: tuple[str, ...] = (),
) -> Recordings:
    """Recordings of videos without actions; labels are the classes alone."""
    return Recordings(
        format=kind,
        camera="camera",
        tracks=tracks,
        files=files,
        root=path,
        labels=classes,
        skipped=skipped,
        notes=[NO_ACTIONS],
    )
