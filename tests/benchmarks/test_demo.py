"""The whole loop in miniature: collect, train, serve, plan over HTTP, evaluate, each in a process of its own."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FEW = {"pretrain": 4, "language": 2, "probe": 2, "action": 6, "heads": 3}


def demo(out: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks.demo", "--no-record", "--out", str(out), *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


def small() -> list[str]:
    """Arguments that shrink everything."""
    settings = [f"{phase}.{field}" for phase, steps in FEW.items() for field in (f"steps={steps}", "batch_size=8")]
    settings += ["plan.candidates=8", "plan.elites=2", "plan.iterations=1", "precision=fp32"]
    return ["--episodes", "20", "--rollouts", "2", *(word for s in settings for word in ("--set", s))]


@pytest.mark.slow
def test_the_whole_loop(tmp_path: Path) -> None:
    out = tmp_path / "demo"
    results = {file: file.stat().st_mtime_ns for file in (ROOT / "benchmarks" / "results").glob("demo*")}
    done = demo(out, *small())
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((out / "evaluation" / "result.json").read_text())
    assert list(result["summary"]) == ["random", "planner", "scripted"]
    assert result["summary"]["planner"]["plan_ms"]["p50"] > 0
    assert {len(rollouts) for rollouts in result["episodes"].values()} == {2}
    assert result["summary"]["scripted"]["success"]["5 cm"]["end"]["successes"] == 2

    table = (out / "evaluation" / "table.txt").read_text().rstrip()
    report = out / "evaluation" / "report.html"
    assert done.stdout.endswith(f"{table}\nreport: {report}\n")
    page = report.read_text()
    assert "Chunks of one rollout" in page and "Training: losses" in page

    trained = json.loads((out / "training" / "pipeline.json").read_text())["phases"]
    assert {n: p["steps"] for n, p in trained.items()} == {"pretrain": 4, "language": 2, "probe": 2, "action": 6 + 3}
    port = re.search(r"listening on http://127.0.0.1:(\d+)", (out / "service.log").read_text())
    assert port
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", int(port[1]))) != 0  # the service is gone
    assert {file: file.stat().st_mtime_ns for file in (ROOT / "benchmarks" / "results").glob("demo*")} == results

    (out / "mine.txt").write_text("kept")
    again = demo(out, *small(), "--set", "action.stepz=1")
    assert again.returncode == 2 and "unknown field action.stepz" in again.stderr
    assert (out / "mine.txt").read_text() == "kept"
    assert not report.exists()  # a demo shows a fresh run


def test_a_folder_that_no_demo_made_is_left_alone(tmp_path: Path) -> None:
    precious = tmp_path / "training" / "weights"
    precious.parent.mkdir()
    precious.write_text("months of work")
    done = demo(tmp_path, *small())
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith(f"demo: {tmp_path} is not empty and no demo made it; ")
    assert precious.read_text() == "months of work"
    file = precious
    done = demo(file, *small())
    assert done.returncode == 2 and done.stderr == f"demo: {file} is a file; name a directory with --out\n"
