"""``hnet data import``: one command for each format of recordings."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from hnet_vjepa.data.importers.registry import FORMATS, Format

imports = typer.Typer(help="Import episodes that were recorded elsewhere.", no_args_is_help=True)


@imports.command("rlds")
def import_rlds_episodes(
    path: Annotated[Path, typer.Argument(help="A .tfrecord file, or a directory of them.")],
    out: Annotated[Path, typer.Argument(help="Directory of the new data set.")],
    camera: Annotated[str, typer.Option(help="Which of the recorded cameras.")] = "image_0",
    dt: Annotated[float, typer.Option(help="Seconds between two steps; Bridge was recorded at 5 Hz.")] = 0.2,
    size: Annotated[
        str | None, typer.Option(help="Pixels: 64, or 48x64 (height x width); by default the recorded size.")
    ] = None,
) -> None:
    """Import RLDS episodes with 7-D actions, such as BridgeData V2.

    Run the same command again to resume an interrupted import.

    Example: hnet data import rlds bridge_dataset/1.0.0 data/bridge --size 64
    """
    from hnet_vjepa.data.importers.rlds import import_rlds
    from hnet_vjepa.data.video import parse_size

    _imported(import_rlds(path, out, camera, dt, parse_size(size) if size else None, note))


@imports.command("folder")
def import_folder_of_episodes(
    path: Annotated[Path, typer.Argument(help="The directory that holds one directory per episode.")],
    out: Annotated[Path, typer.Argument(help="Directory of the new data set.")],
    dt: Annotated[float, typer.Option(help="Seconds between two frames: the robot's control interval.")],
    size: Annotated[str, typer.Option(help="Pixels: 64, or 48x64 (height x width).")] = "64",
    camera: Annotated[
        str | None, typer.Option(help="Name of the video or picture directory, where an episode has several.")
    ] = None,
    outliers: Annotated[
        Literal["refuse", "clip", "keep"], typer.Option(help="What to do with actions far outside the usual.")
    ] = "refuse",
) -> None:
    """Import your own recordings: per episode a directory with a video (or numbered pictures) and an actions.csv.

    actions.csv has a header and a row per transition. Optional: captions.txt, states.csv and labels.csv beside it, and
    one robot.json in PATH with the names and bounds of the actions. Pictures are scaled to cover --size and cropped to
    their centre. Run the same command again to resume an interrupted import.

    Example: hnet data import folder recordings data/mine --size 64 --dt 0.2
    """
    from hnet_vjepa.data.importers.folder import import_folder
    from hnet_vjepa.data.video import parse_size

    _imported(import_folder(path, out, parse_size(size), dt, camera, outliers, note))


def _register(kind: Format) -> None:
    """Add the command of a format; all take the same options."""

    def command(
        path: Annotated[Path, typer.Argument(help="The recordings.")],
        out: Annotated[Path, typer.Argument(help="Directory of the new data set.")],
        size: Annotated[str, typer.Option(help="Pixels of one camera: 64, or 48x64 (height x width).")] = "64",
        dt: Annotated[
            float | None, typer.Option(help="Seconds between two stored frames; by default as recorded.")
        ] = None,
        camera: Annotated[str | None, typer.Option(help="Which camera, where there are several.")] = None,
        beside: Annotated[
            str | None, typer.Option(help="A second camera, stored at the right of the first: twice as wide.")
        ] = None,
        actions: Annotated[
            Literal["auto", "changes", "targets", "differences"],
            typer.Option(
                help="changes (zero holds still) or absolute targets, both as recorded; or differences of the states."
            ),
        ] = "auto",
        action_key: Annotated[str | None, typer.Option(help="Name of the actions' table; several with commas.")] = None,
        state_key: Annotated[str | None, typer.Option(help="Name of the states' table; several with commas.")] = None,
        rate: Annotated[
            float | None, typer.Option(help="Recorded rows per second, where the files do not say.")
        ] = None,
        trim_idle: Annotated[bool, typer.Option("--trim-idle", help="Leave out idle rows at both ends.")] = False,
        outliers: Annotated[
            Literal["refuse", "clip", "keep"], typer.Option(help="What to do with actions far outside the usual.")
        ] = "refuse",
        damaged: Annotated[
            Literal["refuse", "skip"], typer.Option(help="When a video or picture is damaged: stop, or leave it out.")
        ] = "refuse",
        robot: Annotated[
            Path | None, typer.Option(help="A robot.json with names, units and bounds of the actions.")
        ] = None,
        flip: Annotated[
            Literal["none", "vertical", "turned"],
            typer.Option(help="Put pictures right that lie upside down (vertical) or are turned by 180 degrees."),
        ] = "none",
        bgr: Annotated[bool, typer.Option("--bgr", help="Red and blue were recorded swapped.")] = False,
    ) -> None:
        from hnet_vjepa.data.importers.track_source import import_tracks
        from hnet_vjepa.data.importers.tracks import ImportOptions
        from hnet_vjepa.data.video import parse_size

        options = ImportOptions(
            size=parse_size(size),
            dt=dt,
            camera=camera,
            beside=beside,
            actions=actions,
            action_key=action_key,
            state_key=state_key,
            rate=rate,
            trim_idle=trim_idle,
            outliers=outliers,
            damaged=damaged,
            robot=robot,
            flip=flip,
            bgr=bgr,
        )
        _imported(import_tracks(kind.read(path, options), options, out, note))

    resumed = "Run the same command again to resume an interrupted import."
    imports.command(kind.name, help=f"{kind.about}\n\n{resumed}\n\nExample: {kind.example}")(command)


for _format in FORMATS:
    if not _format.own_command:
        _register(_format)


def note(sentence: str) -> None:
    """Print something that was assumed or left out."""
    print(f"note: {sentence}", file=sys.stderr)


def _imported(out: Path) -> None:
    from hnet_vjepa.data.store import EpisodeStore

    store = EpisodeStore(out)
    print(f"imported {len(store.episodes)} episodes, {sum(map(len, store.episodes))} frames into {out}")
