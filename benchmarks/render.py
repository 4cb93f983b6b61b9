"""Tables of README and docs, rendered from ``benchmarks/results/*.json`` so that they cannot drift from them.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``. ``python -m benchmarks.render`` fills them in;
``--check`` only reports whether they are current, which a test does too.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import config_tables
from benchmarks.chunking import tables as chunking
from benchmarks.distributed import tables as distributed
from benchmarks.planner import tables as planner
from benchmarks.record import RESULTS, ROOT, read_result
from benchmarks.table import MakeTable, MissingPartError, Parts, Result, markdown, origin, rate
from hnet_vjepa.errors import one_of
from hnet_vjepa.utils.files import write_bytes_atomic
from sims.evaluation.evaluate import GOAL_LABELS
from sims.reporting.baselines import compared

HEADLINE = (  # tasks of the README's table: from reaching to turning a block, good rows and bad
    "fetch-reach",
    "reacher",
    "point-maze",
    "meta-world-drawer-open",
    "fetch-push",
    "fetch-pick-and-place",
    "robosuite-lift",
    "push-t",
)
MARK = re.compile(r"(<!-- table: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)


def demo_success() -> str:
    """Success of planner, random floor and scripted ceiling, with intervals and latency."""
    result = read_result("demo")
    rows = []
    for name, method in result["summary"].items():
        cells = [name, *(rate(found[when]) for found in method["success"].values() for when in ("ever", "end"))]
        plan = method["plan_ms"]
        cells.append(" / ".join(f"{plan[q]:.0f}" for q in ("p50", "p95", "p99")) + " ms" if plan else "–")
        rows.append(cells)
    criteria = [f"{c}, {w}" for c in next(iter(result["summary"].values()))["success"] for w in ("ever", "at the end")]
    m = result["metrics"]
    note = (
        f"\n{m['episodes']} rollouts, 95 % Wilson intervals in brackets; the whole loop took {m['wall_s']:.0f} s, "
        f"of which training {m['train_s']:.0f} s.\n"
    )
    return markdown(["", *criteria, "plan p50 / p95 / p99"], rows) + note + origin(result)


HEAD = ["phase", "held-out metric", "value", "baseline"]


def demo_phases() -> str:
    """Held-out metrics of each phase of the demo."""
    result = read_result("demo")
    phases = result["phases"]
    rows = [
        [row.phase, row.what, row.value, row.baseline, f"{phases[row.phase]['seconds']:.0f} s"]
        for row in compared({name: phase["metrics"] for name, phase in phases.items()})
    ]
    return markdown([*HEAD, "training"], rows) + origin(result)


def bridge_phases() -> str:
    """Real robot data, five folds: mean and interval beside the baseline."""
    result = read_result("bridge")

    def show(form: str, value: dict[str, float]) -> str:
        spread = f" ({form.format(value['low'])} to {form.format(value['high'])})" if "low" in value else ""
        return form.format(value["mean"]) + spread

    rows = [[row.phase, row.what, row.value, row.baseline] for row in compared(result["phases"], show)]
    settings = result["settings"]
    note = (
        f"\nMean of {settings['folds']} folds of {settings['episodes']} episodes ({settings['frames']} frames), every "
        "episode held out once; in brackets the 95 % interval over folds (Student's t; the folds share training "
        f"episodes, so it is a rough one). {result['metrics']['train_s_per_fold']:.0f} s of training per fold.\n"
    )
    return markdown(HEAD, rows) + note + origin(result)


def _origins(rows: dict[str, Any]) -> str:
    """Where, when and from which commits the rows of a result come."""
    made = sorted({(row["date"], row["machine"]["cpu"], row["machine"]["cores"]) for row in rows.values()})
    where = "; ".join(f"{date}, {cpu}, {cores} cores" for date, cpu, cores in made)
    commits = ", ".join(sorted({row["commit"] for row in rows.values()}))
    commands = sorted({row["command"].replace(f" {name}", " TASK") for name, row in rows.items()})
    by = " or ".join(f"`{command}`" for command in commands)
    return f"\nEach row is written by {by} ({where}; commits {commits}).\n"


def _starred(name: str, metrics: dict[str, Any]) -> str:
    """A task's name, with a star where its model was trained with state supervision."""
    return f"`{name}` \\*" if metrics[name].get("state_supervision") else f"`{name}`"


def _star_note(metrics: dict[str, Any]) -> str:
    """What the star means, where there is one."""
    if not any(of_task.get("state_supervision") for of_task in metrics.values()):
        return ""
    return "\n\\* Trained with state supervision: the recorded state is a target in training; planning sees pictures.\n"


def sims_success() -> str:
    """The suite: every task's criteria with floor, planner and ceiling."""
    result = read_result("sims")
    lines = []
    for name, row in result["rows"].items():
        summary = row["summary"]["image"]
        for i, criterion in enumerate(summary["planner"]["success"]):
            rates = {method: summary[method]["success"][criterion] for method in summary}
            first = [_starred(name, result["metrics"]), f"{row['training_s'] / 60:.0f} min"]
            lines.append(
                [
                    first[0] if i == 0 else "",
                    criterion,
                    rate(rates["random"]["end"]),
                    *(rate(rates["planner"][when]) for when in ("end", "held", "ever")),
                    rate(rates["scripted"]["end"]),
                    first[1] if i == 0 else "",
                ]
            )
    head = ["task", "within", "random, end", "planner, end", "held", "ever", "scripted, end", "training"]
    count = {metrics["episodes"] for metrics in result["metrics"].values()}
    note = (
        f"\n{' or '.join(map(str, sorted(count)))} test pairs per task, 95 % Wilson intervals in brackets. Training "
        "times include what else the two cores had to do.\n"
    )
    return markdown(head, lines) + note + _star_note(result["metrics"]) + _origins(result["rows"])


def sims_headline() -> str:
    """A few tasks of the suite by the loosest criterion, between floor and ceiling."""
    result = read_result("sims")
    rows = {name: result["rows"][name] for name in HEADLINE if name in result["rows"]}
    lines = []
    for name, row in rows.items():
        summary = row["summary"]["image"]
        criterion = next(iter(summary["planner"]["success"]))
        rates = (rate(summary[method]["success"][criterion]["end"]) for method in ("random", "planner", "scripted"))
        lines.append([_starred(name, result["metrics"]), criterion, *rates, f"{row['training_s'] / 60:.0f} min"])
    head = ["task", "within", "random actions", "model", "scripted controller", "training"]
    shown = {name: result["metrics"][name] for name in rows}
    return markdown(head, lines) + _star_note(shown) + _origins(rows)


def sims_distances() -> str:
    """The suite by the literature's protocol: goals d environment steps away in an episode, a budget of 2d steps."""
    result = read_result("sims")
    lines = []
    for name, row in result["rows"].items():
        distances = {key: summary for key, summary in row["summary"].items() if key[0] == "d"}
        for i, (key, summary) in enumerate(distances.items()):
            criterion = next(iter(summary["planner"]["success"]))
            rates = {method: summary[method]["success"][criterion] for method in summary}
            cells = [rate(rates[m][when]) for m in ("random", "planner", "scripted") for when in ("ever", "end")]
            lines.append([_starred(name, result["metrics"]) if i == 0 else "", key[1:], criterion, *cells])
    head = [
        "task",
        "steps",
        "within",
        *(f"{m}, {w}" for m in ("random", "planner", "scripted") for w in ("ever", "end")),
    ]
    return markdown(head, lines) + _star_note(result["metrics"]) + _origins(result["rows"])


def sims_text_labels() -> str:
    """Text and label goals on the tasks whose models take them."""
    result = read_result("sims")
    lines = [
        [f"`{name}`", kind, method, *(rate(rates["success"][GOAL_LABELS][when]) for when in ("ever", "end"))]
        for name, row in result["rows"].items()
        for kind in ("text", "label")
        if kind in row["summary"]
        for method, rates in row["summary"][kind].items()
    ]
    return markdown(["task", "goals", "", "goal true, ever", "goal true, at the end"], lines) + _origins(result["rows"])


def sims_minimal_pairs() -> str:
    """Minimal pairs: sentences that differ in one word, from the same start; how often both goals are reached."""
    rows = {name: row for name, row in read_result("sims")["rows"].items() if row.get("minimal_pairs")}
    lines = [
        [
            f"`{name}`",
            axis.replace("_", " / "),
            rate(found["both"]),
            rate(found["either"]),
            str(found["both"]["trials"]),
        ]
        for name, row in rows.items()
        for axis, found in row["minimal_pairs"].items()
    ]
    return markdown(["task", "word", "both followed", "of the single sentences", "pairs"], lines) + _origins(rows)


def sims_diagnosis() -> str:
    """The verdicts of ``hnet diagnose`` on each part of the model, task by task."""
    rows = read_result("sims")["rows"]
    lines = []
    for name, row in rows.items():
        links = [line.removeprefix("- ") for line in row.get("diagnosis", "").splitlines() if line.startswith("- ")]
        for i, link in enumerate(links):
            part, _, found = link.partition(": ")
            lines.append([f"`{name}`" if i == 0 else "", part, *found.split(", ", 1)])
    return markdown(["task", "link", "", "measured"], lines) + _origins(rows)


def of_parts(name: str, make: MakeTable) -> str:
    """A table of a result that consists of parts; empty when a part that it needs was not measured."""
    content = read_result(name)
    result = Result(Parts(content["parts"]), content["metrics"])
    try:
        table = make(result)
    except MissingPartError:
        return ""
    if not table.rows:
        return ""
    return (
        markdown(table.head, table.rows) + f"\n{table.note}\n" + origin(*(result.parts[name] for name in table.parts))
    )


TABLES: dict[str, Callable[[], str]] = {
    "demo-success": demo_success,
    "demo-phases": demo_phases,
    "bridge-phases": bridge_phases,
    "sims-headline": sims_headline,
    "sims-success": sims_success,
    "sims-distances": sims_distances,
    "sims-text-labels": sims_text_labels,
    "sims-minimal-pairs": sims_minimal_pairs,
    "sims-diagnosis": sims_diagnosis,
    **{name: partial(of_parts, "planner", make) for name, make in planner.TABLES.items()},
    **{name: partial(of_parts, "chunking", make) for name, make in chunking.TABLES.items()},
    **{name: partial(of_parts, "distributed", make) for name, make in distributed.TABLES.items()},
    **config_tables.TABLES,
}


def rendered(path: Path) -> str:
    """The text of a file with its tables filled in; a table whose result is not there stays empty."""
    return MARK.sub(lambda m: m[1] + _table(m[2]) + m[3], path.read_text())


def _table(name: str) -> str:
    if name not in TABLES:
        raise one_of("table", name, TABLES)
    benchmark, _, _ = name.partition("-")
    known = name in config_tables.TABLES or (RESULTS / f"{benchmark}.json").is_file()
    table = TABLES[name]() if known else ""
    return f"\n{table}\n" if table else ""


def pages() -> list[Path]:
    """README and docs that hold tables."""
    return [
        p
        for p in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
        if p.is_file() and MARK.search(p.read_text())
    ]


def main() -> None:
    """Fill in the tables, or check them."""
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
