"""``hnet sims``: the simulated robots."""

from __future__ import annotations

import typer

from sims.registry import TASKS

app = typer.Typer(help="The simulated robots.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """The simulated robots."""


@app.command("list")
def list_tasks() -> None:
    """Print the simulated robots: what --task can be, and what each one is."""
    for task in TASKS.values():
        actions = ", ".join(
            f"{task.action.names[i]} ({task.action.low[i]:g} to {task.action.high[i]:g} {task.action.units[i]})"
            for i in task.action.active
        )
        print(task.name)
        for what, value in (
            ("description", task.description),
            ("active actions", f"{actions}; {task.action.dim} numbers in all"),
            ("control rate", f"{1 / task.camera.dt:g} Hz"),
            ("camera", f"{task.camera.width} x {task.camera.height} pixels, {task.camera.name}"),
            ("labels", ", ".join(task.labels)),
            ("licence", task.licence),
        ):
            print(f"  {what + ':':<16}{value}")
