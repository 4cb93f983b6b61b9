"""The ``hnet`` command: every sub-command parses its options, calls the library and prints the result."""

from __future__ import annotations

import io
import os
import sys

from cli.stopping import stoppable

# Read when torch is loaded: how many turns OpenMP threads wait actively for each other. The default of 300,000 slows a
# step down tenfold when another process (a simulator, a second robot) uses the same cores; idle cores lose nothing.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")

with stoppable():  # these imports take half a second, long enough for a Ctrl-C
    import typer

    from cli import bench, calibrate, data, diagnose, doctor, evaluate, models, serve, sims, train, viz
    from hnet_vjepa.errors import UserError

app = typer.Typer(
    name="hnet",
    help="Train a world model on recorded robot episodes, serve plans over HTTP, and evaluate them in simulation.",
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
    """Entry point. Exit status 2 and one line for a UserError; 130 or 143 after Ctrl-C or SIGTERM."""
    escape_unprintable()
    try:
        with stoppable():
            app()
    except UserError as error:
        if os.environ.get("LOCAL_RANK", "0") == "0":  # ranks of one machine fail alike: one line, not eight
            print(f"hnet: {error}", file=sys.stderr)
        sys.exit(2)


def escape_unprintable() -> None:
    """Print characters that the terminal's encoding lacks as ``\\U0001f916``: captions and names are users' text."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
