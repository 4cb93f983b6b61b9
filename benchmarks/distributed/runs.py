"""Real training runs of a small model on generated episodes, started as users start them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.record import ROOT
from sims.core.collect import collect

STAGES = ("pretrain", "language", "probe", "encoder_adaptation", "action", "heads")
NOT_LOSSES = ("step", "learning_rate", "grad_norm")
DEADLINE_S = 600.0


@dataclass(frozen=True)
class Engine:
    """A launcher with its options."""

    name: str
    words: tuple[str, ...]
    options: tuple[str, ...] = ()


TRAIN = (sys.executable, "-m", "cli", "train")
TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=1", "-m", "cli", "train")
ZERO = ("--deepspeed", "deepspeed_zero2.json")
ALONE = Engine("one process", TRAIN)
ENGINES = (
    Engine("torchrun, 1 rank", TORCHRUN),
    Engine("DDP, 2 ranks", TRAIN, ("--nproc", "2")),
    Engine("context of 2 ranks", TRAIN, ("--nproc", "2", "--context-parallel", "2")),
    Engine("ZeRO-2, 1 process", TRAIN, ZERO),
    Engine("ZeRO-2, 2 ranks", TRAIN, ("--nproc", "2", *ZERO)),
)


def episodes(work: Path) -> Path:
    """A store of 40 simulated episodes with captions, labels and states."""
    return collect("two-room", 40, 0, work / "episodes", workers=1, progress=False)


def small(stages: Sequence[str], steps: int, save_every: int, accumulate: int) -> list[str]:
    """Options that shorten these stages of the preset two_room, in fp32, with recomputation."""
    fields = {"precision": "fp32", "model.backbone.vit.recompute": "true", "model.backbone.vit.depth": "1"}
    for stage in stages:
        fields |= {f"{stage}.steps": str(steps), f"{stage}.batch_size": "8", f"{stage}.accumulate": str(accumulate)}
        fields |= {f"{stage}.learning_rate": "2e-5", f"{stage}.log_every": "1", f"{stage}.save_every": str(save_every)}
    return [word for field, value in fields.items() for word in ("--set", f"{field}={value}")]


def start(engine: Engine, words: list[str], work_dir: Path, more: tuple[str, ...] = ()) -> subprocess.Popen[str]:
    """Start a training; its output goes to ``<work_dir>.txt``."""
    command = [*engine.words, "--config", "two_room", *words, "--work-dir", str(work_dir), *engine.options, *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    output = work_dir.with_suffix(".txt").open("w")
    with output:
        return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output, text=True)


def finish(process: subprocess.Popen[str], work_dir: Path) -> None:
    """Wait for a training. Raises RuntimeError with the end of its output when it fails or takes too long."""
    try:
        code = process.wait(timeout=DEADLINE_S)
    finally:
        process.kill()
    if code:
        raise RuntimeError(f"{work_dir} failed:\n{work_dir.with_suffix('.txt').read_text()[-3000:]}")


def losses(work_dir: Path, stage: str) -> list[float]:
    """The total loss of every step of a stage."""
    lines = [json.loads(line) for line in (work_dir / f"{stage}.run" / "log.jsonl").read_text().splitlines()]
    return [sum(value for name, value in line.items() if name not in NOT_LOSSES) for line in lines]
