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

from hnet_vjepa.errors import UserError, one_of

if TYPE_CHECKING:
    from hnet_vjepa.data.importers.tracks import ImportOptions, Recordings


@dataclass(frozen=True)
class Format:
    """A format of recordings. ``reader`` is ``module:function`` below this package, imported when it is used."""

    name: str
    reader: str
    about: str
    example: str
    timed: bool = True  # the files hold times, so a rate is not asked for
    own_command: bool = False  # "import" has a command with other options for it
    tables: bool = True  # there are actions or states, and cameras to choose from

    def read(self, path: Path, options: ImportOptions) -> Recordings:
        """Find the episodes in ``path``. Raises UserError when they are none, or an option does not apply to them."""
        if self.timed and options.rate is not None:
            raise UserError(f"{self.name} recordings hold their own times; --rate does not apply (--dt resamples)")
        if not self.tables and (options.action_key or options.state_key or options.beside or options.robot):
            raise UserError(f"{self.name} recordings hold videos alone; --action-key and the like do not apply")
        module, function = self.reader.split(":")
        reader: Callable[[Path, ImportOptions], Recordings] = getattr(
            importlib.import_module(f"{__package__}.{module}"), function
        )
        return reader(path, options)


FORMATS = (
    Format(
        "folder",
        "folder_tracks:read_folder",
        "Your own recordings: a folder for each episode.",
        "hnet data import folder recordings data/mine --size 64 --dt 0.2",
        timed=False,
        own_command=True,
    ),
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
        tables=False,
    ),
    Format(
        "kinetics",
        "videos:read_kinetics",
        "Import videos without actions in one folder for each class, as Kinetics is kept.",
        "hnet data import kinetics kinetics/train data/kinetics --dt 0.25",
        tables=False,
    ),
    Format(
        "ssv2",
        "ssv2:read_ssv2",
        "Import Something-Something v2: the data set's folder, or the label file of one split.",
        "hnet data import ssv2 ssv2/labels/train.json data/ssv2-train --dt 0.25",
        tables=False,
    ),
    Format(
        "hdf5",
        "hdf5:read_hdf5",
        "Import HDF5 demonstrations of robomimic, LIBERO or ALOHA: a file, or a folder of them.",
        "hnet data import hdf5 lift/ph/image.hdf5 data/lift --camera agentview_image --flip vertical",
        timed=False,
    ),
    Format(
        "zarr",
        "zarr:read_zarr",
        "Import a Zarr v2 replay buffer, as diffusion policy and UMI use it: a folder or a .zarr.zip.",
        "hnet data import zarr pusht_cchi_v7_replay.zarr data/pusht --size 96 --rate 10",
        timed=False,
    ),
    Format(
        "ros",
        "ros:read_ros",
        "Import ROS 2 bags (.mcap, .db3) or ROS 1 bags, one for each episode; cameras and tables are topics.",
        "hnet data import ros bags data/arm --camera /camera/image_raw --action-key /joint_command --dt 0.1",
    ),
    Format(
        "droid",
        "droid:read_droid",
        "Import DROID's raw episodes (trajectory.h5, MP4, JSON); actions are differences of pose and gripper.",
        "hnet data import droid droid_raw/1.0.1 data/droid --camera ext1 --size 96x128 --dt 0.25",
    ),
    Format(
        "droid-rlds",
        "rlds_features:read_rlds_features",
        "Import DROID as RLDS, or any RLDS whose tables are named by --action-key and --state-key.",
        "hnet data import droid-rlds droid_100/1.0.0 data/droid --camera exterior_image_1_left --size 96x128",
        timed=False,
    ),
)


def format_named(name: str) -> Format:
    """The format of this name. Raises UserError when there is none."""
    found = next((format for format in FORMATS if format.name == name), None)
    if found is None:
        raise one_of("format", name, [format.name for format in FORMATS])
    return found
