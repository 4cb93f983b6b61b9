"""Training over several ranks.

``python -m benchmarks.distributed`` measures all parts of ``benchmarks/results/distributed.json`` on CPU ranks, about
15 minutes on two cores without other load: "parity" (losses of every engine against one process), "kills" (SIGKILL of
ranks at random moments) and "memory" (peaks of sharded sequences and of recomputation). ``--part NAME`` measures one.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benchmarks import render
from benchmarks.distributed import kills, memory, parity
from benchmarks.part import Part
from benchmarks.record import merge_result
from cli.stopping import stoppable
from hnet_vjepa.errors import UserError, one_of

PARTS: dict[str, Callable[[Path], Part]] = {"parity": parity.measure, "kills": kills.measure, "memory": memory.measure}


@dataclass(frozen=True)
class Options:
    """The command line."""

    part: str | None
    work: Path


@stoppable()
def main() -> None:
    """Measure the part that is named, or all; then render the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.distributed",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--part", help=f"one of: {', '.join(PARTS)}")
    parser.add_argument("--work", type=Path, default=Path("outputs/distributed"), help="episodes and trainings")
    options = Options(**vars(parser.parse_args()))
    if options.part is not None and options.part not in PARTS:
        print(f"distributed: {one_of('part', options.part, PARTS)}", file=sys.stderr)
        sys.exit(2)
    try:
        for name in [options.part] if options.part else PARTS:
            work = options.work / name
            shutil.rmtree(work, ignore_errors=True)  # a training that is finished would not be trained again
            part = PARTS[name](work)
            command = f"python -m benchmarks.distributed --part {name}"
            print(merge_result("distributed", name, command, part.settings, part.metrics, **part.behind))
    except UserError as error:
        print(f"distributed: {error}", file=sys.stderr)
        sys.exit(2)
    render.main()


if __name__ == "__main__":
    main()
