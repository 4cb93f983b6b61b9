"""``hnet data``: collect, import and inspect episodes."""

from __future__ import annotations

import typer

app = typer.Typer(help="Collect, import and inspect episodes.", no_args_is_help=True)
