"""One part of a benchmark: what it was made with, its headline numbers, and what stands behind them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Part:
    """What ``benchmarks.record.merge_result`` takes; all of it plain JSON values."""

    settings: dict[str, Any]
    metrics: dict[str, float]
    behind: dict[str, Any] = field(default_factory=dict)
