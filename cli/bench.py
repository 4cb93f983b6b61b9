"""``hnet bench``: reproduce the numbers of the documentation."""

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
NAMES = ("chunking", "distributed", "planner", "sims")
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
ALL_WORDS = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}


def bench(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help=f"Which: {', '.join(NAMES)}. Further arguments are passed to it.")],
) -> None:
    """Reproduce the numbers of the documentation and fill in its tables. For a checkout of the repository.

    sims: collects, trains and evaluates a model on every simulated robot; minutes of training per robot on two CPU
    cores, then hundreds of rollouts. Writes benchmarks/results/sims.json. With --zoo --check it is the release check:
    20 test pairs for each shipped model; status 1 when one is significantly below its row. About 10 minutes.

    planner: latency, CPU time beside a peer, success over search effort, ablations, deadlines, memory; part by part,
    minutes each. Writes benchmarks/results/planner.json.

    chunking: speed beside V-JEPA 2 (minutes; needs the extra 'vjepa2') and chunks compared with other tokens (48
    trainings, hours). Writes benchmarks/results/chunking.json.

    distributed: equal losses on every engine, killed ranks, memory of sharded sequences; a quarter of an hour. Writes
    benchmarks/results/distributed.json.

    Timings need an idle machine. An interrupted benchmark continues when the command is repeated. A result names its
    machine, date and commit.

    Examples:

    hnet bench sims two-room

    hnet bench sims --zoo --check

    hnet bench planner --part latency

    hnet bench chunking --help
    """
    if name not in NAMES:
        raise one_of("benchmark", name, NAMES)
    raise typer.Exit(run_benchmark(ROOT, name, context.args))


def run_benchmark(root: Path, name: str, words: Sequence[str]) -> int:
    """Run ``python -m benchmarks.NAME`` of the checkout ``root`` in a child process; return its status as a shell does.

    A signal that would end this process is forwarded to the child's process group instead, which shuts itself down.
    Raises UserError when there is no such benchmark.
    """
    package = root / "benchmarks"
    if not (package / f"{name}.py").is_file() and not (package / name / "__main__.py").is_file():
        raise UserError(f"there is no {package}: benchmarks are not part of an installation; run them from a checkout")
    # Not the current directory's modules (-P) but the checkout's, wherever this is called from.
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    received: list[int] = []
    children: list[subprocess.Popen[bytes]] = []

    def pass_on(number: int, _: object) -> None:
        received.append(number)
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, number)

    before = {number: signal.signal(number, pass_on) for number in SIGNALS}
    try:
        # A process group of its own: a terminal's Ctrl-C then reaches it once, through this process.
        command = [sys.executable, "-P", "-m", f"benchmarks.{name}", *words]
        children.append(subprocess.Popen(command, env=environment, process_group=0))
        if received:  # while the child was being started
            os.killpg(children[0].pid, received[-1])
        status = children[0].wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    return status if status >= 0 else 128 - status
