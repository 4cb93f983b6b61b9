"""The metrics of training with their baselines: one table for reports and for published numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from hnet_vjepa.config import PhaseName

Value = TypeVar("Value")


@dataclass(frozen=True)
class Baseline:
    """The baseline of a metric: another metric of the phase (``key``), or a constant named by ``words``."""

    words: str
    key: str = ""


@dataclass(frozen=True)
class Fact:
    """One metric of a phase. In keys and texts ``{last}`` is the number of rollout steps that were measured."""

    phase: PhaseName
    key: str
    what: str
    form: str
    baselines: tuple[Baseline, ...]


@dataclass(frozen=True)
class Row:
    """A metric beside its baseline, as text."""

    phase: str
    what: str
    value: str
    baseline: str


MEAN = Baseline("0 is always the mean")
RETRIEVAL = (Baseline("chance", "retrieval_chance"), Baseline("best constant caption", "retrieval_constant"))
HALF = (Baseline("0.5 is chance"),)
FREQUENCY = (Baseline("frequency of the labels", "mean_frequency"),)


def _still(key: str) -> tuple[Baseline, ...]:
    return (Baseline("nothing moves", key),)


def _mean(key: str) -> tuple[Baseline, ...]:
    return (Baseline("always the mean", key),)


FACTS = (
    Fact(
        "pretrain",
        "linear_probe_cm",
        "linear probe of the position, median error",
        "{:.2f} cm",
        _mean("linear_probe_cm_mean_baseline"),
    ),
    Fact("pretrain", "linear_probe_r2", "linear probe of the state, R²", "{:.3f}", (MEAN,)),
    Fact(
        "pretrain", "effective_rank", "effective rank of the chunks", "{:.0f}", (Baseline("dimensions", "dimensions"),)
    ),
    Fact("language", "retrieval_accuracy", "nearest caption is true", "{:.3f}", RETRIEVAL),
    Fact("language", "left_right_accuracy", "true caption beats its left/right mirror image", "{:.3f}", HALF),
    Fact("probe", "mean_ap", "mean average precision of the labels", "{:.3f}", FREQUENCY),
    Fact("action", "open_loop/1", "open-loop error, 1 step", "{:.3f}", _still("nothing_moves/1")),
    Fact("action", "open_loop/5", "open-loop error, 5 steps", "{:.3f}", _still("nothing_moves/5")),
    Fact("action", "open_loop/{last}", "open-loop error, {last} steps", "{:.3f}", _still("nothing_moves/{last}")),
    Fact(
        "action",
        "open_loop_ratio",
        "open-loop error as a share of that of 'nothing moves', mean over the steps",
        "{:.3f}",
        (Baseline("1 is nothing moves"),),
    ),
    Fact(
        "action",
        "open_loop_cm/{last}",
        "linear probe of the position after {last} rollout steps, median error",
        "{:.2f} cm",
        _still("nothing_moves_cm/{last}"),
    ),
    Fact(
        "action",
        "state_linear_probe_cm",
        "linear probe of the position on the planning state, median error",
        "{:.2f} cm",
        _mean("state_linear_probe_cm_mean_baseline"),
    ),
    Fact("action", "state_linear_probe_r2", "linear probe of the state on the planning state, R²", "{:.3f}", (MEAN,)),
    Fact("action", "retrieval_accuracy", "nearest caption is true, after rehearsal", "{:.3f}", RETRIEVAL),
    Fact("action", "left_right_accuracy", "true caption beats its mirror image, after rehearsal", "{:.3f}", HALF),
    Fact("action", "mean_ap", "mean average precision, after rehearsal", "{:.3f}", FREQUENCY),
)


def compared(metrics: Mapping[str, Mapping[str, Value]], show: Callable[[str, Value], str] = str.format) -> list[Row]:
    """The metrics of each phase that FACTS names, each with its baselines, as far as they were measured.

    ``show`` formats a value with a fact's form.
    """
    rows: list[Row] = []
    shown = set()
    for fact in FACTS:
        measured = metrics.get(fact.phase, {})
        last = max((int(key.split("/")[1]) for key in measured if key.startswith("open_loop/")), default=0)
        key, what = fact.key.format(last=last), fact.what.format(last=last)
        if key not in measured or (fact.phase, key) in shown:  # the last step may be the first or the fifth
            continue
        shown.add((fact.phase, key))
        beaten = []
        for baseline in fact.baselines:
            other = baseline.key.format(last=last)
            if not other:
                beaten.append(baseline.words)
            elif other in measured:
                beaten.append(f"{show(fact.form, measured[other])} ({baseline.words})")
        rows.append(Row(fact.phase, what, show(fact.form, measured[key]), ", ".join(beaten)))
    return rows
