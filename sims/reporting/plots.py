"""Plots of an evaluation and of a diagnosis, as PNG bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure  # not pyplot: no window system, no global state
from matplotlib.ticker import MaxNLocator

from sims.evaluation.results import EvaluationResult, MethodResult
from sims.evaluation.robustness import STRENGTHS, Sweep
from sims.evaluation.statistics import Rate, percentiles
from sims.evaluation.units import in_unit, length, shown_in

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from sims.diagnosis.measure import Diagnosis

COLOURS = {"random": "#9aa3ad", "scripted": "#2f9e63", "replay": "#7cc4a0"}
OTHERS = ("#2563c9", "#d9622b", "#8b4bb8", "#b8952f")
RANKS = {"rank_observed": "observed", "rank_imagined": "imagined"}
FACTOR_COLOURS = (*OTHERS, "#c4477f")


def colour(result: EvaluationResult, name: str) -> str:
    """Return the colour of a method in every plot of a report."""
    others = [m.name for m in result.methods if m.name not in COLOURS]
    return COLOURS[name] if name in COLOURS else OTHERS[others.index(name) % len(OTHERS)]


def distances(result: EvaluationResult, tolerances: tuple[float, ...]) -> bytes:
    """Plot the distance to the goal over the steps: median and quartiles of each method, tolerances as lines."""
    figure, axes = _axes((7.2, 3.7))
    factor, _ = shown_in(result.unit)
    for method in result.methods:
        rows = factor * np.array([r.distances for r in method.rollouts])
        low, middle, high = np.percentile(rows, [25, 50, 75], axis=0)
        steps = np.arange(rows.shape[1])
        axes.fill_between(steps, low, high, color=colour(result, method.name), alpha=0.16, linewidth=0)
        axes.plot(steps, middle, color=colour(result, method.name), linewidth=2, label=method.name)
    for tolerance in tolerances:
        axes.axhline(factor * tolerance, color="#b6bcc4", linewidth=0.8, linestyle=(0, (4, 3)))
        name = f" {length(tolerance, result.unit)}"
        axes.text(result.steps, factor * tolerance, name, va="center", fontsize=7, color="#6b7480")
    axes.set(xlabel="step", ylabel=in_unit("distance to the goal", result.unit), xlim=(0, result.steps), ylim=(0, None))
    _legend(axes)
    return _png(figure)


def fulfilled(result: EvaluationResult) -> bytes:
    """Plot the share of episodes in which the text or label goal is fulfilled, over the steps."""
    figure, axes = _axes((7.2, 3.4))
    for method in result.methods:
        share = np.array([[row[0] for row in r.met] for r in method.rollouts]).mean(0)
        axes.plot(100 * share, color=colour(result, method.name), linewidth=2, label=method.name)
    axes.set(xlabel="step", ylabel="goal fulfilled [% of episodes]", xlim=(0, result.steps), ylim=(0, 103))
    _legend(axes)
    return _png(figure)


def latencies(result: EvaluationResult, method: MethodResult, control_ms: float) -> bytes:
    """Plot a histogram of the plan latencies with the median, the 95th percentile and the control interval."""
    values = method.latencies()
    figure, axes = _axes((7.2, 2.8))
    p50, p95, p99 = percentiles(values, (50, 95, 99))
    # A few outliers must not compress the rest into one bar; they are counted in the last one.
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


def sweeps(factors: Sequence[Sweep]) -> bytes:
    """Plot success over the strength of each factor with its intervals; the random floor is grey."""
    figure, axes = _axes((7.2, 3.7))
    for i, factor in enumerate(factors):
        shift = 0.008 * (i - (len(factors) - 1) / 2)  # so that intervals do not hide each other
        _rates(axes, factor.planner, FACTOR_COLOURS[i % len(FACTOR_COLOURS)], shift, factor.factor)
        _rates(axes, factor.random, COLOURS["random"], shift, "random" if i == 0 else None)
    axes.set(xlabel="strength (0: as trained)", ylabel="success at the end [%]", xlim=(-0.04, 1.04), ylim=(0, 103))
    _legend(axes)
    axes.set_xticks(STRENGTHS)
    return _png(figure)


def _rates(axes: Axes, rates: Sequence[Rate], tint: str, shift: float, label: str | None) -> None:
    values = np.array([[r.value, r.value - r.low, r.high - r.value] for r in rates]).T * 100
    axes.errorbar(
        np.array(STRENGTHS) + shift,
        values[0],
        yerr=np.abs(values[1:]),
        label=label,
        color=tint,
        linewidth=2,
        elinewidth=1,
        capsize=2,
        marker="o",
        markersize=4,
    )


def diagnosis(found: Diagnosis, names: Mapping[str, str]) -> bytes:
    """Plot rollout errors over the steps, the outcomes of candidates and plan, and how well the energy ranks them.

    ``names``: the fields of PairOutcome to show, and what to call them.
    """
    figure = Figure(figsize=(11, 3.4), layout="constrained")
    ahead, reached, ranked = figure.subplots(1, 3, width_ratios=(1, 1.1, 0.8))
    factor, _ = shown_in(found.unit)
    steps = range(1, len(found.rollout.imagined) + 1)
    for label, values, tint in (
        ("rollout", found.rollout.imagined, OTHERS[0]),
        ("observed state", found.rollout.observed, COLOURS["scripted"]),
        ("nothing moves", found.rollout.nothing_moves, COLOURS["random"]),
    ):
        ahead.plot(steps, factor * np.array(values), color=tint, linewidth=2, label=label)
    ahead.axvline(found.horizon, color="#b6bcc4", linewidth=0.8, linestyle=(0, (4, 3)))
    ahead.set(xlabel="steps ahead", ylabel=in_unit("probe error", found.unit), ylim=(0, None))
    ahead.legend(frameon=False, fontsize=8)
    factor, _ = shown_in(found.progress_unit)
    rows = [[factor * getattr(pair, name) for pair in found.outcomes] for name in names]
    reached.boxplot(rows, orientation="horizontal", showfliers=False, medianprops={"color": OTHERS[0], "linewidth": 2})
    reached.set_yticks(range(1, len(names) + 1), list(names.values()))
    reached.invert_yaxis()
    left = in_unit(f"left after {found.horizon} actions", found.progress_unit)
    reached.set(xlabel=left, xlim=(0, None))
    ranks = [[r for r in (getattr(pair, kind) for pair in found.outcomes) if r is not None] for kind in RANKS]
    ranked.boxplot(ranks, showfliers=False, medianprops={"color": OTHERS[0], "linewidth": 2})
    ranked.set_xticks(range(1, len(RANKS) + 1), list(RANKS.values()))
    ranked.set(ylabel="rank correlation of energy", ylim=(-1.05, 1.05))
    for axes in (ahead, reached, ranked):
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(colors="#4b5563", labelsize=9)
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
