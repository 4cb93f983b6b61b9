"""The ``hnet`` command: every sub-command parses, calls the library, prints."""

from __future__ import annotations

import os
import sys

from cli.stopping import stoppable

# Before torch is loaded: how long its threads wait actively for each other. The library's own 300,000 turns slow a step
# down tenfold as soon as another process (a simulator, a second robot) wants the same cores; idle cores lose nothing.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

with stoppable():  # this takes half a second, long enough for a Ctrl-C
    import typer

    from cli import bench, calibrate, data, diagnose, doctor, evaluate, models, serve, sims, train, viz
    from hnet_vjepa.errors import UserError

app = typer.Typer(
    name="hnet",
    help="Train a world model on recorded robot episodes, serve plans over HTTP, and check them in simulation.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.add_typer(data.app, name="data")
app.add_typer(sims.app, name="sims")
app.add_typer(viz.app, name="viz")
app.command("train")(train.train)
app.command("serve")(serve.serve)
app.command("evaluate")(evaluate.evaluate)
app.command("calibrate")(calibrate.calibrate)
app.command("diagnose")(diagnose.diagnose)
app.command("models")(models.models)
app.command("export")(models.export)
app.command("doctor")(doctor.doctor)
app.command("bench", context_settings=bench.ALL_WORDS)(bench.bench)


def run() -> None:
    """Entry point: one clear line and exit status 2 for what the user can put right; 130 or 143 when told to stop."""
    try:
        with stoppable():
            app()
    except UserError as error:
        print(f"hnet: {error}", file=sys.stderr)
        sys.exit(2)
