"""Parquet tables by pyarrow (the extra ``data``), which is imported when one is read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.data.importers.optional import need
from hnet_vjepa.errors import UserError


def read_parquet(file: Path) -> Any:
    """A Parquet file as a pyarrow table. Raises UserError when it is damaged or pyarrow is not installed."""
    parquet = need("pyarrow.parquet", "Parquet tables")
    try:
        return parquet.read_table(file)
    except Exception as error:  # pyarrow's errors share no base class but Exception
        raise UserError(f"{file} is not a readable Parquet table ({' '.join(str(error).split())[:120]})") from error


def column_array(table: Any, name: str, where: str) -> NDArray[Any]:
    """A column of numbers or of equally long lists of numbers: T x D. Raises UserError when it is something else."""
    if name not in table.column_names:
        raise UserError(f"{where}: no column {name}; it has {', '.join(table.column_names)}")
    rows = table[name].to_pylist()
    try:
        array = np.asarray(rows, np.float64)
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: column {name} does not hold rows of equally many numbers") from error
    return array.reshape(len(rows), -1)


@dataclass(frozen=True)
class EncodedColumn:
    """The pictures of one episode in a column of ``{bytes, path}``: the bytes, or a file beside the data set."""

    file: Path
    episode: int
    column: str

    def __call__(self, rows: Sequence[int] | NDArray[np.int64]) -> list[bytes]:
        """The encoded pictures of some rows. Raises UserError when one has neither bytes nor a file."""
        table = _pictures(str(self.file), self.episode, self.column)
        return [self._bytes(table[int(row)].as_py(), int(row)) for row in rows]

    def _bytes(self, cell: Any, row: int) -> bytes:
        data = cell.get("bytes") if isinstance(cell, dict) else cell
        if data:
            return bytes(data)
        named = cell.get("path") if isinstance(cell, dict) else None
        roots = [self.file.parent, *self.file.parents[1:4]]
        found = next((root / named for root in roots if named and (root / named).is_file()), None)
        if found is None:
            raise UserError(f"{self.file}: row {row} of episode {self.episode} has no picture in {self.column}")
        return found.read_bytes()


@lru_cache(maxsize=2)
def _pictures(file: str, episode: int, column: str) -> Any:
    table = need("pyarrow.parquet", "Parquet tables").read_table(file, columns=[column, "episode_index"])
    numbers = table["episode_index"].to_numpy().reshape(-1)
    return table[column].take(np.flatnonzero(numbers == episode))
