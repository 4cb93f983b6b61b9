"""``hnet data check`` and ``preview``: look at recordings, or at a data set, before training on them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from hnet_vjepa.data.importers.tracks import ImportOptions, Recordings

FormatName = Annotated[
    str | None, typer.Option("--format", help="Format of recordings, as in 'hnet data import'; without: a data set.")
]
Camera = Annotated[str | None, typer.Option(help="Which camera, where there are several.")]
ActionKey = Annotated[str | None, typer.Option(help="Name of the actions' table; several with commas.")]
StateKey = Annotated[str | None, typer.Option(help="Name of the states' table; several with commas.")]
Rate = Annotated[float | None, typer.Option(help="Recorded rows per second, where the files do not say.")]


def check_data(
    path: Annotated[Path, typer.Argument(help="Directory of a data set, or recordings.")],
    format: FormatName = None,
    camera: Camera = None,
    action_key: ActionKey = None,
    state_key: StateKey = None,
    rate: Rate = None,
    tables_only: Annotated[bool, typer.Option("--tables-only", help="Do not decode the pictures.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Find what would spoil a training: by episode and row. Exit status 1 when there is an error.

    Lengths, gaps and jumps of time, repeated rows and episodes, NaN, outliers, constant columns, idle stretches,
    actions that are off by rows, units, mixed grippers, videos that do not decode, wrong statistics.

    Example: hnet data check g1_pick --format lerobot
    """
    from hnet_vjepa.data.checks.run import check
    from hnet_vjepa.data.importers.tracks import ImportOptions

    options = ImportOptions(camera=camera, action_key=action_key, state_key=state_key, rate=rate)
    found = _recordings(path, format, options)
    findings = check(found, not tables_only)
    errors = sum(finding.severity == "error" for finding in findings)
    if as_json:
        print(json.dumps({"episodes": len(found.tracks), "findings": [asdict(f) for f in findings]}, indent=2))
    else:
        for finding in findings:
            print(finding)
        print(f"{len(found.tracks)} episodes: {errors} errors, {len(findings) - errors} warnings")
    if errors:
        raise typer.Exit(1)


def preview_data(
    path: Annotated[Path, typer.Argument(help="Directory of a data set, or recordings.")],
    out: Annotated[Path, typer.Argument(help="The sheet to write (.png).")],
    format: FormatName = None,
    camera: Camera = None,
    action_key: ActionKey = None,
    state_key: StateKey = None,
    rate: Rate = None,
    size: Annotated[str, typer.Option(help="Pixels of a picture: 96, or 96x128 (height x width).")] = "96",
    episodes: Annotated[int, typer.Option(min=1, max=50, help="How many episodes to draw.")] = 4,
    flip: Annotated[Literal["none", "vertical", "turned"], typer.Option(help="As in 'hnet data import'.")] = "none",
    bgr: Annotated[bool, typer.Option("--bgr", help="As in 'hnet data import'.")] = False,
) -> None:
    """Draw some episodes: pictures, actions over time, gaps of time in red.

    Example: hnet data preview lift.hdf5 sheet.png --format hdf5 --camera agentview_image --flip vertical
    """
    from hnet_vjepa.data.importers.tracks import ImportOptions
    from hnet_vjepa.data.preview import preview
    from hnet_vjepa.data.video import parse_size
    from hnet_vjepa.errors import UserError
    from hnet_vjepa.utils.files import write_bytes_atomic

    if out.suffix.lower() != ".png":
        raise UserError(f"the sheet is '{out}'; the name must end in .png")
    options = ImportOptions(camera=camera, action_key=action_key, state_key=state_key, rate=rate)
    found = _recordings(path, format, options)
    if not found.tracks:
        raise UserError(f"{path} has no usable episode{f'; {found.skipped[0]}' if found.skipped else ''}")
    write_bytes_atomic(out, preview(found, parse_size(size), flip, bgr, episodes))
    print(f"wrote {out}")


def _recordings(path: Path, format: str | None, options: ImportOptions) -> Recordings:
    """Recordings of a format, or a data set."""
    from hnet_vjepa.data.checks.finding import store_recordings
    from hnet_vjepa.data.importers.registry import format_named
    from hnet_vjepa.data.store import EpisodeStore

    return store_recordings(EpisodeStore(path)) if format is None else format_named(format).read(path, options)
