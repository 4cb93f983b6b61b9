"""What one more frame of a running camera costs an encoder that looks back: as a stream, and with its past again.

``python -m benchmarks.chunking --part streaming`` writes the part "streaming" of ``benchmarks/results/chunking.json``.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Sequence

import torch

from benchmarks.chunking.side_by_side import interleaved
from benchmarks.record import merge_result
from hnet_vjepa.config import BackboneConfig, EncoderConfig
from hnet_vjepa.models.hnet.encoder import Cache
from hnet_vjepa.models.vjepa.vit import HNetViT

COMMAND = "python -m benchmarks.chunking --part streaming"
FRAMES = (1, 4, 16, 64, 256)  # that came before
SIDE = 64
TIMES = (3, 3)  # frames that the blocks of a stage look at; the rest is that of the presets


@torch.inference_mode()
def streaming(frames: Sequence[int] = FRAMES) -> tuple[HNetViT, list[dict[str, float]]]:
    """The backbone and, for every number of frames before, seconds of the next one and the largest difference.

    ``stream``: the frame alone, with the cache; ``clip``: all frames again.
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
    """Measure and record. ``words`` must be none."""
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
