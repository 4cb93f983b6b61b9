"""The service's deadline, memory, calibration and the detector: their parts or tables, and the command."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import record, render
from benchmarks.part import Part
from benchmarks.planner import __main__ as command
from benchmarks.planner import calibration, deadline, dynamics, memory, ood, trained_peer
from benchmarks.planner.deadline import lateness
from benchmarks.planner.memory import resident_after
from hnet_vjepa.checkpoint import read_manifest
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.interface import PlanQuery, PlanResult, SearchSettings
from planner_service.app import create_app
from planner_service.client import PlannerClient
from tests.benchmarks.square import TASK, check_table, result_of
from tests.service.fakes import CARD, FakePlanner, picture, serving_ready


@pytest.mark.parametrize(("deadline_ms", "met"), [(10.0, 0.0), (5000.0, 1.0)])
def test_lateness_is_measured_from_the_deadline(deadline_ms: float, met: float) -> None:
    planner = FakePlanner(delay_s=0.03)
    asked = [PlanQuery(picture(i)[None], ImageGoal(picture(9)), i) for i in range(4)]
    with serving_ready(create_app(planner)) as url, PlannerClient(url) as client:
        row = lateness(client, asked, deadline_ms, SearchSettings(horizon=3))
    assert (row["requests"], row["met"]) == (4, met)
    assert row["client_ms"]["p50"] >= row["server_ms"]["p50"] >= 30 - deadline_ms
    assert row["client_ms"]["p99"] < 1000 - deadline_ms
    assert [batch[0].seed for batch in planner.batches[1:]] == [0, 1, 2, 3]
    assert planner.batches[1][0].search == SearchSettings(horizon=3)


@pytest.mark.slow
def test_the_running_service_receives_the_requests(checkpoint_path: Path) -> None:
    part = deadline.deadline(TASK, checkpoint_path, pairs=1)
    rows = part.behind["rows"]
    assert [row["deadline_ms"] for row in rows] == [15, 30, 60] * 2
    assert {row["requests"] for row in rows} == {3} and all(row["iterations"] >= 1 for row in rows)
    assert part.metrics["deadline_overrun_ms_p99"] == max(row["client_ms"]["p99"] for row in rows)


def test_a_leak_is_measured() -> None:
    class Leaking(FakePlanner):
        kept: list[NDArray[np.uint8]] = []

        def plan(self, queries: list[PlanQuery]) -> list[PlanResult]:
            self.kept.append(np.ones(33 * 2**20, np.uint8))  # large enough for malloc to map it anew every time
            return [self.answer(query) for query in queries]

    planner = Leaking(card=CARD)
    first, last = resident_after(planner, (5, 13), memory.SMALL)
    assert last - first == pytest.approx(8 * 33, rel=0.1)


def test_memory_is_measured_in_a_process_of_its_own(checkpoint_path: Path) -> None:
    part = memory.memory(checkpoint_path, (2, 4))
    assert part.metrics["rss_growth_mb"] == part.behind["rss_mb"][1] - part.behind["rss_mb"][0]
    assert part.settings["weights"] == read_manifest(checkpoint_path).fingerprint


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["planner", *words])
    command.main()


def test_a_part_is_measured_again_when_named_or_for_other_weights(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, checkpoint_path: Path
) -> None:
    made: list[str] = []
    weights = read_manifest(checkpoint_path).fingerprint

    def part(name: str, fingerprint: str) -> Callable[[], Part]:
        def make() -> Part:
            made.append(name)
            return Part({"weights": fingerprint}, {name: float(len(made))}, {"rows": [name]})

        return make

    known = {
        "one": command.Measurement(part("one", weights), checkpoint_path),
        "two": command.Measurement(part("two", "others"), checkpoint_path),
    }
    monkeypatch.setattr(command, "parts", lambda checkpoint: known)
    monkeypatch.setattr(render, "main", lambda: None)
    for module in (record, command):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    run(monkeypatch, "--checkpoint", str(checkpoint_path))
    run(monkeypatch, "--checkpoint", str(checkpoint_path))
    run(monkeypatch, "--checkpoint", str(checkpoint_path), "--part", "one")
    assert made == ["one", "two", "two", "one"]
    result = json.loads((tmp_path / "planner.json").read_text())
    assert result["metrics"] == {"one": 4.0, "two": 3.0}
    assert result["parts"]["one"]["rows"] == ["one"]
    assert result["parts"]["two"]["command"] == "python -m benchmarks.planner --part two"


def test_an_unknown_part_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], checkpoint_path: Path
) -> None:
    monkeypatch.setattr(
        command, "parts", lambda checkpoint: {"latency": command.Measurement(lambda: Part({}, {}), checkpoint_path)}
    )
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "--checkpoint", str(checkpoint_path), "--part", "latencies")
    assert capsys.readouterr().err == "planner: unknown part 'latencies'; choose one of: latency\n"


def test_the_deadline_table() -> None:
    row = {
        "deadline_ms": 15.0,
        "search": {"candidates": 8, "iterations": 2, "horizon": 3},
        "requests": 4,
        "client_ms": {"p50": -1.0, "p95": 0.5, "p99": 2.0},
        "server_ms": {"p50": -2.0, "p95": 0.0, "p99": 1.0},
        "met": 0.75,
        "iterations": 1.5,
    }
    table = deadline.table(result_of(deadline=Part({}, {}, {"rows": [row]})))
    check_table(table)
    assert table.rows == [["15 ms", "8 x 2 x 3", "-1.0 / +0.5 / +2.0", "-2.0 / +0.0 / +1.0", "75.0 %", "1.5"]]


def test_the_memory_table() -> None:
    table = memory.table(result_of(memory=Part({"plans": [10, 20]}, {}, {"rss_mb": [90.0, 91.3]})))
    check_table(table)
    assert table.rows == [["10", "90"], ["20", "91"]] and "growth +1.3 MiB" in table.note


def test_the_calibration_table_and_its_diagram() -> None:
    settings = {
        "task": "square",
        "split": "test",
        "tolerance": 0.03,
        "unit": "m",
        "actions": 3,
        "fitted_to": "9 others",
    }
    bins = [{"rollouts": 4, "predicted": 0.126, "observed": 0.25}]
    table = calibration.table(result_of(calibration=Part(settings, {}, {"reliability": bins})))
    check_table(table)
    assert table.rows == [["4", "13 %", "25 %"]]
    assert "4 plans of 3 actions on test pairs of square, within 3 cm;" in table.note
    assert calibration.draw([(3, 0.1, 0.0), (5, 0.9, 0.8)]).startswith(b"\x89PNG")


def test_the_table_of_the_detector() -> None:
    row = {"kind": "noise", "out_of_distribution": True, "rate": 0.975, "low": 0.9, "high": 1.0, "images": 40}
    table = ood.table(result_of(ood=Part({}, {}, {"rows": [row]})))
    check_table(table)
    assert table.rows == [["noise", "yes", "98 % (90–100)", "40"]]


def test_the_dynamics_table() -> None:
    """Of two variants; tests/benchmarks/test_planner_dynamics.py trains real ones."""
    task = dynamics.Study(TASK, 4.0, "toy", dynamics.SHORT)
    cells = {name: [dynamics.Cell(60.0, 0.5, cm, [3.0, 5.0])] for name, cm in (("one", 1.25), ("two", None))}
    rows = dynamics.rows(task, cells, {"one": 9.96, "two": 120.0})
    part = Part({"task": "square", "short": dynamics.SHORT}, {}, {"rows": rows})
    table = dynamics.table(result_of(dynamics__square=part))
    check_table(table)
    assert table.rows[0][6:] == ["0.500", "1.2", "10.0", "60"]
    assert table.rows[1][3:] == ["50", "+0 points, p = 1", "4 px", "0.500", "–", "120.0", "60"]


def test_the_table_of_the_trained_peer() -> None:
    rate = {"successes": 1, "trials": 2, "low": 0.1, "high": 0.9}
    success = {"6 px": {"ever": rate, "end": rate}}
    compared = {"success_end": {"6 px": {"difference": 0.5, "p_value": 0.25}}}
    settings = {"task": "square", "pairs": 2, "distance": 25, "parameters": 18e6, "clips": 16, "episodes": 40}
    behind = {
        "summary": {"planner": {"success": success}, trained_peer.NAME: {"success": success}},
        "comparisons": {trained_peer.NAME: compared},
        "losses": [2.0, 1.5, 1.0],
    }
    table = trained_peer.table(result_of(trained__peer=Part(settings, {}, behind)))
    check_table(table)
    assert [row[0::3] for row in table.rows] == [["planner", "–"], [trained_peer.NAME, "-50 points, p = 0.25"]]
    assert "made 3 steps of 16 clips on the same 40 episodes; its loss went from 2 to 1." in table.note
