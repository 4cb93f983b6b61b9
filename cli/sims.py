"""``hnet sims``: the simulated robots."""

from __future__ import annotations

import typer

app = typer.Typer(help="The simulated robots.", no_args_is_help=True)
