"""The tables about distributed training by name."""

from __future__ import annotations

from benchmarks.distributed import kills, memory, parity
from benchmarks.table import MakeTable

TABLES: dict[str, MakeTable] = {
    "distributed-parity": parity.table,
    "distributed-kills": kills.table,
    "distributed-memory": memory.table,
}
