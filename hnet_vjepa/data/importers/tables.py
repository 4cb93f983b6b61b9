"""Tables of numbers in CSV files, checked cell by cell: an error names the file, line and column."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.errors import UserError

FLOAT32_MAX = float(np.finfo(np.float32).max)


@dataclass(frozen=True)
class Table:
    """A CSV file of numbers with a header."""

    file: Path
    names: tuple[str, ...]
    rows: NDArray[np.float32]  # rows x names
    lines: tuple[int, ...]  # line number in the file of each row


def read_table(file: Path) -> Table:
    """Read a CSV file of numbers. Raises UserError naming the line and column of what is not a finite number."""
    reader = csv.reader(read_text(file).splitlines())
    try:
        lines = [(reader.line_num, cells) for cells in reader if any(cell.strip() for cell in cells)]
    except csv.Error as error:
        raise UserError(f"{file}: line {reader.line_num} is not CSV ({error})") from error
    names = tuple(cell.strip() for cell in lines[0][1]) if lines else ()
    if not names or not all(names) or len(set(names)) != len(names) or any(_number(name) is not None for name in names):
        raise UserError(f"{file}: the first line must name the columns, each once; got '{','.join(names)}'")
    if len(names) == 1 and re.search(r"[;\t]", names[0]):
        raise UserError(f"{file}: the columns must be separated by commas; the header is '{names[0]}'")
    rows = np.zeros((len(lines) - 1, len(names)), np.float32)
    for row, (line, cells) in enumerate(lines[1:]):
        if len(cells) != len(names):
            raise UserError(f"{file}: line {line} has {len(cells)} numbers; the header has {len(names)} columns")
        for column, cell in enumerate(cells):
            value = _number(cell)
            if value is None or not abs(value) <= FLOAT32_MAX:
                raise UserError(f"{file}: line {line}, column {names[column]}: '{cell.strip()}' is not a finite number")
            rows[row, column] = value
    return Table(file, names, rows, tuple(line for line, _ in lines[1:]))


def read_text(file: Path) -> str:
    """Read a UTF-8 text file, with or without byte-order mark. Raises UserError when it is unreadable."""
    try:
        return file.read_text("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file} is not UTF-8 text") from error
    except OSError as error:
        raise UserError(f"cannot read {file}: {error.strerror}") from error


def check_same_columns(tables: Sequence[tuple[Path, Table | None]], kind: str, same: bool = True) -> None:
    """Raise UserError unless all episode folders have the table ``kind``.csv, or none has it.

    ``same``: the columns must be the same, too.
    """
    present = [table for _, table in tables if table]
    for folder, table in tables:
        if present and table is None:
            raise UserError(
                f"{folder} has no {kind}.csv, but {present[0].file.parent} has one; give all episodes one or none"
            )
        if same and table and table.names != present[0].names:
            raise UserError(
                f"{table.file}: the columns are {', '.join(table.names)}; "
                f"{present[0].file} has {', '.join(present[0].names)}"
            )


def stack_columns(tables: Sequence[Table], names: Sequence[str]) -> NDArray[np.float32]:
    """The named columns of all tables, concatenated by rows: N x names."""
    return np.concatenate([table.rows[:, [table.names.index(name) for name in names]] for table in tables])


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
