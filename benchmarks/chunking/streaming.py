"""The cost of one more frame of a running camera for a causal encoder: with cached features, and recomputed.

``python -m benchmarks.chunking --part streaming`` writes the part "streaming" of ``benchmarks/results/chunking.json``.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

import torch

from benchmarks.chunking.side_by_side import interleaved
from benchmarks.record import merge_result
from benchmarks.table import Result, Table
from hnet_vjepa.config import BackboneConfig, EncoderConfig
from hnet_vjepa.models.hnet.encoder import Cache
from hnet_vjepa.models.vjepa.vit import HNetViT

COMMAND = "python -m benchmarks.chunking --part streaming"
FRAMES = (1, 4, 16, 64, 256)  # previous frames
SIDE = 64
TIMES = (3, 3)  # temporal kernel of each stage; everything else as in the presets


@torch.inference_mode()
def streaming(frames: Sequence[int] = FRAMES) -> tuple[HNetViT, list[dict[str, float]]]:
    """The backbone and, for each number of previous frames, seconds of the next one and the largest difference.

    ``stream``: the new frame alone, with the cache; ``clip``: all frames recomputed.
    """
    torch.manual_seed(0)
    backbone = HNetViT(BackboneConfig(encoder=EncoderConfig(times=TIMES))).eval()
    rows = []
    for before in frames:
        video = torch.rand(1, before + 1, SIDE, SIDE, 3) * 2 - 1
        cache: Cache = {}
        backbone(video[:, :-1], cache=cache)
        stream = lambda: backbone(video[:, -1:], cache=dict(cache)).tokens[:, -1]  # noqa: B023, E731
        clip = lambda: backbone(video).tokens[:, -1]  # noqa: B023, E731
        spent = interleaved({"stream": stream, "clip": clip}, rounds=5)
        off = float((stream() - clip()).abs().max())
        rows.append({"before": before, **{name: statistics.median(s) for name, s in spent.items()}, "difference": off})
    return backbone, rows


def main(words: Sequence[str]) -> None:
    """Measure and write the part; takes no arguments."""
    argparse.ArgumentParser(prog=COMMAND, description="Time one more frame of a running camera.").parse_args(words)
    torch.set_num_threads(1)
    backbone, rows = streaming()
    metrics = {
        "stream_frame_ms": 1e3 * statistics.median(row["stream"] for row in rows),
        "stream_frame_longest_over_shortest_history": rows[-1]["stream"] / rows[0]["stream"],
        "stream_largest_difference": max(row["difference"] for row in rows),
    }
    settings = {"side": SIDE, "history": backbone.encoder.history, "threads": 1}
    print(merge_result("chunking", "streaming", COMMAND, settings, metrics, rows=rows), metrics)


def table(result: Result) -> Table:
    """One more frame of a running camera."""
    part = result.parts["streaming"]
    rows = [
        [f"{row['before']}", f"{1e3 * row['stream']:.1f}", f"{1e3 * row['clip']:.1f}", f"{row['difference']:.0e}"]
        for row in part["rows"]
    ]
    settings = part["settings"]
    note = (
        f"The backbone of the presets with a history of {settings['history']} frames; frames of {settings['side']} x "
        f"{settings['side']} pixels, {settings['threads']} thread, medians. Difference: largest absolute difference of "
        "the slots, whose values are of the order of 1."
    )
    return Table(["previous frames", "cached, ms", "recomputed, ms", "difference"], rows, note, ("streaming",))
