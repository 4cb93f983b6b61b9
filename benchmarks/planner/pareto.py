"""Success against CPU time over candidates x iterations x horizon, and the Pareto front of these settings."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import StrMethodFormatter

from benchmarks.part import Part
from benchmarks.planner.cells import milliseconds, search_size
from benchmarks.planner.instrumented import InstrumentedPlanner, quantiles, stamped, summarise, threads
from benchmarks.table import Result, Table, rate
from hnet_vjepa.planning.interface import Planner, PlanQuery, SearchSettings
from hnet_vjepa.planning.planner import load_planner
from hnet_vjepa.utils.files import write_bytes_atomic
from sims.core.task import Simulation, Task
from sims.evaluation.evaluate import play
from sims.evaluation.pairs import Pair, make_pairs
from sims.evaluation.policies import check_card, local_planner
from sims.evaluation.statistics import Rate
from sims.evaluation.units import in_unit, length, shown_in
from sims.reporting.plots import COLOURS, OTHERS

PAIRS = 50
CANDIDATES, ITERATIONS = (16, 48, 128), (1, 2, 4)  # at the checkpoint's own horizon
HORIZONS = (1, 2, 5)  # with little search and with more
LITTLE, MORE = (16, 2), (48, 4)


@dataclass(frozen=True)
class Tried:
    """One setting of the search: its success, and the cost of a plan with one thread."""

    search: SearchSettings
    success: Rate  # at the end
    final_distance: float  # median, in the task's unit
    wall_ms: dict[str, float]
    cpu_s: float


def sweep(default: SearchSettings) -> list[SearchSettings]:
    """The settings to try, the checkpoint's own first; the elites are a fixed share of the candidates."""
    chosen = [(c, i, default.horizon) for c in CANDIDATES for i in ITERATIONS]
    chosen += [(*few, horizon) for few in (LITTLE, MORE) for horizon in HORIZONS]
    share = default.elites / default.candidates
    settings = [SearchSettings(c, i, h, max(2, round(share * c))) for c, i, h in chosen]
    return list(dict.fromkeys([default, *settings]))


def attempt(
    task: Task,
    simulation: Simulation,
    planner: Planner,
    pairs: Sequence[Pair],
    tolerance: float,
    search: SearchSettings,
) -> Tried:
    """Play the pairs with one setting of the search."""

    def transform(query: PlanQuery) -> PlanQuery:
        return replace(stamped(query), search=search)

    instrumented = InstrumentedPlanner(planner, transform)
    method = play(task, simulation, local_planner(instrumented), pairs, task.evaluation_steps, progress=False)
    cost = summarise(instrumented.costs[1:])  # the first query is repeated: see ``play``
    return Tried(
        search,
        method.end(task.tolerances.index(tolerance)),
        quantiles(method.final_distances())["p50"],
        cost["wall_ms"],
        cost["cpu_s"],
    )


def front(tried: Sequence[Tried]) -> list[bool]:
    """Which settings are on the Pareto front: no other is at least as good in cost and success, and better in one."""

    def beats(a: Tried, b: Tried) -> bool:
        as_good = a.cpu_s <= b.cpu_s and a.success.value >= b.success.value
        return as_good and (a.cpu_s < b.cpu_s or a.success.value > b.success.value)

    return [not any(beats(other, this) for other in tried) for this in tried]


def pareto(
    task: Task,
    checkpoint: Path,
    tolerance: float,
    plot: Path,
    pairs: int = PAIRS,
    choose: Callable[[SearchSettings], list[SearchSettings]] = sweep,
) -> Part:
    """Play the same dev pairs with every setting, and draw the outcome to ``plot``.

    ``choose``: maps the checkpoint's own setting to all that are tried, that one first.
    """
    planner = load_planner(checkpoint)
    check_card(task, planner.card, "image")
    default = planner.card.search
    with contextlib.closing(task.open()) as simulation, threads(1):
        drawn = make_pairs(task, simulation, "dev", 0, pairs, "image")
        tried = [attempt(task, simulation, planner, drawn, tolerance, s) for s in choose(default)]
    best = front(tried)
    shown = length(tolerance, task.unit)
    write_bytes_atomic(plot, draw(tried, best, default, f"success at the end, within {shown} [%]"))
    rows: list[dict[str, Any]] = [
        {
            **asdict(t.search),
            "default": t.search == default,
            "front": on_front,
            "success_end": {"value": t.success.value, **asdict(t.success)},
            "final_distance": t.final_distance,
            "wall_ms": t.wall_ms,
            "cpu_s": t.cpu_s,
        }
        for t, on_front in zip(tried, best, strict=True)
    ]
    return Part(
        {
            "task": task.name,
            "weights": planner.card.fingerprint,
            "split": "dev",
            "pairs": pairs,
            "tolerance": shown,
            "unit": task.unit,
            "threads": 1,
        },
        {"success_end": tried[0].success.value},
        {"rows": rows},
    )


def draw(tried: Sequence[Tried], best: Sequence[bool], default: SearchSettings, what: str) -> bytes:
    """Success with its 95 % interval over the CPU time of a plan, the front as a line; PNG."""
    figure = Figure(figsize=(7.2, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for horizon, tint in zip(sorted({t.search.horizon for t in tried}), (*OTHERS, "#c4477f"), strict=False):
        these = [t for t in tried if t.search.horizon == horizon]
        rates = np.array([[r.value, r.value - r.low, r.high - r.value] for r in (t.success for t in these)]).T * 100
        axes.errorbar(
            [1e3 * t.cpu_s for t in these],
            rates[0],
            yerr=np.abs(rates[1:]),
            color=tint,
            linestyle="none",
            elinewidth=0.6,
            marker="o",
            markersize=5,
            label=f"horizon {horizon}",
        )
    line = sorted((1e3 * t.cpu_s, 100 * t.success.value) for t, on_front in zip(tried, best, strict=True) if on_front)
    axes.plot(*zip(*line, strict=True), color=COLOURS["random"], linewidth=1, zorder=0, label="front")
    for t, on_front in zip(tried, best, strict=True):
        if not on_front and t.search != default:  # labels of all points would overlap
            continue
        name = f"{t.search.candidates} x {t.search.iterations}" + ("\n(default)" if t.search == default else "")
        at = (1e3 * t.cpu_s, 100 * t.success.value)
        axes.annotate(name, at, xytext=(0, 6), textcoords="offset points", ha="center", fontsize=7, color="#4b5563")
    axes.set(xlabel="CPU time of a plan, one thread [ms]", ylabel=what, xscale="log", ylim=(None, 103))
    axes.set_yticks([tick for tick in axes.get_yticks() if axes.get_ylim()[0] <= tick <= 100])
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(StrMethodFormatter("{x:g}"))
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(which="both", colors="#4b5563", labelsize=8)
    axes.legend(frameon=False, fontsize=8, loc="lower right")
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()


def table(result: Result) -> Table:
    """All settings, cheapest first."""
    part = result.parts["pareto"]
    settings = part["settings"]
    rows = [
        [
            search_size(row) + (" (default)" if row["default"] else ""),
            "on the front" if row["front"] else "",
            rate(row["success_end"]),
            f"{shown_in(settings['unit'])[0] * row['final_distance']:.2g}",
            milliseconds(row["wall_ms"]["p50"]),
            f"{1e3 * row['cpu_s']:.1f}",
        ]
        for row in sorted(part["rows"], key=lambda row: float(row["cpu_s"]))
    ]
    note = f"{settings['pairs']} dev pairs of {settings['task']}, one thread, 95 % intervals in brackets."
    within, final = f"within {settings['tolerance']} at the end", in_unit("final distance, median", settings["unit"])
    head = ["candidates x iterations x horizon", "", within, final, "ms p50", "CPU ms"]
    return Table(head, rows, note, ("pareto",))
