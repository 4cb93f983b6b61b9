"""Started programs on one process, DDP and ZeRO-2, by every launcher, train alike: the same losses, step by step.

Every stage, with accumulation, clipping, EMA and recomputation; the programs are those that users start, on a machine
without a compiler.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests import toy

ROOT = Path(__file__).resolve().parents[2]
STAGES = ("pretrain", "language", "probe", "encoder_adaptation", "action", "heads")
STEPS = 8  # 20 in benchmarks/distributed/parity.py
TOLERANCE = 1e-5  # of the loss, relative
SETTINGS = {"steps": STEPS, "batch_size": 8, "accumulate": 2, "learning_rate": 2e-5, "log_every": 1, "save_every": 50}
ENGINES = {
    "ddp, two ranks": ([sys.executable, "-m", "cli", "train"], ["--nproc", "2"]),
    "context of two ranks": ([sys.executable, "-m", "cli", "train"], ["--nproc", "2", "--context-parallel", "2"]),
    "zero, one rank": (
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "-m", "cli", "train"],
        ["--deepspeed", "deepspeed_zero2.json"],
    ),
    "zero, two ranks": (
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "main.py"],
        ["--use_deepspeed", "1", "--deepspeed_config", "configs/deepspeed_zero2.json"],
    ),
}


def run(words: list[str], options: list[str], store: Path, config: Path, work_dir: Path) -> dict[str, list[float]]:
    """Train all phases with a command; the total loss of every step, by stage."""
    compiled = work_dir.parent / f"{work_dir.name}.compiled"  # where torch and DeepSpeed would put what they compile
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    environment |= {"CXX": "/bin/false", "CC": "/bin/false", "TORCH_EXTENSIONS_DIR": str(compiled)}
    command = [*words, "--data", str(store), "--config", str(config), "--work-dir", str(work_dir), *options]
    ended = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=180, check=False)
    assert ended.returncode == 0, ended.stderr[-3000:]
    assert not compiled.exists()
    losses = {}
    for stage in STAGES:
        lines = [json.loads(line) for line in (work_dir / f"{stage}.run" / "log.jsonl").read_text().splitlines()]
        terms = [{k: v for k, v in x.items() if k not in ("step", "learning_rate", "grad_norm")} for x in lines]
        losses[stage] = [sum(of_step.values()) for of_step in terms]
    return losses


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    settings = toy.config(encoder_adaptation={**SETTINGS}).model_dump(mode="json")
    for stage in STAGES:
        settings[stage].update(SETTINGS)
    settings["precision"] = "fp32"
    settings["pretrain"]["vicregl"] = 0.04  # what differs from frame to frame must not be rounding alone
    settings["model"]["backbone"]["vit"]["recompute"] = True
    path = tmp_path_factory.mktemp("parity") / "config.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.fixture(scope="module")
def alone(config: Path, toy_store: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[float]]:
    """The losses of one process without any launcher."""
    return run([sys.executable, "-m", "cli", "train"], [], toy_store, config, tmp_path_factory.mktemp("alone"))


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_every_engine_has_the_losses_of_one_process(
    engine: str, alone: dict[str, list[float]], config: Path, toy_store: Path, tmp_path: Path
) -> None:
    found = run(*ENGINES[engine], toy_store, config, tmp_path)
    for stage in STAGES:
        assert len(found[stage]) == len(alone[stage]) == STEPS
        assert found[stage] == pytest.approx(alone[stage], rel=TOLERANCE), stage
    assert len(set(alone["pretrain"])) == STEPS  # something happened
