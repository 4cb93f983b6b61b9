"""Interrupted runs: damaged saves, SIGTERM, killed ranks, and two runs in one work directory."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from cli.stopping import stoppable
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.errors import UserError
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.pipeline import describe_robot, make_phase
from hnet_vjepa.trainers import engine
from hnet_vjepa.trainers.resume import KEPT
from hnet_vjepa.utils.lock import locked
from hnet_vjepa.utils.runtime import set_seed
from tests import toy

ROOT = Path(__file__).resolve().parents[2]
STEPS = 8
STARTED = 14  # steps of the runs that are started as programs


def train(data: Path, folder: Path, progress: bool = False) -> HNetVJEPA:
    """Pretrain from scratch, with a save after every second step."""
    store = EpisodeStore(data)
    set_seed(0)
    model = HNetVJEPA(toy.config(pretrain={"steps": STEPS, "save_every": 2}), describe_robot(store))
    engine.train(make_phase("pretrain", (), store), model, store, folder, progress=progress)
    return model


def interrupted_at(step: int, monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """Send this process a signal when the loop begins a step."""
    real = engine._step

    def then(*args, **kwargs):  # type: ignore[no-untyped-def]
        if args[-1] == step:
            os.kill(os.getpid(), number)
        return real(*args, **kwargs)

    monkeypatch.setattr(engine, "_step", then)


def saves(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / "resume").iterdir())


def assert_same(one: HNetVJEPA, other: HNetVJEPA) -> None:
    for (name, x), y in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


def flip_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize("damage", [flip_bit, cut, Path.unlink])
@pytest.mark.parametrize("name", ["weights.safetensors", "optimizer.safetensors", "progress.json"])
def test_a_damaged_save_is_said_and_the_one_before_it_taken(
    damage, name: str, toy_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:  # type: ignore[no-untyped-def]
    if damage is flip_bit and name == "progress.json":
        pytest.skip("a flipped bit in it need not make it another number")
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        interrupted_at(7, patch, signal.SIGINT)
        train(toy_store, tmp_path / "killed")
    assert saves(tmp_path / "killed") == ["step-00000004", "step-00000006"] and KEPT == 2
    damage(tmp_path / "killed" / "resume" / "step-00000006" / name)
    resumed = train(toy_store, tmp_path / "killed", progress=True)
    said = capsys.readouterr().out
    assert "step-00000006 is damaged" in said and "goes on at step 4 of 8" in said
    assert_same(resumed, train(toy_store, tmp_path / "clean"))


def test_sigterm_finishes_the_step_saves_and_ends(
    toy_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch, pytest.raises(SystemExit) as ended, stoppable():
        interrupted_at(4, patch, signal.SIGTERM)
        train(toy_store, tmp_path / "stopped")
    assert ended.value.code == 128 + signal.SIGTERM
    assert saves(tmp_path / "stopped")[-1] == "step-00000005"
    assert_same(train(toy_store, tmp_path / "stopped"), train(toy_store, tmp_path / "clean"))


def test_two_runs_do_not_share_a_work_directory(tmp_path: Path) -> None:
    with (
        locked(tmp_path),
        pytest.raises(UserError, match=f"in use by another run .process {os.getpid()}"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):  # it was given back
        pass


def ranks_of(launcher: int) -> list[int]:
    """Processes started by a process."""
    return [int(pid) for pid in Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()]


@pytest.mark.slow
def test_a_killed_rank_is_started_again_and_nothing_differs(toy_store: Path, tmp_path: Path) -> None:
    config = toy.config(pretrain={"steps": STARTED, "save_every": 3, "log_every": 1}).model_dump(mode="json")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    command = [
        sys.executable,
        "-m",
        "cli",
        "train",
        "--data",
        str(toy_store),
        "--config",
        str(tmp_path / "config.yaml"),
    ]
    command += ["--phases", "pretrain", "--nproc", "2", "--max-restarts", "3", "--work-dir"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(name: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, str(tmp_path / name)], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)

    def logged(name: str) -> list[str]:
        log = tmp_path / name / "pretrain.run" / "log.jsonl"
        return log.read_text().splitlines() if log.is_file() else []

    process = start("killed")
    give_up = time.monotonic() + 100
    while len(logged("killed")) < 5:
        assert process.poll() is None and time.monotonic() < give_up
        time.sleep(0.02)
    os.kill(ranks_of(process.pid)[1], signal.SIGKILL)
    assert process.wait(timeout=100) == 0
    assert start("clean").wait(timeout=100) == 0
    assert logged("killed") == logged("clean") and len(logged("clean")) == STARTED
    weights = [(tmp_path / name / "pretrain" / "weights.safetensors").read_bytes() for name in ("killed", "clean")]
    assert weights[0] == weights[1]
    assert json.loads((tmp_path / "killed" / "pipeline.json").read_text())["phases"]["pretrain"]["steps"] == STARTED
