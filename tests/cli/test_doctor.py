"""``hnet doctor`` reports what it finds and survives what it looks at."""

from __future__ import annotations

import json
import socket
import threading
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from cli import doctor

app = typer.Typer()
app.command()(doctor.doctor)


CHECKS = ("_python", "_torch", "_rendering", "_mujoco", "_torch_geometric", "_deepspeed", "_port", "_disk", "_memory")


def test_real_machine() -> None:
    outcome = CliRunner().invoke(app, ["--json"])
    findings = json.loads(outcome.stdout)
    assert {"python", "torch", "rendering", "mujoco", "DeepSpeed", "port 8000", "disk", "memory"} <= {
        finding["name"] for finding in findings
    }
    assert all(set(finding) == {"name", "status", "found", "advice"} for finding in findings)
    failed = [finding for finding in findings if finding["status"] == "fail"]
    assert outcome.exit_code == (1 if failed else 0)
    assert all(finding["advice"] for finding in failed)


def test_checks_run_in_parallel_and_report_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    together = threading.Barrier(len(CHECKS), timeout=60)

    def check(name: str) -> list[doctor.Finding]:
        together.wait()  # passes only while all others wait too
        return [doctor.Finding(name, "ok", "")]

    for name in CHECKS:
        monkeypatch.setattr(doctor, name, lambda name=name: check(name))
    findings = doctor.examine()
    assert {finding.status for finding in findings} == {"ok"}
    assert tuple(finding.name for finding in findings) == CHECKS


@pytest.fixture
def nothing_works(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_run", lambda code, **environment: doctor.Trial("failed", "ImportError: no"))
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


def test_what_is_only_slow_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_run", lambda code, **environment: doctor.Trial("slow", "no answer within 12 s"))
    monkeypatch.setattr(doctor, "_version", lambda package: "3.0.0")
    findings = {finding.name: finding for finding in doctor.examine()}
    assert CliRunner().invoke(app).exit_code == (1 if any(f.status == "fail" for f in findings.values()) else 0)
    for name in ("torch", "rendering", "mujoco", "DeepSpeed"):
        assert (findings[name].status, "no answer within 12 s" in findings[name].found) == ("note", True)
    assert all("slow, not broken" in findings[name].advice for name in ("torch", "rendering", "mujoco"))


def test_a_slow_renderer_beside_one_that_works_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    ends = {"egl": "slow", "osmesa": "failed", "raycast": "ok"}
    monkeypatch.setattr(doctor, "_run", lambda code, HNET_RENDER: doctor.Trial(ends[HNET_RENDER], "why"))  # type: ignore[arg-type]
    (finding,) = doctor._rendering()
    assert (finding.status, finding.found) == ("note", "raycast (of egl, osmesa, raycast: raycast work); egl: why")


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
    ends = {"egl": "failed", "osmesa": "failed", "raycast": "ok"}
    monkeypatch.setattr(doctor, "_run", lambda code, HNET_RENDER: doctor.Trial(ends[HNET_RENDER], ""))  # type: ignore[arg-type]
    (finding,) = doctor._rendering()
    assert finding.status == "note"
    assert "libegl1" in finding.advice


def test_deepspeed_is_reported_with_the_option_that_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """That training with it compiles nothing is tested in tests/trainers/test_parity.py."""
    monkeypatch.setattr(doctor, "_run", lambda code, **environment: doctor.Trial("ok", ""))
    monkeypatch.setattr(doctor, "_version", lambda package: "0.19.8")
    (finding,) = doctor._deepspeed()
    assert finding.status == "ok" and "0.19.8" in finding.found
    assert "--deepspeed deepspeed_zero2.json" in finding.advice
    monkeypatch.setattr(doctor, "_version", lambda package: None)
    (finding,) = doctor._deepspeed()
    assert finding.status == "note" and finding.found == "not installed"


def test_a_program_that_hangs_or_crashes_does_not_end_the_doctor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TRY_S", 0.5)
    assert doctor._run("import time; time.sleep(600)") == doctor.Trial("slow", "no answer within 0.5 s")
    monkeypatch.setattr(doctor, "TRY_S", 120)
    assert doctor._run("import os; os.abort()").end == "failed"
    assert doctor._run("raise ImportError('libx')") == doctor.Trial("failed", "ImportError: libx")
    assert doctor._run("print('a')") == doctor.Trial("ok", "a")


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
