"""``hnet data``: collect, import and inspect episodes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli.checks import check_data, preview_data
from cli.imports import imports, note

if TYPE_CHECKING:
    from hnet_vjepa.data.store import EpisodeStore
    from hnet_vjepa.data.summary import Column, Summary

app = typer.Typer(help="Collect, import and inspect episodes.", no_args_is_help=True)
app.add_typer(imports, name="import")
exports = typer.Typer(help="Write a data set in another format.", no_args_is_help=True)
app.add_typer(exports, name="export")
app.command("check")(check_data)
app.command("preview")(preview_data)


@app.command("collect")
def collect_episodes(
    task: Annotated[str, typer.Option(help="Which simulated robot; 'hnet sims list' shows them.")] = "fetch-reach",
    episodes: Annotated[int, typer.Option(help="Number of episodes; 1000 are enough for a first model.")] = 1000,
    seed: Annotated[
        int, typer.Option(help="The same seed gives the same episodes, whatever the number of workers.")
    ] = 0,
    out: Annotated[Path, typer.Option(help="Directory of the new data set.")] = Path("data/fetch-reach"),
    workers: Annotated[int | None, typer.Option(help="Processes; by default one per CPU core.")] = None,
) -> None:
    """Collect episodes of a simulated robot: frames, actions, true states, captions and labels.

    Run the same command again to resume an interrupted collection. Evaluations never use collected episodes.

    Example: hnet data collect --task fetch-reach --episodes 1000 --seed 0 --out data/fetch-reach --workers 2
    """
    from sims.core.collect import collect

    print(f"collected {episodes} episodes in {collect(task, episodes, seed, out, workers)}")


@exports.command("lerobot")
def export_as_lerobot(
    path: Annotated[Path, typer.Argument(help="Directory of a data set.")],
    out: Annotated[Path, typer.Argument(help="New directory of the LeRobot data set.")],
    robot: Annotated[str, typer.Option(help="The robot's name, LeRobot's robot_type.")] = "unknown",
) -> None:
    """Write a data set as a LeRobot data set, version 3.0, for the tools that read it.

    Example: hnet data export lerobot data/fetch-reach fetch-reach-lerobot
    """
    from hnet_vjepa.data.export_lerobot import export_lerobot
    from hnet_vjepa.data.store import EpisodeStore

    store = EpisodeStore(path)
    print(f"wrote {len(store.episodes)} episodes into {export_lerobot(store, out, robot)}")


@app.command("info")
def info(
    path: Annotated[Path, typer.Argument(help="Directory of a data set.")],
    sheet: Annotated[
        Path | None, typer.Option(help="Write a contact sheet of some episodes to this file (.png).")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Read every file and compare it with its hash.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Print what a data set holds, and verify its files on request.

    Example: hnet data info data/fetch-reach --sheet sheet.png
    """
    from hnet_vjepa.data.store import EpisodeStore
    from hnet_vjepa.data.summary import contact_sheet, encode_png, summarise
    from hnet_vjepa.errors import UserError
    from hnet_vjepa.utils.files import write_bytes_atomic

    if sheet is not None and sheet.suffix.lower() != ".png":
        raise UserError(f"--sheet is '{sheet}'; the name must end in .png")
    store = EpisodeStore(path)
    if verify:
        store.verify()
    summary = summarise(store)
    if sheet is not None:
        write_bytes_atomic(sheet, encode_png(contact_sheet(store.episodes)))
        note(f"wrote {sheet}")
    if as_json:
        described = {"store": store.info.model_dump(mode="json"), **asdict(summary), "verified": verify}
        print(json.dumps(described, indent=2))
    else:
        _show(store, summary, verify)


def _show(store: EpisodeStore, summary: Summary, verified: bool) -> None:
    """Print a summary as tables; ``verified``: every file was compared with its hash."""
    from rich import box
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console, robot, camera = Console(), store.info.action, store.info.camera
    general = Table(box=None, show_header=False)
    general.add_column(style="bold")
    general.add_column(overflow="fold")
    settings = ", ".join(f"{name} {value}" for name, value in store.info.settings.items())
    few = "; fewer than 10 episodes, so none is held out" if not summary.held_out_episodes else ""
    for name, value in (
        ("source", f"{summary.source}{f' ({settings})' if settings else ''}"),
        ("episodes", f"{summary.train_episodes} train, {summary.held_out_episodes} held out{few}"),
        ("frames", f"{summary.frames} ({summary.shortest} to {summary.longest} per episode), {summary.seconds:.0f} s"),
        ("camera", f"{camera.name}, {camera.height} x {camera.width} pixels, {camera.dt:g} s between frames"),
        ("captions", f"at {summary.captioned:.0%} of the frames, {summary.different_sentences} different"),
        ("size", f"{summary.bytes / 1e6:.1f} MB, shards: {store.info.shards}"),
        ("fingerprint", summary.fingerprint),
        *([("verified", "every file matches its hash")] if verified else []),
    ):
        general.add_row(name, escape(value))
    console.print(general)

    style = partial(Table, box=box.SIMPLE, collapse_padding=True, pad_edge=False)
    actions = style("action", "unit", "low", "high", "recorded", "mean", "std", title="actions")
    for i, column in enumerate(summary.actions):
        note = "" if i in robot.active else " (inactive)"
        bounds = f"{robot.low[i]:.3g}", f"{robot.high[i]:.3g}"
        actions.add_row(escape(column.name) + note, escape(robot.units[i]), *bounds, *_numbers([column])[0][1:])
    console.print(actions)
    if summary.states:
        states = style("state", "recorded", "mean", "std", title="states")
        for row in _numbers(summary.states):
            states.add_row(*map(escape, row))
        console.print(states)
    if summary.labels:
        labels = style("label", "share of the frames", title="labels")
        for name, share in summary.labels.items():
            labels.add_row(escape(name), f"{share:.1%}")
        console.print(labels)
    if summary.sentences:
        captions = style("caption", "frames", title="most frequent captions")
        for sentence, count in summary.sentences.items():
            captions.add_row(escape(sentence), str(count))
        console.print(captions)


def _numbers(columns: Sequence[Column]) -> list[tuple[str, str, str, str]]:
    """Name, range, mean and standard deviation of each column, as text."""
    return [(c.name, f"{c.low:.3g} .. {c.high:.3g}", f"{c.mean:.3g}", f"{c.std:.3g}") for c in columns]
