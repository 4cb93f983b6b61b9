"""``hnet sims``: the simulated robots."""

from __future__ import annotations

import contextlib
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
            ("ceiling", "" if known is None else _rates(known.ceiling)),
            ("camera", f"{task.camera.width} x {task.camera.height} pixels, {task.camera.name}"),
            ("labels", ", ".join(task.labels)),
            ("licence", task.licence),
            ("needs", task.needs),
        ):
            if value:
                print(f"  {what + ':':<16}{value}")


@app.command("manifest")
def manifest(
    task: Annotated[str, typer.Argument(help="Which simulated robot.")],
    out: Annotated[Path | None, typer.Option(help="Another directory than the package's own.")] = None,
) -> None:
    """Write down the pairs that a task is judged on, and what random actions and the scripted controller reach.

    'hnet evaluate' then notices when another version of the physics gives other pairs. For whoever adds a task, and
    after a change of physics that is meant; commit the file.

    Example: hnet sims manifest fetch-reach
    """
    from sims.evaluation.manifest import FOLDER, make_manifest, write_manifest

    chosen = get_task(task)
    with contextlib.closing(chosen.open()) as simulation:
        made = make_manifest(chosen, simulation)
    print(f"{write_manifest(made, out or FOLDER)}: {len(made.test)} test and {len(made.dev)} dev pairs")
    print(f"floor:   {_rates(made.floor)}")
    print(f"ceiling: {_rates(made.ceiling)}")


def _rates(rates: Rates) -> str:
    """'5 cm 3 / 1 / 0 %' for success ever, at the end and held, by criterion."""
    said = [
        f"{criterion} {' / '.join(f'{100 * share:.0f}' for share in by_time.values())} %"
        for criterion, by_time in rates.items()
    ]
    return f"{', '.join(said)} (ever / at the end / held)"
