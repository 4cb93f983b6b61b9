"""Ctrl-C and SIGTERM: no traceback, the exit status that shells give, and work that goes on where it stopped."""

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
EPISODES = 12 * SHARD_EPISODES
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


@pytest.mark.parametrize("word", ["models", "evaluate"])
@pytest.mark.parametrize("delay", [0.2, 0.4, 0.8])
def test_ctrl_c_while_it_starts(word: str, delay: float, tmp_path: Path) -> None:
    missing = ["--checkpoint", tmp_path / "none"] if word == "evaluate" else []
    with start(word, *missing) as process:
        time.sleep(delay)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
    assert "Traceback" not in err
    # On a fast machine it may have ended before, or be just about to.
    if process.returncode == 130:
        assert err.strip() == SAYS.format("interrupted")
    else:
        assert process.returncode in (0, 2, -signal.SIGINT)


def test_errors_that_a_signal_causes_are_not_shown(capsys: pytest.CaptureFixture[str]) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
        with pytest.raises(SystemExit) as caught, stoppable():
            try:
                os.kill(os.getpid(), number)
                time.sleep(5)
            except KeyboardInterrupt as error:
                raise RuntimeError("a library's own words for it") from error
        assert caught.value.code == status
    said = capsys.readouterr().err.splitlines()
    assert said == [SAYS.format("interrupted"), SAYS.format("stopped")]
    with pytest.raises(RuntimeError, match="a bug"), stoppable():
        raise RuntimeError("a bug")
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


@pytest.fixture(scope="module")
def fingerprint(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a collection that nothing stopped."""
    whole = collect("two-room", EPISODES, 0, tmp_path_factory.mktemp("whole") / "store", workers=1, progress=False)
    return EpisodeStore(whole).fingerprint()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("told", "whole", "status"),
    [(signal.SIGTERM, False, 143), (signal.SIGTERM, True, 143), (signal.SIGINT, True, 130)],
    ids=["SIGTERM", "SIGTERM to all processes", "Ctrl-C"],
)
def test_a_stopped_collection_is_quiet_and_goes_on(
    told: signal.Signals, whole: bool, status: int, tmp_path: Path, fingerprint: str
) -> None:
    out = tmp_path / "stopped"
    words = ("data", "collect", "--task", "two-room", "--episodes", EPISODES, "--workers", 2, "--out", out)
    with start(*words, group=True) as process:
        until(lambda: bool(shards(out)), 60)
        (os.killpg if whole else os.kill)(process.pid, told)
        _, err = process.communicate(timeout=60)
    last = err.rstrip().splitlines()[-1]
    assert (process.returncode, last) == (status, SAYS.format("stopped" if status == 143 else "interrupted"))
    assert "Traceback" not in err and "Error" not in err and "leaked" not in err
    until(lambda: not alive(process.pid))  # no worker is left
    assert 0 < len(shards(out)) < EPISODES // SHARD_EPISODES
    collect("two-room", EPISODES, 0, out, workers=1, progress=False)
    assert EpisodeStore(out).fingerprint() == fingerprint
