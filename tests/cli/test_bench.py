"""``hnet bench``: the rest of the command line reaches the benchmark, its end reaches the shell, signals reach both."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from cli.bench import NAMES, run_benchmark
from hnet_vjepa.errors import UserError
from tests.cli.test_errors import refused
from tests.service.fakes import until

ROOT = Path(__file__).resolve().parents[2]

# Says what it was given; with "wait" it stays until it is told to stop, and so does what it started.
FAKE = """
import subprocess, sys, time
from pathlib import Path
print(*sys.argv[1:], flush=True)
if sys.argv[1:2] == ["wait"]:
    helper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    Path(sys.argv[2]).write_text(str(helper.pid))
    time.sleep(60)
sys.exit(7)
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout with one benchmark."""
    package = tmp_path / "checkout" / "benchmarks"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "fake.py").write_text(FAKE)
    return package.parent


def command(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cli", "bench", *words], cwd=folder, capture_output=True, text=True, timeout=120
    )


def test_help_teaches_what_there_is() -> None:
    done = command(ROOT, "--help")
    assert done.returncode == 0
    for name in NAMES:
        assert f"  {name}: " in done.stdout and f"benchmarks/results/{name}.json" in done.stdout.replace("\n  ", " ")


def test_the_benchmark_s_own_help_is_shown_from_anywhere(tmp_path: Path) -> None:
    (tmp_path / "benchmarks").mkdir()  # another package of that name is not meant
    (tmp_path / "benchmarks" / "__init__.py").write_text("raise SystemExit('wrong one')")
    done = subprocess.run(
        [sys.executable, "-c", "import sys; from cli.main import run; sys.argv = ['hnet', *sys.argv[1:]]; run()"]
        + ["bench", "sims", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert "--far-episodes" in done.stdout


def test_words_and_status_are_passed_on(checkout: Path, capfd: pytest.CaptureFixture[str]) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert run_benchmark(checkout, "fake", ["--part", "x", "-h"]) == 7
    assert capfd.readouterr().out == "--part x -h\n"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def test_an_unknown_name_is_refused_by_name() -> None:
    names = "chunking, distributed, planner, sims"
    assert refused("bench", "chunks") == f"unknown benchmark 'chunks'; choose one of: {names}"


def test_an_installation_has_no_benchmarks_and_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not part of an installation; run them from a checkout"):
        run_benchmark(tmp_path, "sims", [])
    found = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    assert not any(pattern.startswith("benchmarks") for pattern in found["include"])


@pytest.mark.parametrize(("told", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_benchmark_and_what_it_started(
    told: signal.Signals, status: int, checkout: Path, tmp_path: Path
) -> None:
    noted = tmp_path / "pid"
    call = f"import sys; from pathlib import Path; from cli.bench import run_benchmark as run; \
sys.exit(run(Path({str(checkout)!r}), 'fake', ['wait', {str(noted)!r}]))"
    with subprocess.Popen([sys.executable, "-c", call], cwd=ROOT, stderr=subprocess.DEVNULL) as process:
        until(lambda: noted.is_file() and noted.read_text() != "", 60)
        process.send_signal(told)
        assert process.wait(30) == status
    helper = int(noted.read_text())
    until(lambda: gone(helper))


def gone(pid: int) -> bool:
    """Whether a process is there no more, or only waits to be forgotten by who inherited it."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
