"""Results of benchmarks: one JSON per claim, with the machine, the date, the commit and the settings inside."""

from __future__ import annotations

import datetime
import json
import subprocess
from pathlib import Path
from typing import Any

from hnet_vjepa.errors import UserError
from hnet_vjepa.utils.files import write_json_atomic
from hnet_vjepa.utils.runtime import machine, versions

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"


def about(command: str) -> dict[str, Any]:
    """Date, machine and commit of a result, and the ``command`` that reproduces it."""
    return {"command": command, "date": datetime.date.today().isoformat(), "commit": commit(), "machine": machine()}


def write_result(name: str, command: str, settings: dict[str, Any], metrics: dict[str, Any], **more: Any) -> Path:
    """Write ``benchmarks/results/<name>.json`` and return its path. ``command`` reproduces it."""
    path = RESULTS / f"{name}.json"
    content = {**about(command), "versions": versions(), "settings": settings, "metrics": metrics, **more}
    write_json_atomic(path, content)
    return path


def merge_result(
    name: str, part: str, command: str, settings: dict[str, Any], metrics: dict[str, Any], **more: Any
) -> Path:
    """Write one part of ``benchmarks/results/<name>.json`` and leave its other parts; return its path.

    The part's metrics are merged into "metrics"; its settings and details are kept under "parts", with the machine,
    date and commit of this part.
    """
    path = RESULTS / f"{name}.json"
    content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"metrics": {}, "parts": {}}
    content["metrics"].update(metrics)
    content["parts"][part] = {**about(command), "versions": versions(), "settings": settings, **more}
    write_json_atomic(path, content)
    return path


def read_result(name: str) -> dict[str, Any]:
    """Read a committed result. Raises UserError when there is none."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        raise UserError(f"no result {path}; run the benchmark that writes it")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def commit() -> str:
    """The commit of this checkout, marked when files were changed since; 'unknown' outside a checkout."""
    try:
        run = lambda *words: subprocess.run(  # noqa: E731
            ["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True
        ).stdout.strip()
        changed = run(
            "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benchmarks/results", ":!README.md", ":!docs"
        )
        return run("rev-parse", "--short=12", "HEAD") + ("+changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
