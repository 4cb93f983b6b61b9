"""Tables of README and docs, rendered from ``benchmarks/results/*.json`` so that they cannot drift from them.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``. ``python -m benchmarks.render`` fills them in;
``--check`` only says whether they are up to date, which a test asks.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, ROOT, read_result
from hnet_vjepa.errors import one_of
from hnet_vjepa.utils.files import write_bytes_atomic

MARK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def _markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


def _about(result: dict[str, Any]) -> str:
    machine = result["machine"]
    where = f"{machine['cpu']}, {machine['cores']} cores" + (f", {machine['gpu']}" if "gpu" in machine else "")
    return f"\nWritten by `{result['command']}` on {result['date']} ({where}; commit {result['commit']}).\n"


def demo_success() -> str:
    """Success of planner, random floor and scripted ceiling, with intervals and latency."""
    result = read_result("demo")
    rows = []
    for name, method in result["summary"].items():
        cells = [name]
        for criterion in method["success"].values():
            for when in ("ever", "end"):
                rate = criterion[when]
                value = 100 * rate["successes"] / rate["trials"]
                cells.append(f"{value:.0f} % ({100 * rate['low']:.0f}–{100 * rate['high']:.0f})")
        plan = method["plan_ms"]
        cells.append(" / ".join(f"{plan[q]:.0f}" for q in ("p50", "p95", "p99")) + " ms" if plan else "–")
        rows.append(cells)
    criteria = [f"{c}, {w}" for c in next(iter(result["summary"].values()))["success"] for w in ("ever", "at the end")]
    m = result["metrics"]
    note = (
        f"\n{m['episodes']} rollouts, 95 % Wilson intervals in brackets; the whole loop took {m['wall_s']:.0f} s, "
        f"of which training {m['train_s']:.0f} s.\n"
    )
    return _markdown(["", *criteria, "plan p50 / p95 / p99"], rows) + note + _about(result)


def _phase_rows(phases: dict[str, Any]) -> list[list[str]]:
    """One row per phase metric, beside its baseline."""
    rows = []
    get = lambda phase, key: phases.get(phase, {}).get("metrics", {}).get(key)  # noqa: E731

    def row(phase: str, what: str, key: str, baseline: str, name: str, form: str) -> None:
        value, floor = get(phase, key), get(phase, baseline)
        if value is not None:
            floor_text = form.format(floor) + f" ({name})" if floor is not None else name
            rows.append([phase, what, form.format(value), floor_text, f"{phases[phase]['seconds']:.0f} s"])

    row(
        "pretrain",
        "linear read-out of the position, median error",
        "readout_cm",
        "readout_cm_mean_baseline",
        "always the mean",
        "{:.2f} cm",
    )
    row("pretrain", "linear read-out of the state, R²", "readout_r2", "", "0 is always the mean", "{:.3f}")
    row("pretrain", "effective rank of the chunks", "effective_rank", "dimensions", "dimensions", "{:.0f}")
    row("language", "nearest caption is true", "retrieval_accuracy", "retrieval_chance", "chance", "{:.3f}")
    row(
        "language",
        "true caption beats its left/right mirror image",
        "left_right_accuracy",
        "",
        "0.5 is chance",
        "{:.3f}",
    )
    row("probe", "mean average precision of the labels", "mean_ap", "mean_frequency", "frequency", "{:.3f}")
    row("action", "open-loop error, 1 step", "open_loop/1", "nothing_moves/1", "nothing moves", "{:.3f}")
    row("action", "open-loop error, 5 steps", "open_loop/5", "nothing_moves/5", "nothing moves", "{:.3f}")
    row("action", "open-loop error, last step", "open_loop/last", "nothing_moves/last", "nothing moves", "{:.3f}")
    row("action", "open-loop error, 10 steps", "open_loop/10", "nothing_moves/10", "nothing moves", "{:.3f}")
    row(
        "action",
        "read-out of the position after 10 imagined steps",
        "open_loop_cm/10",
        "nothing_moves_cm/10",
        "nothing moves",
        "{:.2f} cm",
    )
    row(
        "action",
        "nearest caption is true, after rehearsal",
        "retrieval_accuracy",
        "retrieval_chance",
        "chance",
        "{:.3f}",
    )
    row(
        "action",
        "true caption beats its mirror image, after rehearsal",
        "left_right_accuracy",
        "",
        "0.5 is chance",
        "{:.3f}",
    )
    row("action", "mean average precision, after rehearsal", "mean_ap", "mean_frequency", "frequency", "{:.3f}")
    return rows


HEAD = ["phase", "held-out metric", "value", "baseline", "training"]


def demo_phases() -> str:
    """What each phase of the demo learnt."""
    result = read_result("demo")
    return _markdown(HEAD, _phase_rows(result["phases"])) + _about(result)


def bridge_phases() -> str:
    """Real robot data, five folds: mean and interval beside the baseline."""
    result = read_result("bridge")
    phases = result["phases"]

    def cell(phase: str, key: str) -> str:
        value = phases[phase][key]
        spread = f" ({value['low']:.3f} to {value['high']:.3f})" if "low" in value else ""
        return f"{value['mean']:.3f}{spread}"

    wanted = [
        ("pretrain", "linear read-out of the recorded state, R²", "readout_r2", "0 is always the mean"),
        ("language", "nearest caption is true", "retrieval_accuracy", "retrieval_chance"),
        ("probe", "mean average precision of the task labels", "mean_ap", "mean_frequency"),
        ("action", "open-loop error, 1 step", "open_loop/1", "nothing_moves/1"),
        ("action", "open-loop error, 5 steps", "open_loop/5", "nothing_moves/5"),
        ("action", "open-loop error, 9 steps", "open_loop/9", "nothing_moves/9"),
        ("action", "open-loop error as a share of that of 'nothing moves'", "open_loop_ratio", "1"),
        ("action", "nearest caption is true, after rehearsal", "retrieval_accuracy", "retrieval_chance"),
    ]
    rows = [
        [phase, what, cell(phase, key), cell(phase, base) if base in phases[phase] else base]
        for phase, what, key, base in wanted
        if key in phases[phase]
    ]
    settings = result["settings"]
    note = (
        f"\nMean of {settings['folds']} folds of {settings['episodes']} episodes ({settings['frames']} frames), every "
        "episode held out once; in brackets the 95 % interval over folds (Student's t; the folds share training "
        f"episodes, so it is a rough one). {result['metrics']['train_s_per_fold']:.0f} s of training per fold.\n"
    )
    return _markdown(["phase", "held-out metric", "value", "baseline"], rows) + note + _about(result)


TABLES: dict[str, Callable[[], str]] = {
    "demo-success": demo_success,
    "demo-phases": demo_phases,
    "bridge-phases": bridge_phases,
}


def rendered(path: Path) -> str:
    """The text of a file with its tables filled in."""
    return MARK.sub(lambda m: f"{m[1]}\n{_table(m[2])}\n{m[3]}", path.read_text())


def _table(name: str) -> str:
    if name not in TABLES:
        raise one_of("table", name, TABLES)
    return TABLES[name]()


def pages() -> list[Path]:
    """README and docs that hold tables."""
    return [
        p
        for p in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
        if p.is_file() and MARK.search(p.read_text())
    ]


def main() -> None:
    """Fill in the tables, or check them."""
    if not RESULTS.is_dir():
        return
    stale = [page for page in pages() if rendered(page) != page.read_text()]
    if "--check" in sys.argv:
        if stale:
            sys.exit(
                f"stale tables in {', '.join(str(p.relative_to(ROOT)) for p in stale)}; run python -m benchmarks.render"
            )
        return
    for page in stale:
        write_bytes_atomic(page, rendered(page).encode())


if __name__ == "__main__":
    main()
