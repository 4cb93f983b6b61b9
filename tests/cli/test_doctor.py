"""``hnet doctor`` reports what it finds and survives what it looks at."""

from __future__ import annotations

import json
import socket
import time
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cli import doctor

app = typer.Typer()
app.command()(doctor.doctor)


def test_real_machine() -> None:
    started = time.monotonic()
    outcome = CliRunner().invoke(app, ["--json"])
    assert time.monotonic() - started < 30  # 7 s on two idle cores
    findings = json.loads(outcome.stdout)
    assert {"python", "torch", "rendering", "mujoco", "DeepSpeed", "port 8000", "disk", "memory"} <= {
        finding["name"] for finding in findings
    }
    assert all(set(finding) == {"name", "status", "found", "advice"} for finding in findings)
    failed = [finding for finding in findings if finding["status"] == "fail"]
    assert outcome.exit_code == (1 if failed else 0)
    assert all(finding["advice"] for finding in failed)


@pytest.fixture
def nothing_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_run", lambda code, **environment: (False, "ImportError: no"))
    monkeypatch.setattr(doctor, "_version", lambda package: None)


def test_missing_essentials_fail_with_advice(nothing_works: None) -> None:
    outcome = CliRunner().invoke(app)
    assert outcome.exit_code == 1
    findings = {finding.name: finding for finding in doctor.examine()}
    assert {name for name, finding in findings.items() if finding.status == "fail"} == {
        "torch",
        "rendering",
        "mujoco",
        "torch-geometric",
    }
    assert all(finding.advice for finding in findings.values() if finding.status == "fail")
    assert findings["DeepSpeed"].status == "note"
    assert "ImportError: no" in outcome.stdout


def test_a_check_that_crashes_is_reported(nothing_works: None, monkeypatch: pytest.MonkeyPatch) -> None:
    def crash() -> None:
        raise ZeroDivisionError("odd machine")

    monkeypatch.setattr(doctor, "_available_memory", crash)
    findings = {finding.name: finding for finding in doctor.examine()}
    assert findings["memory"].status == "note"
    assert "odd machine" in findings["memory"].found


def test_new_mujoco_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda package: "4.0.0")
    (finding,) = doctor._mujoco()
    assert finding.status == "fail"
    assert "mujoco>=3.3,<3.9" in finding.advice


def test_only_the_ray_caster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_run", lambda code, HNET_RENDER: (HNET_RENDER == "raycast", ""))
    (finding,) = doctor._rendering()
    assert finding.status == "note"
    assert "libegl1" in finding.advice


def test_deepspeed_without_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_run", lambda code, **environment: (True, ""))
    monkeypatch.setattr(doctor, "_version", lambda package: "0.19.8")
    monkeypatch.setattr("shutil.which", lambda name: None)
    (finding,) = doctor._deepspeed()
    assert finding.status == "note"
    assert "g++" in finding.advice


def test_what_hangs_or_dies_is_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PROBE_S", 0.5)
    assert doctor._run("import time; time.sleep(60)") == (False, "no answer within 0.5 s")
    monkeypatch.setattr(doctor, "PROBE_S", 20)
    assert doctor._run("import os; os.abort()")[0] is False
    assert doctor._run("raise ImportError('libx')") == (False, "ImportError: libx")
    assert doctor._run("print('a')") == (True, "a")


def test_taken_port_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            other.bind(("127.0.0.1", 8000))
            other.listen()
        except OSError:
            pass  # somebody else has it, which is as good
        (finding,) = doctor._port()
    assert finding.status == "note"
    assert "--port 0" in finding.advice


def test_folder_without_write_access(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(dir: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    assert [finding.status for finding in doctor._disk()][1:] == ["fail", "fail"]
