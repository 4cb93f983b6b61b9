"""``make demo``: the whole loop on one machine, with the commands that users run.

Collects episodes, trains four phases, starts the service, and evaluates 100 closed-loop rollouts whose client, a
separate process, requests every plan from it. Every step is an ``hnet`` command in a process of its own. Writes
``benchmarks/results/demo.json`` and the tables that are rendered from it.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks import render
from benchmarks.record import ROOT, write_result
from benchmarks.serving import serving
from hnet_vjepa.errors import UserError
from hnet_vjepa.utils.files import disk_errors, write_bytes_atomic

TASK = "fetch-reach"
MARK = ".hnet-demo"  # a file in every folder that a demo made, which it may therefore empty


def hnet(*words: str) -> None:
    """Run one ``hnet`` command; exit with its status when it fails, as it has printed the reason."""
    print(f"\n$ hnet {' '.join(words)}", flush=True)
    done = subprocess.run([sys.executable, "-m", "cli", *words])
    if done.returncode:
        sys.exit(done.returncode)


def metrics_of(evaluation: dict[str, Any], pipeline: dict[str, Any], wall: float) -> dict[str, float]:
    """The headline metrics, from the files that the commands wrote."""
    summary = evaluation["summary"]
    planner, random, scripted = (summary[name]["success"] for name in ("planner", "random", "scripted"))
    rate = lambda success, criterion, when: success[criterion][when]["successes"] / success[criterion][when]["trials"]  # noqa: E731
    metrics: dict[str, float] = {}
    for name, success in (("", planner), ("random_", random), ("scripted_", scripted)):
        for criterion, suffix in (("5 cm", ""), ("3 cm", "_3cm"), ("2 cm", "_2cm")):
            metrics[f"{name}success_ever{suffix}"] = rate(success, criterion, "ever")
            metrics[f"{name}success_end{suffix}"] = rate(success, criterion, "end")
    metrics["episodes"] = summary["planner"]["episodes"]
    for quantile in ("p50", "p95", "p99"):
        metrics[f"plan_ms_{quantile}"] = round(summary["planner"]["plan_ms"][quantile], 2)
    metrics["wall_s"] = round(wall, 1)
    metrics["train_s"] = round(sum(phase["seconds"] for phase in pipeline["phases"].values()), 1)
    return metrics


def prepare(out: Path) -> tuple[Path, Path, Path]:
    """Create the demo's folder, or empty that of an earlier demo; return the folders of episodes, training, evaluation.

    Raises UserError when ``out`` is a file, or a folder with content that no demo made.
    """
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; name a directory with --out")
    if out.is_dir() and any(out.iterdir()) and not (out / MARK).is_file():
        raise UserError(f"{out} is not empty and no demo made it; name another directory with --out, or empty it")
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / MARK).write_text("made by python -m benchmarks.demo, which empties it when it runs again\n")
    episodes, training, evaluation = folders = out / "episodes", out / "training", out / "evaluation"
    for folder in folders:  # its own folders only
        shutil.rmtree(folder, ignore_errors=True)
    return episodes, training, evaluation


def main() -> None:
    """Run the demo."""
    parser = argparse.ArgumentParser(description="Collect, train, serve, plan over HTTP, evaluate.")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("outputs/demo"),
        help="output directory; the output of an earlier demo in it is deleted first",
    )
    parser.add_argument("--episodes", type=int, default=1000, help="episodes to collect")
    parser.add_argument("--rollouts", type=int, default=100, help="closed-loop rollouts")
    parser.add_argument("--config", default="fetch_reach")
    parser.add_argument("--set", action="append", default=[], help="passed to hnet train")
    parser.add_argument("--no-record", action="store_true", help="do not write benchmarks/results and the docs")
    options = parser.parse_args()
    out: Path = options.out
    try:
        episodes, training, evaluation = prepare(out)
    except UserError as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(2)

    started = time.monotonic()
    hnet("data", "collect", "--task", TASK, "--episodes", str(options.episodes), "--seed", "0", "--out", str(episodes))
    collected = time.monotonic()
    changes = [word for change in options.set for word in ("--set", change)]
    hnet("train", "--data", str(episodes), "--config", options.config, "--work-dir", str(training), *changes)
    trained = time.monotonic()
    with serving(training / "action", out / "service.log") as url:
        shown = ["--training", str(training)]
        words = ["--task", TASK, "--url", url, "--episodes", str(options.rollouts), "--seed", "0", *shown]
        hnet("evaluate", *words, "--out", str(evaluation))
    wall = time.monotonic() - started

    result = json.loads((evaluation / "result.json").read_text())
    pipeline = json.loads((training / "pipeline.json").read_text())
    metrics = metrics_of(result, pipeline, wall)
    parts = {"collect_s": collected - started, "train_s": trained - collected, "evaluate_s": started + wall - trained}
    settings = {"task": TASK, "episodes": options.episodes, "config": pipeline["settings"]["config"], "split": "test"}
    if not options.no_record:
        write_result(
            "demo",
            "make demo",
            settings,
            metrics,
            seconds={key: round(value, 1) for key, value in parts.items()},
            phases={name: {"seconds": p["seconds"], "metrics": p["metrics"]} for name, p in pipeline["phases"].items()},
            summary=result["summary"],
        )
        for picture in ("rollout.gif", "chunks.png"):
            write_bytes_atomic(ROOT / "docs" / "images" / picture, (evaluation / picture).read_bytes())
        render.main()
    print(f"\nthe whole loop took {wall:.0f} s ({', '.join(f'{k[:-2]} {v:.0f} s' for k, v in parts.items())})")
    print((evaluation / "table.txt").read_text().rstrip())
    print(f"report: {evaluation / 'report.html'}")


if __name__ == "__main__":
    main()
