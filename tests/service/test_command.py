"""``hnet serve``: start, address, unsafe options, and shutdown by a signal."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cli.serve import serve
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.goals.text import TextGoal
from hnet_vjepa.planning.interface import SearchSettings
from planner_service.client import PlanError, PlannerClient
from planner_service.listening import listen
from tests.service.fakes import picture

# The command as it is, with the fake planner in the place of the one that needs a checkpoint.
COMMAND = """
import sys, types
from dataclasses import replace
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.interface import SearchSettings
from tests.service.fakes import CARD, FakePlanner
def load_planner(checkpoint, threads=None, plan=None):
    if checkpoint.name == "damaged":
        raise UserError(f"{checkpoint} is damaged")
    search = SearchSettings(**{name: int(value) for name, value in plan.items()})
    return FakePlanner(replace(CARD, search=search))
sys.modules["hnet_vjepa.planning.planner"] = types.SimpleNamespace(load_planner=load_planner)
import typer
from cli.serve import serve
app = typer.Typer(pretty_exceptions_enable=False)
app.command()(serve)
try:
    app()
except UserError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""


@contextmanager
def command(*options: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        env={**os.environ, **environment},
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
def test_serves_and_stops(tmp_path: Path, end: signal.Signals) -> None:
    with command("--checkpoint", str(tmp_path), "--port", "0", HNET_TOKEN="abc") as process:
        assert process.stdout is not None
        text, _, url = process.stdout.readline().strip().rpartition(" ")
        assert text == "listening on"
        with PlannerClient(url, "abc") as client:
            client.wait_until_ready(30)
            assert client.plan(picture()[None], TextGoal("x")).iterations == 5
        with PlannerClient(url) as client, pytest.raises(PlanError, match="401"):
            client.model()
        process.send_signal(end)
        out, err = process.communicate(timeout=20)
        assert (process.returncode, out, err) == (0, "", "")


def test_search_settings_are_those_of_the_command(tmp_path: Path) -> None:
    options = ("--set", "plan.candidates=24", "--set", "plan.iterations=3")
    with command("--checkpoint", str(tmp_path), "--port", "0", *options) as process:
        assert process.stdout is not None
        with PlannerClient(process.stdout.readline().split()[-1]) as client:
            client.wait_until_ready(30)
            assert client.model().search == SearchSettings(candidates=24, iterations=3)
            assert client.plan(picture()[None], TextGoal("x")).iterations == 3


def test_an_unknown_search_setting_is_refused_before_anything_loads(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"unknown field of --set 'plan\.candidate'"):
        serve(tmp_path, port=0, set_=["plan.candidate=5"])


def test_a_checkpoint_that_does_not_load_ends_the_command(tmp_path: Path) -> None:
    (tmp_path / "damaged").mkdir()
    with command("--checkpoint", str(tmp_path / "damaged"), "--port", "0") as process:
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out) == (2, "")  # no "listening on"
        assert err.strip() == f"{tmp_path}/damaged is damaged"


def test_an_altered_checkpoint_is_refused_before_it_listens(toy_run: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(toy_run / "action", tmp_path / "copy"))
    weights = bytearray((path / "weights.safetensors").read_bytes())
    weights[-1] ^= 1
    (path / "weights.safetensors").write_bytes(weights)
    words = [sys.executable, "-m", "cli", "serve", "--checkpoint", str(path), "--port", "0"]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"hnet: {path}/weights.safetensors is not the file that was saved")
    assert done.stderr.count("\n") == 1


def test_missing_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"there is no checkpoint directory .*nothing; 'hnet train'"):
        serve(tmp_path / "nothing")


def test_taken_port(tmp_path: Path) -> None:
    with listen("127.0.0.1", 0, local_only=True) as other:
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"port {port}: the port is in use; .*--port 0"):
            serve(tmp_path, port=port)


@pytest.mark.parametrize("host", ["0.0.0.0", "::"])
def test_the_network_needs_a_token(tmp_path: Path, host: str) -> None:
    for token in (None, ""):
        with pytest.raises(UserError, match="without a token"):
            serve(tmp_path, host=host, port=0, token=token)
    with listen("0.0.0.0", 0, local_only=False) as listener:
        assert listener.proto == socket.IPPROTO_TCP


@pytest.mark.parametrize("host", ["192.0.2.1", "no such host", "x" * 300])
def test_hosts_that_are_not_here(tmp_path: Path, host: str) -> None:
    with pytest.raises(UserError, match="not an address of this machine"):
        serve(tmp_path, host=host, port=0, token="abc")


def test_unusable_token(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="printable ASCII"):
        serve(tmp_path, port=0, token="abc\n")
