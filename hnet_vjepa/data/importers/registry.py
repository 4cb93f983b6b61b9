"""All formats that are read as ``Recordings``, in one place: their reader, and what the command line says of them.

To add one: write ``read_<format>(path, options) -> Recordings`` in a file of its own and name it here; ``hnet data
import``, ``check`` and ``preview`` then know it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hnet_vjepa.errors import one_of

if TYPE_CHECKING:
    from hnet_vjepa.data.importers.tracks import ImportOptions, Recordings


@dataclass(frozen=True)
class Format:
    """A format of recordings. ``reader`` is ``module:function`` below this package, imported when it is used."""

    name: str
    reader: str
    about: str
    example: str

    def read(self, path: Path, options: ImportOptions) -> Recordings:
        """Find the episodes in ``path``. Raises UserError when it is not such a recording."""
        module, function = self.reader.split(":")
        reader: Callable[[Path, ImportOptions], Recordings] = getattr(
            importlib.import_module(f"{__package__}.{module}"), function
        )
        return reader(path, options)


FORMATS = (
    Format(
        "lerobot",
        "lerobot:read_lerobot",
        "Import a LeRobot data set (v2.0, v2.1 or v3.0): Parquet tables with videos or pictures.",
        "hnet data import lerobot so101_pick data/so101 --camera wrist --size 96x128 --dt 0.1",
    ),
    Format(
        "videos",
        "videos:read_videos",
        "Import a folder of videos without actions, to pretrain on; NAME.txt beside NAME.mp4 has its sentence.",
        "hnet data import videos clips data/clips --dt 0.1",
    ),
    Format(
        "kinetics",
        "videos:read_kinetics",
        "Import videos without actions in one folder for each class, as Kinetics is kept.",
        "hnet data import kinetics kinetics/train data/kinetics --dt 0.25",
    ),
    Format(
        "ssv2",
        "ssv2:read_ssv2",
        "Import Something-Something v2: the data set's folder, or the label file of one split.",
        "hnet data import ssv2 ssv2/labels/train.json data/ssv2-train --dt 0.25",
    ),
)


def format_named(name: str) -> Format:
    """The format of this name. Raises UserError when there is none."""
    found = next((format for format in FORMATS if format.name == name), None)
    if found is None:
        raise one_of("format", name, [format.name for format in FORMATS])
    return found
