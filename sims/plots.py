"""Pictures for the evaluation report, as PNG bytes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure  # not pyplot: no window system, no global state
from matplotlib.ticker import MaxNLocator

from sims.evaluate import EvaluationResult, MethodResult
from sims.statistics import percentiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLOURS = {"random": "#9aa3ad", "scripted": "#2f9e63"}
OTHERS = ("#2563c9", "#d9622b", "#8b4bb8", "#b8952f")


def colour(result: EvaluationResult, name: str) -> str:
    """Return the colour that a method has in every picture of a report."""
    others = [m.name for m in result.methods if m.name not in COLOURS]
    return COLOURS[name] if name in COLOURS else OTHERS[others.index(name) % len(OTHERS)]


def distances(result: EvaluationResult, tolerances: tuple[float, ...]) -> bytes:
    """Plot the distance to the goal over the steps: median and quartiles of each method, tolerances as lines."""
    figure, axes = _axes((7.2, 3.7))
    for method in result.methods:
        rows = 100 * np.array([r.distances for r in method.rollouts])
        low, middle, high = np.percentile(rows, [25, 50, 75], axis=0)
        steps = np.arange(rows.shape[1])
        axes.fill_between(steps, low, high, color=colour(result, method.name), alpha=0.16, linewidth=0)
        axes.plot(steps, middle, color=colour(result, method.name), linewidth=2, label=method.name)
    for tolerance in tolerances:
        axes.axhline(100 * tolerance, color="#b6bcc4", linewidth=0.8, linestyle=(0, (4, 3)))
        axes.text(result.steps, 100 * tolerance, f" {100 * tolerance:g} cm", va="center", fontsize=7, color="#6b7480")
    axes.set(xlabel="step", ylabel="distance to the goal [cm]", xlim=(0, result.steps), ylim=(0, None))
    _legend(axes)
    return _png(figure)


def fulfilled(result: EvaluationResult) -> bytes:
    """Plot the share of episodes in which what was told is true, over the steps."""
    figure, axes = _axes((7.2, 3.4))
    for method in result.methods:
        share = np.array([[row[0] for row in r.met] for r in method.rollouts]).mean(0)
        axes.plot(100 * share, color=colour(result, method.name), linewidth=2, label=method.name)
    axes.set(xlabel="step", ylabel="episodes as told [%]", xlim=(0, result.steps), ylim=(0, 103))
    _legend(axes)
    return _png(figure)


def latencies(result: EvaluationResult, method: MethodResult, control_ms: float) -> bytes:
    """Plot a histogram of the plan latencies with the median, the 95th percentile and the control interval."""
    values = method.latencies()
    figure, axes = _axes((7.2, 2.8))
    p50, p95, p99 = percentiles(values, (50, 95, 99))
    # A few stragglers must not squeeze the rest into one bar; they are counted in the last one.
    limit = max(1.15 * p99, 1.02 * p95)
    axes.hist(np.minimum(values, limit), bins=40, color=colour(result, method.name), alpha=0.85)
    axes.set(xlabel="plan latency seen by the client [ms]", ylabel="plans")
    axes.margins(x=0.02)
    top = axes.get_ylim()[1]
    axes.set_ylim(0, 1.45 * top)  # room for the names of the lines, one above the other
    marks = [(p50, "median"), (p95, "95 %")] + ([(control_ms, "control interval")] if control_ms < limit else [])
    for row, (value, name) in enumerate(marks):
        height = (1.38 - 0.13 * row) * top
        axes.vlines(value, 0, height, color="#262d38", linewidth=1, linestyle=(0, (4, 3)))
        axes.annotate(
            f"{name} {value:.1f} ms",
            (value, height),
            xytext=(4 if value < 0.7 * limit else -4, 0),
            textcoords="offset points",
            ha="left" if value < 0.7 * limit else "right",
            va="center",
            fontsize=8,
            color="#262d38",
        )
    return _png(figure)


def _axes(size: tuple[float, float]) -> tuple[Figure, Axes]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("#9aa3ad")
    axes.tick_params(colors="#4b5563", labelsize=9)
    axes.xaxis.label.set_color("#4b5563")
    axes.yaxis.label.set_color("#4b5563")
    return figure, axes


def _legend(axes: Axes) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend(
        frameon=False, ncols=4, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, labelcolor="#262d38"
    )


def _png(figure: Figure) -> bytes:
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=150)
    return stream.getvalue()
