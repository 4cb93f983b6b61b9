"""The chunk encoder: its speed, the quality of chunks, and whether their number follows content.

``python -m benchmarks.chunking`` measures two parts of ``benchmarks/results/chunking.json``, "speed" (about 8 minutes
on two cores without other load) and "study" (54 trainings: an hour on one core; can be resumed). ``--part NAME``
measures one part, with the arguments that follow: ``--part counts VIDEO...`` counts the chunks of clips, ``--part
saliency`` compares ways to pool where saliency is known, ``--part reconstruction CHECKPOINT DATA`` reconstructs cells
from chunks, and ``--part streaming`` times one more frame of a running camera.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from benchmarks import render
from benchmarks.chunking import counts, reconstruction, saliency, speed, streaming, study
from cli.stopping import stoppable
from hnet_vjepa.errors import UserError, one_of

PARTS: dict[str, Callable[[Sequence[str]], None]] = {
    "speed": speed.main,
    "study": study.main,
    "counts": counts.main,
    "saliency": saliency.main,
    "reconstruction": reconstruction.main,
    "streaming": streaming.main,
}
DEFAULT = ("speed", "study")  # the parts that need no further input


@stoppable()
def main() -> None:
    """Measure the part that is named, or the default ones; then render the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.chunking",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--part", help=f"one of: {', '.join(PARTS)}")
    options, words = parser.parse_known_args()
    try:
        if options.part is None:
            if words:
                raise UserError(f"argument '{words[0]}' needs a part: name it with --part")
            for name in DEFAULT:
                PARTS[name]([])
        elif options.part not in PARTS:
            raise one_of("part", options.part, PARTS)
        else:
            PARTS[options.part](words)
    except UserError as error:
        print(f"chunking: {error}", file=sys.stderr)
        sys.exit(2)
    render.main()


if __name__ == "__main__":
    main()
