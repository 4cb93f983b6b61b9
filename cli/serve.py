"""``hnet serve``."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer
import uvicorn

from cli.models import MODEL_HELP, chosen_checkpoint
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.interface import Planner
from planner_service.app import create_app
from planner_service.listening import listen


def serve(
    checkpoint: Annotated[Path | None, typer.Option(help="Directory of a trained checkpoint.")] = None,
    model: Annotated[str | None, typer.Option(help=MODEL_HELP)] = None,
    host: Annotated[str, typer.Option(help="Address to listen on; any but loopback addresses need a token.")] = (
        "127.0.0.1"
    ),
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one and prints it.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="HNET_TOKEN",
            help="Bearer token of clients. Options are visible to other users; prefer the environment variable.",
        ),
    ] = None,
    # One by default: on a machine with other load, torch's threads wait for each other at the end of each small
    # operation; with two threads on two busy cores a plan of 70 ms was measured to take 2 s.
    threads: Annotated[
        int, typer.Option(min=1, help="CPU threads for the model; more than one helps on idle cores only.")
    ] = 1,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Change a search setting of the checkpoint: --set plan.candidates=16. May be repeated."
        ),
    ] = None,
) -> None:
    """Serve plans for camera images and goals over HTTP."""
    source = chosen_checkpoint(checkpoint, model)
    if not source.is_dir():
        raise UserError(f"there is no checkpoint directory {source}; 'hnet train' writes one")
    token = token or None  # an empty HNET_TOKEN means no token
    changes: dict[str, str] = {}
    if set_:
        from hnet_vjepa.planning.overrides import plan_settings

        changes = plan_settings(set_)
    failure: list[BaseException] = []

    def load() -> Planner:
        # Runs in the planner's thread: the server answers "loading" meanwhile, and torch is used by that thread only.
        try:
            from hnet_vjepa.planning.planner import load_planner

            planner = load_planner(source, threads, changes)
        except BaseException as error:
            failure.append(error)
            stop()
            raise
        print(f"listening on http://{shown}:{bound}", flush=True)  # not before it can serve
        return planner

    def stop(*_: object) -> None:
        server.should_exit = True

    app = create_app(load, token)
    listener = listen(host, port, local_only=token is None)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="warning",
            access_log=False,  # a robot sends ten requests a second; /metrics counts them
            timeout_keep_alive=75,  # longer than pauses of a robot, which keeps its connection
            timeout_graceful_shutdown=15,
        )
    )
    # uvicorn shuts down on SIGTERM and SIGINT and then raises the signal again; with this handler it exits with 0.
    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    address, bound = listener.getsockname()[:2]
    shown = f"[{address}]" if ":" in address else address
    server.run(sockets=[listener])
    if failure:
        raise failure[0]
