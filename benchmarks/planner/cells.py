"""Cells that several of the planner's tables share."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sims.evaluation.units import shown_in


def milliseconds(value: float) -> str:
    """A time in milliseconds, with one decimal below 100."""
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def search_size(search: Mapping[str, Any]) -> str:
    """Candidates x iterations x horizon."""
    return f"{search['candidates']} x {search['iterations']} x {search['horizon']}"


def difference(pair: Mapping[str, float], against: str = "") -> str:
    """Success of the second method minus that of the first, in points, with the p-value of McNemar's test."""
    named = f" (against '{against}')" if against else ""
    return f"{0.0 - 100 * pair['difference']:+.0f} points, p = {pair['p_value']:.2g}{named}"


def further(interval: Mapping[str, float], unit: str) -> str:
    """A median difference of distances with its interval, in the display unit."""
    factor, name = shown_in(unit)
    low, middle, high = (factor * interval[key] for key in ("low", "median", "high"))
    return f"{middle:+.3g} {name} [{low:+.3g}, {high:+.3g}]"
