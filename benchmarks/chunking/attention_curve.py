"""Time and memory of sparse attention over the length of a clip, beside full attention and its own dense path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter, StrMethodFormatter
from torch import Tensor

from benchmarks.chunking.side_by_side import (
    crossover,
    exponent,
    in_own_process,
    interleaved,
    medians,
    peak_mb,
    resident_mb,
)
from benchmarks.part import Part
from benchmarks.table import Result, Table
from hnet_vjepa.models.hnet.sparse_attention import DENSE_BELOW, NativeSparseAttention, Triple

WAYS = {"gathered": "sparse attention, gathered", "dense": "sparse attention, dense", "full": "full attention alone"}


@dataclass(frozen=True)
class Curve:
    """The attention and the clips that are measured."""

    dim: int = 256
    heads: int = 4
    cube: Triple = (2, 7, 7)  # a quarter of a frame, two frames deep; an odd number of frames leaves cubes half empty
    selected: int = 2
    batch: int = 1
    side: int = 14  # rows and columns of a frame of 224 pixels at stride 16
    frames: tuple[int, ...] = (1, 2, 3, 5, 10, 20, 41, 82, 164, 256)
    long: int = 900  # tokens from which on the exponent is fitted; below, the overhead of calls dominates
    dense_most: int = 4000  # tokens up to which the dense path is measured: its masks grow quadratically

    def tokens(self, frames: int) -> int:
        """Tokens of a clip."""
        return frames * self.side**2

    def lengths(self, way: str) -> list[int]:
        """The lengths of clips, in frames, at which a way is measured."""
        return [n for n in self.frames if way != "dense" or self.tokens(n) <= self.dense_most]


# The sizes of the robots' models, much smaller than those above.
ROBOTS = Curve(64, 4, (1, 4, 4), 2, batch=16, side=8, frames=(1, 2, 3, 4, 6, 8, 12, 16))


def prepare(curve: Curve, way: str, frames: int) -> Callable[[], Tensor]:
    """A call of one kind of attention over clips of this length.

    ``gathered`` and ``dense`` are the whole module, projections and gates included; ``full`` is
    ``scaled_dot_product_attention`` alone, on given queries, keys and values.
    """
    torch.manual_seed(0)
    if way == "full":
        q, k, v = torch.randn(3, curve.batch, curve.tokens(frames), curve.heads, curve.dim // curve.heads).transpose(
            2, 3
        )
        return lambda: F.scaled_dot_product_attention(q, k, v)
    dense_below = 0 if way == "gathered" else 2**62
    module = NativeSparseAttention(curve.dim, curve.heads, curve.cube, curve.selected, dense_below=dense_below)
    x = torch.randn(curve.batch, frames, curve.side, curve.side, curve.dim)
    return lambda: module(x)


@torch.inference_mode()
def times(curve: Curve, rounds: int) -> list[dict[str, float]]:
    """One row per length: the tokens of a clip, and the median seconds of every way."""
    rows = []
    for frames in curve.frames:
        ways = {way: prepare(curve, way, frames) for way in WAYS if frames in curve.lengths(way)}
        rows.append({"tokens": curve.tokens(frames), **medians(interleaved(ways, rounds))})
    return rows


@torch.inference_mode()
def peaks(curve: Curve, way: str) -> list[float]:
    """Peak memory in MiB after each length, shortest first, minus the memory before; run it in a process of its own."""
    before, found = resident_mb(), []
    for frames in curve.lengths(way):
        prepare(curve, way, frames)()
        found.append(peak_mb() - before)
    return found


def attention_curve(curve: Curve, small: Curve, rounds: int, plot: Path | None) -> Part:
    """Time and memory of a forward pass in fp32, drawn to ``plot``; time alone for the ``small`` model."""
    rows, small_rows = times(curve, rounds), times(small, rounds)
    for way in WAYS:
        for row, peak in zip(rows, in_own_process(peaks, curve, way), strict=False):
            row[f"{way}_mb"] = peak
    if plot is not None:
        draw(rows).savefig(plot)
    metrics = figures(rows, curve)
    crossing = crossing_of(small_rows, "dense")
    if crossing is not None:
        metrics["crossover_tokens_robots"] = crossing
    settings = {"curve": asdict(curve), "robots": asdict(small), "path_changes_at": DENSE_BELOW, "rounds": rounds}
    return Part(settings, metrics, {"rows": rows, "robots_rows": small_rows})


def figures(rows: list[dict[str, float]], curve: Curve) -> dict[str, float]:
    """Exponents of time over tokens for long clips, and the lengths from which on the gathered path is faster."""
    long = [row for row in rows if row["tokens"] >= curve.long]
    tokens = [row["tokens"] for row in long]
    found = {
        "nsa_exponent": exponent(tokens, [row["gathered"] for row in long]),
        "full_attention_exponent": exponent(tokens, [row["full"] for row in long]),
        "full_attention_seconds_ratio_longest": rows[-1]["full"] / rows[-1]["gathered"],
    }
    for key, way in (("crossover_tokens", "dense"), ("crossover_tokens_full_attention", "full")):
        size = crossing_of(rows, way)
        if size is not None:
            found[key] = size
    return found


def crossing_of(rows: list[dict[str, float]], way: str) -> float | None:
    """Tokens from which on the gathered path is faster than ``way``: the smallest measured if always, None if never."""
    both = [row for row in rows if way in row]
    return crossover([row["tokens"] for row in both], [row[way] for row in both], [row["gathered"] for row in both])


def draw(rows: list[dict[str, float]]) -> Figure:
    """Seconds and memory over tokens, both axes logarithmic."""
    figure = Figure(figsize=(9, 3.6), layout="constrained", dpi=110)
    for axes, suffix, label in zip(figure.subplots(1, 2), ("", "_mb"), ("seconds", "MiB"), strict=True):
        for way, name in WAYS.items():
            shown = [row for row in rows if way + suffix in row]
            axes.loglog([row["tokens"] for row in shown], [row[way + suffix] for row in shown], "o-", ms=3, label=name)
        axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("tokens of a clip")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    return figure


def faster(found: float | None, rows: list[dict[str, float]]) -> str:
    """In words, at which measured lengths the gathered path is faster, given the crossover of ``crossing_of``."""
    if found is None:
        return "at no measured length"
    if found <= rows[0]["tokens"]:
        return "at every measured length"
    return f"from {found:.0f} tokens on"


def table(result: Result) -> Table:
    """Time and memory of attention over the tokens of a clip."""
    speed, metrics = result.parts["speed"], result.metrics
    curve, measured = speed["settings"]["attention"]["curve"], speed["attention"]["rows"]
    rows = [
        [
            f"{row['tokens']:.0f}",
            *(_milliseconds(row, way) for way in WAYS),
            *(f"{row[f'{way}_mb']:.0f}" if f"{way}_mb" in row else "–" for way in WAYS),
        ]
        for row in measured
    ]
    dense, full = (metrics.get(key) for key in ("crossover_tokens", "crossover_tokens_full_attention"))
    note = (
        f"Width {curve['dim']}, {curve['heads']} heads, cubes of {' x '.join(map(str, curve['cube']))}, batch "
        f"{curve['batch']}, fp32, medians. Above {curve['long']} tokens the time of sparse attention grows with the "
        f"power {metrics['nsa_exponent']:.2f} of the tokens and that of full attention with "
        f"{metrics['full_attention_exponent']:.2f}. The gathered path is faster than the dense path "
        f"{faster(dense, measured)}, and faster than full attention {faster(full, measured)}. Full attention is timed "
        "without projections: the product of given queries, keys and values."
    )
    head = ["tokens", *(f"{way}, ms" for way in WAYS), *(f"{way}, MiB" for way in WAYS)]
    return Table(head, rows, note, ("speed",))


def robots_table(result: Result) -> Table:
    """The same at the sizes of the robots' models, time alone."""
    speed = result.parts["speed"]
    settings, measured = speed["settings"]["attention"], speed["attention"]["robots_rows"]
    curve = settings["robots"]
    rows = [[f"{row['tokens']:.0f}", *(_milliseconds(row, way) for way in WAYS)] for row in measured]
    note = (
        f"Width {curve['dim']}, {curve['heads']} heads, cubes of {' x '.join(map(str, curve['cube']))}, batch "
        f"{curve['batch']}. The gathered path is faster than the dense path "
        f"{faster(result.metrics.get('crossover_tokens_robots'), measured)}; the code uses it from "
        f"{settings['path_changes_at']} tokens on."
    )
    return Table(["tokens", *(f"{way}, ms" for way in WAYS)], rows, note, ("speed",))


def _milliseconds(row: dict[str, float], way: str) -> str:
    return f"{1e3 * row[way]:.3g}" if way in row else "–"
