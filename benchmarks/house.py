"""Figures about the repository itself: do the shipped models keep their rows, how long do the tests take, how large is
what is shipped. Writes ``benchmarks/results/house.json``.

``python -m benchmarks.house`` measures what takes seconds and keeps the other figures of the file; ``--timing`` also
runs ``make fast`` and ``make test`` (the machine must be idle), ``--wheel`` builds the wheel, and ``--before FILE``
compares the plans of the shipped models bit by bit with hashes that ``python -m benchmarks.golden hash`` printed on the
same machine before a change. Judgements of the shipped models are those of ``sims.json``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.golden import differences, plan_hash, read_record
from benchmarks.record import RESULTS, ROOT, read_result, write_result
from hnet_vjepa import zoo
from hnet_vjepa.checkpoint import read_manifest
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.planner import load_planner
from sims.evaluation.statistics import fisher_less

ALPHA = 0.01  # a success below the earlier one is a loss when it is less probable than this


@dataclass(frozen=True)
class Judged:
    """A shipped model's success at the end of an episode, in its earlier and in its present row."""

    model: str
    episodes_before: int
    successes_before: int
    episodes: int
    successes: int
    below: bool


def judged(name: str, row: dict[str, Any], earlier: dict[str, Any]) -> Judged:
    """Compare two rows' metrics by Fisher's exact test, one-sided."""
    (now, of_now), (before, of_before) = _successes(row), _successes(earlier)
    below = fisher_less(now, of_now, before, of_before) < ALPHA
    return Judged(name, of_before, before, of_now, now, below)


def _successes(metrics: dict[str, Any]) -> tuple[int, int]:
    episodes = int(metrics["episodes"])
    return round(metrics["success_end"] * episodes), episodes


def judgements(rows: dict[str, Any], earlier: dict[str, Any]) -> list[Judged]:
    """Every shipped model whose row in ``sims.json`` is of the shipped weights."""
    return [
        judged(name, rows["metrics"][name], earlier[name])
        for name in zoo.names()
        if name in rows["rows"] and rows["rows"][name]["weights"] == read_manifest(zoo.path(name)).fingerprint
    ]


def changed_plans(before: str) -> int:
    """How many shipped models plan otherwise than the printed hashes (``HASH  MODEL`` per line) say."""
    known: dict[str, str] = {}
    for line in before.splitlines():
        digest, name = line.split()
        known[name] = digest
    hashes = {name: plan_hash(read_record(name), load_planner(zoo.path(name), threads=1)) for name in known}
    return sum(hashes[name] != known[name] for name in known)


def golden() -> int:
    """How many shipped models plan as recorded."""
    return sum(not differences(read_record(name), load_planner(zoo.path(name), threads=1)) for name in zoo.names())


def seconds(target: str) -> float:
    """Wall time of a make target. Raises UserError when it fails."""
    begun = time.monotonic()
    done = subprocess.run(["make", target], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"make {target} fails: {done.stdout[-2000:]}")
    return round(time.monotonic() - begun, 1)


def wheel_mb() -> float:
    """Size of the wheel, built from the files under version control."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder) / "source", Path(folder) / "out"
        subprocess.run(["git", "clone", "--quiet", "--depth", "1", f"file://{ROOT}", str(source)], check=True)
        words = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(out), str(source)]
        subprocess.run(words, check=True)
        [wheel] = out.glob("*.whl")
        return round(wheel.stat().st_size / 1e6, 2)


def lines(path: str) -> int:
    """Lines of a file of the checkout."""
    return len((ROOT / path).read_text().splitlines())


def main() -> None:
    """Measure what is asked for and write the file."""
    parser = argparse.ArgumentParser(description="Figures about the repository: benchmarks/results/house.json.")
    parser.add_argument("--timing", action="store_true", help="run make fast and make test; needs an idle machine")
    parser.add_argument("--wheel", action="store_true", help="build the wheel")
    parser.add_argument("--before", type=Path, help="hashes of plans before a change, of this machine")
    options = parser.parse_args()
    old: dict[str, Any] = read_result("house") if (RESULTS / "house.json").is_file() else {"metrics": {}}
    metrics: dict[str, Any] = dict(old["metrics"])
    try:
        rows = read_result("sims")
        earlier = old.get("earlier_rows") or {
            name: {key: m[key] for key in ("success_end", "episodes")} for name, m in rows["metrics"].items()
        }
        found = judgements(rows, earlier)
        metrics |= {
            "zoo_models_judged": len(found),
            "zoo_models_below_row": sum(one.below for one in found),
            "golden_plans": golden(),
            "readme_lines": lines("README.md"),
            "planner_py_lines": lines("hnet_vjepa/planning/planner.py"),
        }
        if (RESULTS / "mutations.json").is_file():
            metrics["mutations_seen_share"] = read_result("mutations")["metrics"]["mutations_seen_share"]
        if options.before is not None:
            metrics["plans_changed_by_move"] = changed_plans(options.before.read_text())
        if options.wheel:
            metrics["wheel_mb"] = wheel_mb()
        if options.timing:
            metrics |= {"make_fast_s": seconds("fast"), "make_test_s": seconds("test")}
    except UserError as error:
        print(f"house: {error}", file=sys.stderr)
        sys.exit(2)
    settings = {
        "alpha": ALPHA,
        "test": "Fisher's exact test, one-sided, of successes at the end",
    }
    path = write_result(
        "house",
        "python -m benchmarks.house --timing --wheel --before HASHES",
        settings,
        metrics,
        earlier_rows=earlier,
        models=[asdict(one) for one in found],
    )
    print(path)


if __name__ == "__main__":
    main()
