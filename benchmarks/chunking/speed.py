"""Speed of the chunk encoder: beside V-JEPA 2, over the length of clips, and in training.

``python -m benchmarks.chunking --part speed`` writes the part ``speed`` of ``benchmarks/results/chunking.json`` and
``docs/images/sparse_attention.png``. It needs transformers (the extra ``vjepa2``), Linux, a machine without other
load, 16 GB of memory and about 8 minutes on two cores. Compared calls are interleaved; times are medians.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.chunking.attention_curve import ROBOTS, Curve, attention_curve
from benchmarks.chunking.forward_speed import forward_speed
from benchmarks.chunking.large_vit import Large
from benchmarks.chunking.training_step import training_step
from benchmarks.part import Part
from benchmarks.record import ROOT, merge_result

COMMAND = "python -m benchmarks.chunking --part speed"
PLOT = ROOT / "docs" / "images" / "sparse_attention.png"
BATCH = 2  # clips of a forward pass and of a training step
ROUNDS = 3


def speed(size: Large, curve: Curve, plot: Path | None) -> Part:
    """Measure everything and print the metrics as they are found."""
    found = Part({}, {}, {})
    for name, make in (
        ("forward", lambda: forward_speed(size, BATCH, ROUNDS)),
        ("attention", lambda: attention_curve(curve, ROBOTS, ROUNDS, plot)),
        ("training", lambda: training_step(size, BATCH, ROUNDS)),
    ):
        part = make()
        print(name, json.dumps(part.metrics, indent=2), flush=True)
        found.settings[name] = part.settings
        found.metrics.update(part.metrics)
        found.behind[name] = part.behind
    return found


def main(words: Sequence[str]) -> None:
    """Measure and write the part; takes no arguments. Raises UserError without transformers or Linux."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Measure how fast the chunk encoder is.")
    parser.parse_args(words)
    part = speed(Large(), Curve(), PLOT)
    print(merge_result("chunking", "speed", COMMAND, part.settings, part.metrics, **part.behind))
