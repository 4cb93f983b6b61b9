"""The training part of a report, and the one table of what metrics mean and have to beat."""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import render
from hnet_vjepa.errors import UserError
from sims.core.task import Simulation
from sims.evaluation import run as evaluation
from sims.evaluation.pairs import make_pair
from sims.reporting import training, write
from sims.reporting.baselines import FACTS, compared
from sims.reporting.report import Section
from sims.reporting.training import read_run, training_sections
from sims.tasks import fetch_reach
from tests.sims.test_evaluate import StandIn, command

TASK = fetch_reach.TASK


@pytest.fixture(scope="module")
def robot() -> Iterator[Simulation]:
    with contextlib.closing(fetch_reach.FetchReach()) as simulation:
        yield simulation


def metrics_of(run: Path) -> dict[str, dict[str, float]]:
    phases = json.loads((run / "pipeline.json").read_text())["phases"]
    return {name: phase["metrics"] for name, phase in phases.items()}


def test_every_fact_and_every_baseline_is_measured_by_the_phases(toy_run: Path) -> None:
    metrics = metrics_of(toy_run)
    for fact in FACTS:
        last = max(int(key.split("/")[1]) for key in metrics["action"] if key.startswith("open_loop/"))
        assert fact.key.format(last=last) in metrics[fact.phase], fact
        for baseline in fact.baselines:
            assert not baseline.key or baseline.key.format(last=last) in metrics[fact.phase], fact
    rows = compared(metrics)
    assert len(rows) == len(FACTS)
    assert len({(row.phase, row.what) for row in rows}) == len(rows)


def test_what_is_compared_with_what() -> None:
    metrics = {
        "pretrain": {"effective_rank": 12.4, "dimensions": 64.0, "linear_probe_r2": 0.5},
        "language": {"retrieval_accuracy": 0.9, "retrieval_chance": 0.25, "retrieval_constant": 0.5, "clips": 7.0},
        "action": {f"{name}/{h}": h / 10 for name in ("open_loop", "nothing_moves") for h in (1, 2, 3)},
    }
    assert [(row.phase, row.value, row.baseline) for row in compared(metrics)] == [
        ("pretrain", "0.500", "0 is always the mean"),
        ("pretrain", "12", "64 (dimensions)"),
        ("language", "0.900", "0.250 (chance), 0.500 (best constant caption)"),
        ("action", "0.100", "0.100 (nothing moves)"),
        ("action", "0.300", "0.300 (nothing moves)"),
    ]
    assert [row.what for row in compared(metrics)][-1] == "open-loop error, 3 steps"
    assert compared({}) == []
    for last in (1, 5):
        steps = {f"open_loop/{h}": 0.0 for h in range(1, last + 1)}
        assert len(compared({"action": steps})) == (1 if last == 1 else 2)


def test_the_published_tables_and_the_report_show_the_same_facts(
    toy_run: Path, robot: Simulation, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = compared(metrics_of(toy_run))
    phases = json.loads((toy_run / "pipeline.json").read_text())["phases"]
    about = {"machine": {"cpu": "c", "cores": 1}, "command": "x", "date": "d", "commit": "e"}
    monkeypatch.setattr(render, "read_result", lambda name: {**about, "phases": phases})
    published = render.demo_phases()
    page = str(training_sections(read_run(toy_run), TASK, robot, make_pair(TASK, robot, "dev", 0, 0, "image"))[0].body)
    for row in rows:
        assert f"| {row.phase} | {row.what} | {row.value} | {row.baseline} |" in published
        assert all(f"<td>{cell}</td>" in page.replace("&#x27;", "'") for cell in (row.what, row.value, row.baseline))


def test_tables_of_the_real_recordings_show_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    spread = {"mean": 0.5, "low": 0.4, "high": 0.6, "folds": 5}
    result = {
        "machine": {"cpu": "c", "cores": 1},
        **{"command": "x", "date": "d", "commit": "e"},
        "settings": {"folds": 5, "episodes": 25, "frames": 250},
        "metrics": {"train_s_per_fold": 12.0},
        "phases": {"language": {"retrieval_accuracy": spread, "retrieval_chance": {"mean": 0.25, "folds": 4}}},
    }
    monkeypatch.setattr(render, "read_result", lambda name: result)
    assert "| 0.500 (0.400 to 0.600) | 0.250 (chance) |" in render.bridge_phases()


def test_a_table_without_a_result_is_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- table: demo-phases -->\nold numbers\n<!-- end -->\nb\n")
    monkeypatch.setattr(render, "RESULTS", tmp_path)
    assert render.rendered(page) == "a\n<!-- table: demo-phases -->\n<!-- end -->\nb\n"
    page.write_text("<!-- table: nonsense -->\n<!-- end -->\n")
    with pytest.raises(UserError, match="unknown table 'nonsense'"):
        render.rendered(page)


def copy(toy_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_run, tmp_path / "run"))


def test_sections_of_a_finished_run(toy_run: Path, robot: Simulation) -> None:
    pair = make_pair(TASK, robot, "dev", 0, 0, "image")
    sections = training_sections(read_run(toy_run), TASK, robot, pair)
    assert [section.title for section in sections] == [
        "Training: what each phase learnt, on held-out episodes",
        "Training: losses",
        "Training: open-loop error over the steps",
        "Chunks of one rollout",
    ]
    assert all(s.body.startswith(b"\x89PNG") for s in sections if isinstance(s.body, bytes))
    assert "average precision per label" in str(sections[0].body)


def test_half_written_and_missing_logs_are_no_obstacle(toy_run: Path, robot: Simulation, tmp_path: Path) -> None:
    run = copy(toy_run, tmp_path)
    with (run / "pretrain.run" / "log.jsonl").open("a") as stream:
        stream.write('{"step": 4, "learning_rate": 0.1, "grad_no')
    (run / "language.run" / "log.jsonl").write_text('{"st')
    (run / "probe.run" / "log.jsonl").unlink()
    pair = make_pair(TASK, robot, "dev", 0, 0, "image")
    titles = [section.title for section in training_sections(read_run(run), TASK, robot, pair)]
    assert "Training: losses" in titles
    for name in ("pretrain", "action"):
        (run / f"{name}.run" / "log.jsonl").write_bytes(b"\xff\n\n[1]\n")
    titles = [section.title for section in training_sections(read_run(run), TASK, robot, pair)]
    assert "Training: losses" not in titles and len(titles) == 3


def test_what_is_no_finished_run_is_refused(toy_run: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"holds no training run \(no pipeline.json\)"):
        read_run(tmp_path)
    run = copy(toy_run, tmp_path)
    file = run / "pipeline.json"
    content = json.loads(file.read_text())
    file.write_text(json.dumps({**content, "phases": {}}))
    with pytest.raises(UserError, match=r"no phase of the run in .* is finished"):
        read_run(run)
    for damaged in ("{", "[]", '{"phases": 3}', '{"phases": {"action": {}}}', '{"phases": {"fly": {"metrics": {}}}}'):
        file.write_text(damaged)
        with pytest.raises(UserError, match=r"pipeline\.json is damaged"):
            read_run(run)
    file.write_text(json.dumps(content))
    (run / "action" / "weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"weights.safetensors is missing"):
        read_run(run)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    from sims.evaluation import sources

    monkeypatch.setattr(sources, "read_manifest", lambda _: SimpleNamespace(phases=[]))
    monkeypatch.setattr(sources, "load_planner", lambda path, plan: StandIn())


@pytest.mark.usefixtures("stand_in")
def test_the_run_is_checked_before_any_rollout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def play(*_: object, **__: object) -> None:
        raise AssertionError("a rollout was played")

    monkeypatch.setattr(evaluation, "evaluate", play)
    words = (
        "--task",
        "fetch-reach",
        "--checkpoint",
        "c",
        "--episodes",
        "1",
        "--training",
        str(tmp_path),
        "--out",
        str(tmp_path / "out"),
    )
    assert "UserError" in command(*words)[1] and "holds no training run" in command(*words)[1]
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("stand_in")
def test_what_was_measured_is_kept_when_the_report_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> list[Section]:
        assert json.loads((tmp_path / "result.json").read_text())["summary"]["planner"]["episodes"] == 1
        assert "scripted" in (tmp_path / "table.txt").read_text()
        raise RuntimeError("no picture")

    monkeypatch.setattr(training, "read_run", lambda work_dir: work_dir)
    monkeypatch.setattr(write, "training_sections", fail)
    words = (
        "--task",
        "fetch-reach",
        "--checkpoint",
        "c",
        "--episodes",
        "1",
        "--training",
        "run",
        "--out",
        str(tmp_path),
    )
    assert command(*words) == (1, "RuntimeError: no picture")
    assert not (tmp_path / "report.html").exists()
