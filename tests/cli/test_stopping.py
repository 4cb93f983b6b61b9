"""Ctrl-C and SIGTERM: no traceback, the exit status that shells use, and the same command resumes the work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.stopping import stoppable
from hnet_vjepa.data.store import EpisodeStore
from sims.core.collect import SHARD_EPISODES, collect
from tests.service.fakes import until

ROOT = Path(__file__).resolve().parents[2]
EPISODES = 8 * SHARD_EPISODES
SAYS = "hnet: {}; what was finished is kept, the same command goes on from there"


def start(*words: object, group: bool = False) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "cli", *map(str, words)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=group,
    )


def shards(store: Path) -> list[str]:
    """Names of the shards that are complete."""
    return [shard.name for shard in store.glob("shards/[!.]*")]


def alive(group: int) -> bool:
    """Whether a process group has members."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


# Runs a command that waits, once it starts to import the module, until it is told to stop.
WAITING = """
import sys, time

root, module = sys.argv[1:3]
sys.argv[:3] = ["hnet"]
sys.path.insert(0, root)

class Wait:
    def find_spec(self, name, path, target=None):
        if name == module:
            print("waiting", flush=True)
            time.sleep(600)

sys.meta_path.insert(0, Wait())
from cli.main import run
run()
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("module", ["typer", "cli.viz", "torch", "hnet_vjepa.checkpoint"])
def test_a_signal_while_it_starts(module: str, number: signal.Signals, status: int, tmp_path: Path) -> None:
    """Before the command line is read, and while a command loads its libraries."""
    words = [sys.executable, "-c", WAITING, ROOT, module, "evaluate", "--checkpoint", tmp_path]
    with subprocess.Popen(list(map(str, words)), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "waiting\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (status, SAYS.format("stopped" if status == 143 else "interrupted") + "\n")


def test_errors_that_a_signal_causes_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with pytest.raises(SystemExit) as caught, stoppable():
            try:
                os.kill(os.getpid(), number)
                time.sleep(5)
            except KeyboardInterrupt as error:
                raise RuntimeError("a library converts it") from error
        assert caught.value.code == status
    printed = capsys.readouterr().err.splitlines()
    assert printed == [SAYS.format("interrupted"), SAYS.format("stopped")]
    with pytest.raises(RuntimeError, match="a bug"), stoppable():
        raise RuntimeError("a bug")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.fixture(scope="module")
def fingerprint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The fingerprint of an uninterrupted collection."""
    whole = collect("two-room", EPISODES, 0, tmp_path_factory.mktemp("whole") / "store", workers=1, progress=False)
    return EpisodeStore(whole).fingerprint()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "whole", "status"),
    [(signal.SIGTERM, False, 143), (signal.SIGTERM, True, 143), (signal.SIGINT, True, 130)],
    ids=["SIGTERM", "SIGTERM to all processes", "Ctrl-C"],
)
def test_a_stopped_collection_is_quiet_and_resumes(
    number: signal.Signals, whole: bool, status: int, tmp_path: Path, fingerprint: str
) -> None:
    out = tmp_path / "stopped"
    words = ("data", "collect", "--task", "two-room", "--episodes", EPISODES, "--workers", 2, "--out", out)
    with start(*words, group=True) as process:
        until(lambda: bool(shards(out)), 60)
        (os.killpg if whole else os.kill)(process.pid, number)
        _, err = process.communicate(timeout=60)
    last = err.rstrip().splitlines()[-1]
    assert (process.returncode, last) == (status, SAYS.format("stopped" if status == 143 else "interrupted"))
    assert "Traceback" not in err and "Error" not in err and "leaked" not in err
    until(lambda: not alive(process.pid))  # no worker is left
    assert 0 < len(shards(out)) < EPISODES // SHARD_EPISODES
    collect("two-room", EPISODES, 0, out, workers=1, progress=False)
    assert EpisodeStore(out).fingerprint() == fingerprint
