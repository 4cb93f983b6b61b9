"""Clips per second and memory of a forward pass: a ViT-L behind our tokenizer beside V-JEPA 2."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch

from benchmarks.chunking.large_vit import SIDES, Large, Side, clips, make
from benchmarks.chunking.side_by_side import in_own_process, interleaved, peak_mb, resident_mb, time_of_parts
from benchmarks.part import Part

Way = Literal["fp32", "bf16", "bf16_autocast"]  # weights and clips in fp32; both in bf16; fp32 under bf16 autocast
WAYS: tuple[Way, ...] = ("fp32", "bf16_autocast", "bf16")


@dataclass(frozen=True)
class Cost:
    """What one side costs in one precision."""

    side: Side
    way: Way
    seconds_per_clip: float  # median
    rounds: list[float]  # seconds per clip of each round
    parts: dict[str, float]  # seconds per clip of the side's modules, medians


@torch.inference_mode()
def costs(size: Large, batch: int, rounds: int, way: Way) -> list[Cost]:
    """Time both sides, in turn."""
    noted: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    calls: dict[str, Callable[[], None]] = {side: _call(side, way, size, batch, noted[side]) for side in SIDES}
    spent = interleaved(calls, rounds, seconds=0)
    found = []
    for side in SIDES:
        each = noted[side][1:]  # without the call before the first round
        parts = {name: statistics.median(one[name] for one in each) / batch for name in each[0]}
        per_clip = [seconds / batch for seconds in spent[side]]
        found.append(Cost(side, way, statistics.median(per_clip), per_clip, parts))
    return found


def _call(side: Side, way: Way, size: Large, batch: int, noted: list[dict[str, float]]) -> Callable[[], None]:
    """A forward pass over a batch, which also notes what its parts took."""
    model, video = make(SIDES[side], size, way == "bf16"), clips(side, size, batch, way == "bf16")
    autocast = way == "bf16_autocast"

    def call() -> None:
        with (
            time_of_parts(model.parts()) as spent,
            torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext(),
        ):
            model.tokens(video)
        noted.append(spent)

    return call


@torch.inference_mode()
def peak(side: Side, size: Large, batch: int, way: Way) -> float:
    """The most memory in MiB that a side needs for its weights, the clips and a forward pass.

    For a process of its own.
    """
    with torch.device("meta"):
        SIDES[side](size)  # loads the libraries it comes from, whose memory is not meant
    before = resident_mb()
    _call(side, way, size, batch, [])()
    return peak_mb() - before


def forward_speed(size: Large, batch: int, rounds: int) -> Part:
    """Time both sides in every precision, then the memory of each in a process of its own."""
    rows: list[dict[str, Any]] = []
    for way in WAYS:
        for cost in costs(size, batch, rounds, way):
            rows.append({**asdict(cost), "peak_mb": in_own_process(peak, cost.side, size, batch, way)})
    return Part({"sizes": size.as_json(), "batch": batch, "rounds": rounds}, ratios(rows), {"rows": rows})


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Ours divided by theirs, for every precision: clips per second (more is better) and memory (less is better)."""
    row = {(row["side"], row["way"]): row for row in rows}
    found = {}
    for way in WAYS:
        ours, theirs = row["chunks", way], row["tubelets", way]
        found[f"clips_ratio_vjepa2_{way}"] = theirs["seconds_per_clip"] / ours["seconds_per_clip"]
        found[f"memory_ratio_vjepa2_{way}"] = ours["peak_mb"] / theirs["peak_mb"]
    return found
