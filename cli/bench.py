"""``hnet bench``: measure again what the documentation says."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from hnet_vjepa.errors import UserError, one_of

ROOT = Path(__file__).resolve().parent.parent  # of the checkout, when this is one
NAMES = ("chunking", "planner", "sims")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ALL_WORDS = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}


def bench(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help=f"Which: {', '.join(NAMES)}. What follows is passed on to it.")],
) -> None:
    """Measure again what the documentation says, and fill in its tables. For a checkout of the repository.

    sims: collects, trains and judges a model on every simulated robot; minutes of training per robot on two CPU
    cores, then hundreds of rollouts. Writes benchmarks/results/sims.json.

    planner: latency, CPU time beside a peer, success against search, what each part is worth, deadlines, memory;
    part by part, minutes each. Writes benchmarks/results/planner.json.

    chunking: speed beside V-JEPA 2 (minutes; needs the extra 'vjepa2') and what chunks are worth beside other tokens
    (48 trainings, hours). Writes benchmarks/results/chunking.json.

    Timings need a machine that has nothing else to do. What was stopped goes on when it is given again. A result names
    its machine, date and commit.

    Examples:

    hnet bench sims two-room

    hnet bench planner --part latency

    hnet bench chunking --help
    """
    if name not in NAMES:
        raise one_of("benchmark", name, NAMES)
    raise typer.Exit(run_benchmark(ROOT, name, context.args))


def run_benchmark(root: Path, name: str, words: Sequence[str]) -> int:
    """Run ``python -m benchmarks.NAME`` of the checkout ``root`` in a child process; return its status as a shell does.

    A signal that would end this process goes to the child and all that it started instead, which end in their own way.
    Raises UserError when there is no such benchmark.
    """
    package = root / "benchmarks"
    if not (package / f"{name}.py").is_file() and not (package / name / "__main__.py").is_file():
        raise UserError(f"there is no {package}: benchmarks are no part of an installation; run them from a checkout")
    # Not the current directory's modules (-P) but the checkout's, wherever this is called from.
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    told: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: object) -> None:
        told.append(number)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, number)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        # A group of its own: a terminal's Ctrl-C then reaches it once, by the way of this process.
        command = [sys.executable, "-P", "-m", f"benchmarks.{name}", *words]
        children.append(subprocess.Popen(command, env=environment, process_group=0))
        if told:  # while it was being started
            os.killpg(children[0].pid, told[-1])
        status = children[0].wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status
