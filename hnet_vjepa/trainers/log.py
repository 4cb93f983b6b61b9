"""The training log: JSON lines in the run's folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from hnet_vjepa.utils.files import disk_errors, write_bytes_atomic


def logged_before(path: Path, first: int) -> list[dict[str, float]]:
    """What an interrupted run logged before the step ``first`` that it goes on from; half a last line is dropped."""
    lines = path.read_text().split("\n")[:-1] if path.exists() and first else []
    return [found for line in lines if (found := json.loads(line))["step"] < first]


class TrainingLog:
    """One JSON line per logged step. On resume, lines at or after the step to go on from are dropped."""

    def __init__(self, path: Path, first: int) -> None:
        self.path = path
        kept = logged_before(path, first)
        write_bytes_atomic(path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    def write(self, values: Mapping[str, float]) -> None:
        """Add a line. Raises UserError when the disk is full."""
        with disk_errors(self.path), self.path.open("a") as stream:
            stream.write(json.dumps(values) + "\n")
