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
from benchmarks.table import Result, Table

Way = Literal["fp32", "bf16", "bf16_autocast"]  # weights and clips in fp32; both in bf16; fp32 under bf16 autocast
WAYS: dict[Way, str] = {"fp32": "fp32", "bf16_autocast": "bf16 autocast", "bf16": "bf16 weights"}
NAMES = {"chunks": "chunks", "tubelets": "V-JEPA 2"}


@dataclass(frozen=True)
class Cost:
    """The cost of one encoder in one precision."""

    side: Side
    way: Way
    seconds_per_clip: float  # median
    rounds: list[float]  # seconds per clip of each round
    parts: dict[str, float]  # seconds per clip of its modules, medians


@torch.inference_mode()
def costs(size: Large, batch: int, rounds: int, way: Way) -> list[Cost]:
    """Time both encoders, in turn."""
    recorded: dict[str, list[dict[str, float]]] = {side: [] for side in SIDES}
    calls: dict[str, Callable[[], None]] = {side: _call(side, way, size, batch, recorded[side]) for side in SIDES}
    spent = interleaved(calls, rounds, seconds=0)
    found = []
    for side in SIDES:
        each = recorded[side][1:]  # without the call before the first round
        parts = {name: statistics.median(one[name] for one in each) / batch for name in each[0]}
        per_clip = [seconds / batch for seconds in spent[side]]
        found.append(Cost(side, way, statistics.median(per_clip), per_clip, parts))
    return found


def _call(side: Side, way: Way, size: Large, batch: int, recorded: list[dict[str, float]]) -> Callable[[], None]:
    """A forward pass over a batch, which also records the time of its modules."""
    model, video = make(SIDES[side], size, way == "bf16"), clips(side, size, batch, way == "bf16")
    autocast = way == "bf16_autocast"

    def call() -> None:
        with (
            time_of_parts(model.parts()) as spent,
            torch.autocast("cpu", torch.bfloat16) if autocast else contextlib.nullcontext(),
        ):
            model.tokens(video)
        recorded.append(spent)

    return call


@torch.inference_mode()
def peak(side: Side, size: Large, batch: int, way: Way) -> float:
    """Peak memory in MiB of an encoder's weights, the clips and a forward pass; run it in a process of its own."""
    with torch.device("meta"):
        SIDES[side](size)  # imports its libraries, whose memory is not counted
    before = resident_mb()
    _call(side, way, size, batch, [])()
    return peak_mb() - before


def forward_speed(size: Large, batch: int, rounds: int) -> Part:
    """Time both encoders in every precision, then measure the memory of each in a process of its own."""
    rows: list[dict[str, Any]] = []
    for way in WAYS:
        for cost in costs(size, batch, rounds, way):
            rows.append({**asdict(cost), "peak_mb": in_own_process(peak, cost.side, size, batch, way)})
    return Part({"sizes": size.as_json(), "batch": batch, "rounds": rounds}, ratios(rows), {"rows": rows})


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Chunks relative to V-JEPA 2, for every precision: clips per second (more is better), memory (less is better)."""
    row = {(row["side"], row["way"]): row for row in rows}
    found = {}
    for way in WAYS:
        ours, theirs = row["chunks", way], row["tubelets", way]
        found[f"clips_ratio_vjepa2_{way}"] = theirs["seconds_per_clip"] / ours["seconds_per_clip"]
        found[f"memory_ratio_vjepa2_{way}"] = ours["peak_mb"] / theirs["peak_mb"]
    return found


def table(result: Result) -> Table:
    """A forward pass of both encoders in every precision."""
    settings, rows = result.parts["speed"]["settings"]["forward"], result.parts["speed"]["forward"]["rows"]
    sizes = settings["sizes"]
    slots = sizes["tokenizer"]["pooling"]["grid"]
    tokens = {
        "chunks": sizes["frames"] // sizes["window"] * slots[0] * slots[1],
        "tubelets": sizes["frames"] // 2 * (sizes["pixels"] // 16) ** 2,
    }
    cells = [
        [
            WAYS[row["way"]],
            NAMES[row["side"]],
            str(tokens[row["side"]]),
            f"{row['seconds_per_clip']:.2f}",
            f"{result.metrics['clips_ratio_vjepa2_' + row['way']]:.1f}" if row["side"] == "chunks" else "1",
            f"{row['peak_mb']:.0f}",
            f"{result.metrics['memory_ratio_vjepa2_' + row['way']]:.2f}" if row["side"] == "chunks" else "1",
        ]
        for row in rows
    ]
    note = (
        f"Clips of {sizes['frames']} frames of {sizes['pixels']} x {sizes['pixels']} pixels, {settings['batch']} at a "
        f"time, both encoders with {sizes['depth']} blocks of width {sizes['width']} and random weights; medians of "
        f"{settings['rounds']} interleaved rounds. Relative numbers: V-JEPA 2 in the same precision is 1."
    )
    head = ["", "encoder", "tokens", "seconds per clip", "clips per second, relative", "peak MiB", "relative"]
    return Table(head, cells, note, ("speed",))


def modules_table(result: Result) -> Table:
    """The time of a forward pass by module."""
    rows = result.parts["speed"]["forward"]["rows"]
    spent = {(row["side"], row["way"]): row["parts"] for row in rows}
    cells = [
        [NAMES[side], name, *(f"{spent[side, way][name]:.3f}" for way in WAYS)]
        for side in SIDES
        for name in spent[side, next(iter(WAYS))]
    ]
    note = "Seconds per clip inside each module, medians; work between the modules is not included."
    return Table(["encoder", "module", *WAYS.values()], cells, note, ("speed",))
