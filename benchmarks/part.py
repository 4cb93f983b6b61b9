"""One part of a benchmark: its settings, its metrics, and the data behind them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Part:
    """The arguments of ``benchmarks.record.merge_result``; all of it plain JSON values."""

    settings: dict[str, Any]
    metrics: dict[str, float]
    behind: dict[str, Any] = field(default_factory=dict)
