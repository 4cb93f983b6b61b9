"""A training step of the ViT-L on chunks, with and without recomputing its blocks in the backward pass."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.chunking.large_vit import ChunkViT, Large, clips, make
from benchmarks.chunking.side_by_side import in_own_process, interleaved, medians, peak_mb, resident_mb
from benchmarks.part import Part
from benchmarks.table import Result, Table
from hnet_vjepa.utils.runtime import choose_precision

RECOMPUTE = {"": False, "_recompute": True}  # suffix of the metrics' names


def step_of(model: ChunkViT, video: Tensor, precision: str) -> Callable[[bool], None]:
    """A training step on clips B x T x H x W x 3; its argument is whether to recompute.

    The loss is the tokens' mean square: the modules behind the encoder cost little in comparison. Weights are fp32;
    ``precision`` bf16 is autocast, as in training.
    """
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-6)

    def step(recompute: bool) -> None:
        model.recompute = recompute
        with torch.autocast("cpu", torch.bfloat16) if precision == "bf16" else contextlib.nullcontext():
            loss = model.tokens(video).float().square().mean()
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()

    return step


def peak(size: Large, batch: int, precision: str, recompute: bool) -> float:
    """Peak memory in MiB of two steps, with weights, gradients and the optimiser's state.

    Two, since the first one allocates the optimiser's state. Run it in a process of its own.
    """
    before = resident_mb()
    step = step_of(make(ChunkViT, size), clips("chunks", size, batch), precision)
    step(recompute)
    step(recompute)
    return peak_mb() - before


def training_step(size: Large, batch: int, rounds: int) -> Part:
    """The memory of both kinds of step, each in a process of its own, and their time, interleaved."""
    precision = choose_precision("auto")
    metrics = {
        f"train_peak_mb{name}": in_own_process(peak, size, batch, precision, recompute)
        for name, recompute in RECOMPUTE.items()
    }
    step = step_of(make(ChunkViT, size), clips("chunks", size, batch), precision)
    spent = interleaved({name: partial(step, recompute) for name, recompute in RECOMPUTE.items()}, rounds, seconds=0)
    metrics |= {f"train_step_s{name}": seconds for name, seconds in medians(spent).items()}
    settings = {"sizes": size.as_json(), "batch": batch, "rounds": rounds, "precision": precision}
    return Part(settings, metrics, {"seconds": list(spent.values())})


def table(result: Result) -> Table:
    """A training step, with and without recomputing."""
    settings = result.parts["speed"]["settings"]["training"]
    rows = [
        [what, f"{result.metrics[f'train_step_s{end}']:.1f}", f"{result.metrics[f'train_peak_mb{end}']:.0f}"]
        for what, end in (("activations stored", ""), ("blocks recomputed", "_recompute"))
    ]
    note = (
        f"{settings['batch']} clips, {settings['precision']}, weights in fp32, AdamW; memory includes "
        "weights, gradients and the optimiser's state."
    )
    return Table(["", "seconds per step", "peak MiB"], rows, note, ("speed",))
