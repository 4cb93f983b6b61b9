"""How numbers are written for people: distances in their unit, and rows of text as aligned columns."""

from __future__ import annotations

from collections.abc import Sequence


def shown_in(unit: str) -> tuple[float, str]:
    """Factor and unit for displaying a distance: centimetres for metres; without a unit, multiples of the tolerance."""
    return (100.0, "cm") if unit == "m" else (1.0, unit or "x allowed")


def in_unit(what: str, unit: str) -> str:
    """A heading with its display unit: 'distance [cm]'."""
    return f"{what} [{shown_in(unit)[1]}]"


def length(value: float, unit: str) -> str:
    """A distance as text, for instance '5 cm' for 0.05 m."""
    factor, name = shown_in(unit)
    return f"{factor * value:.3g} {name}"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Lay out rows of equal length as lines of aligned columns."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
