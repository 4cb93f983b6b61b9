"""``hnet sims``: the simulated robots."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from sims.core.registry import TASKS, get_task

if TYPE_CHECKING:
    from sims.evaluation.manifest import Rates

app = typer.Typer(help="The simulated robots.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The simulated robots."""


@app.command("list")
def list_tasks() -> None:
    """Print the simulated robots: what --task can be, what each one is, and what random and ideal behaviour reach."""
    from sims.evaluation.evaluate import criteria_of
    from sims.evaluation.manifest import read_manifest

    for task in TASKS.values():
        actions = ", ".join(
            f"{task.action.names[i]} ({task.action.low[i]:g} to {task.action.high[i]:g} {task.action.units[i]})"
            for i in task.action.active
        )
        known = read_manifest(task.name)
        print(task.name)
        for what, value in (
            ("description", task.description),
            ("active actions", f"{actions}; {task.action.dim} numbers in all"),
            ("control rate", f"{1 / task.camera.dt:g} Hz"),
            ("interval", f"{task.interval} step{'s' * (task.interval > 1)} of the environment per action"),
            (
                "success",
                f"within {', '.join(criteria_of(task, 'image'))} of the goal in {task.evaluation_steps} actions",
            ),
            ("floor", "" if known is None else _rates(known.floor)),
            ("ceiling", "" if known is None or not known.ceiling else _rates(known.ceiling)),
            ("camera", f"{task.camera.width} x {task.camera.height} pixels, {task.camera.name}"),
            ("labels", ", ".join(task.labels)),
            ("licence", task.licence),
            ("needs", task.needs),
        ):
            if value:
                print(f"  {what + ':':<16}{value}")


@app.command("check")
def check(
    task: Annotated[str, typer.Argument(help="Which simulated robot; package.module:TASK for one of your own.")],
    pairs: Annotated[int, typer.Option(min=1, help="Starts and goals that floor and ceiling are measured on.")] = 20,
) -> None:
    """Check a task before anything is collected with it; exit status 1 when something does not hold.

    form: frames, states and actions are as the task says. save and restore, determinism: the same actions lead to the
    same frames and states, bit for bit, or methods would not play the same pairs. an action shows: how many pixels it
    changes; what no pixel shows is not learnt. goals, floor, ceiling: starts and goals can be drawn, random actions
    reach few of them, and the scripted controller, if there is one, most.

    Example: hnet sims check my_robot:TASK
    """
    from sims.core.check import check_task

    failed = []
    for found in check_task(get_task(task), pairs):
        print(f"{'ok' if found.holds else 'FAILED':<8}{found.name + ':':<28}{found.measured}", flush=True)
        failed += [] if found.holds else [found.name]
    if failed:
        print(f"{task}: {', '.join(failed)} failed; see docs/own_robot.md", file=sys.stderr)
        raise typer.Exit(1)


@app.command("manifest")
def manifest(
    task: Annotated[str, typer.Argument(help="Which simulated robot.")],
    out: Annotated[
        Path | None,
        typer.Option(help="Another directory than the package's own, or ./manifests for a task outside this package."),
    ] = None,
) -> None:
    """Write the pairs that a task is evaluated on, with the success of random actions and of the scripted controller.

    'hnet evaluate' then notices when another version of the physics gives other pairs. For whoever adds a task, and
    after an intended change of physics; commit the file. For a task outside this package it goes to ./manifests, where
    'hnet evaluate' looks for it.

    Example: hnet sims manifest fetch-reach
    """
    from sims.evaluation.manifest import folder_of, make_manifest, write_manifest

    chosen = get_task(task)
    with contextlib.closing(chosen.open()) as simulation:
        made = make_manifest(chosen, simulation)
    print(f"{write_manifest(made, out or folder_of(chosen))}: {len(made.test)} test and {len(made.dev)} dev pairs")
    print(f"floor:   {_rates(made.floor)}")
    if made.ceiling:
        print(f"ceiling: {_rates(made.ceiling)}")


def _rates(rates: Rates) -> str:
    """'5 cm 3 / 1 / 0 %' for success ever, at the end and held, by criterion."""
    said = [
        f"{criterion} {' / '.join(f'{100 * share:.0f}' for share in by_time.values())} %"
        for criterion, by_time in rates.items()
    ]
    return f"{', '.join(said)} (ever / at the end / held)"
