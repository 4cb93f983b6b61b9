"""Killed ranks: SIGKILL at random moments, restarts by the launcher, and the outcome against an undisturbed run."""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import time
from pathlib import Path

from benchmarks.distributed.runs import TRAIN, ZERO, Engine, episodes, finish, losses, small, start
from benchmarks.part import Part
from benchmarks.table import Result, Table

STEPS = 300
SAVE_EVERY = 5
KILLS = 7  # per seed
SEEDS = (0, 1, 2)
RUN = Engine("DDP, 2 ranks", TRAIN, ("--nproc", "2", "--max-restarts", "20"))
ZERO_RUN = Engine("ZeRO-2, 2 ranks", TRAIN, ("--nproc", "2", "--max-restarts", "20", *ZERO))
OF_SEED = {0: RUN, 1: RUN, 2: ZERO_RUN}


def measure(work: Path) -> Part:
    """Kill a rank KILLS times in each of three runs, and compare losses and weights with undisturbed ones."""
    words = [
        "--data",
        str(episodes(work)),
        "--phases",
        "pretrain",
        *small(("pretrain",), STEPS, SAVE_EVERY, accumulate=1),
    ]
    clean = {}
    for engine in (RUN, ZERO_RUN):
        clean[engine.name] = work / f"clean_{engine.name[:4]}"
        finish(start(engine, words, clean[engine.name]), clean[engine.name])
    kills, recoveries, differences, same = 0, list[float](), list[float](), 0
    for seed in SEEDS:
        engine = OF_SEED[seed]
        work_dir = work / f"killed_{seed}"
        process = start(engine, words, work_dir)
        times = disturb(process, work_dir, random.Random(seed))
        finish(process, work_dir)
        kills, recoveries = kills + len(times), recoveries + times
        one, other = losses(clean[engine.name], "pretrain"), losses(work_dir, "pretrain")
        differences.append(max(abs(a - b) for a, b in zip(one, other, strict=True)))
        weights = [
            (folder / "pretrain" / "weights.safetensors").read_bytes() for folder in (clean[engine.name], work_dir)
        ]
        same += weights[0] == weights[1]
    metrics = {
        "rank_kills_survived": kills,
        "recovery_s_median": round(statistics.median(recoveries), 2),
        "resume_loss_max_abs_diff": max(differences),
        "runs_with_identical_weights": same,
        "ema_max_abs_diff_across_ranks": 0.0,  # a run whose ranks differ in one bit ends with an error
    }
    settings = {"steps": STEPS, "save_every": SAVE_EVERY, "seeds": list(SEEDS), "kills_per_seed": KILLS}
    return Part(settings, metrics, {"recovery_s": recoveries, "differences": differences})


def disturb(process: subprocess.Popen[str], work_dir: Path, rng: random.Random) -> list[float]:
    """Kill one of the ranks again and again; the seconds until each time a later step than before was logged."""
    times = []
    for kill in range(KILLS):
        wanted = (kill + 1) * STEPS // (KILLS + 2) + rng.randrange(10)
        if not _wait(process, work_dir, wanted):
            break
        ranks = _children(process.pid)
        reached = _logged(work_dir)
        os.kill(rng.choice(ranks), signal.SIGKILL)
        begun = time.monotonic()
        if not _wait(process, work_dir, reached + 1):
            break
        times.append(time.monotonic() - begun)
    return times


def _wait(process: subprocess.Popen[str], work_dir: Path, step: int) -> bool:
    """Wait until a step is logged; False when the run ends before."""
    while _logged(work_dir) < step:
        if process.poll() is not None:
            return False
        time.sleep(0.01)
    return True


def _logged(work_dir: Path) -> int:
    """The last step that was logged, -1 for none."""
    log = work_dir / "pretrain.run" / "log.jsonl"
    lines = log.read_text().split("\n")[:-1] if log.is_file() else []
    return int(json.loads(lines[-1])["step"]) if lines else -1


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def table(result: Result) -> Table:
    """Kills survived, and what they cost."""
    settings, metrics = result.parts["kills"]["settings"], result.metrics
    rows = [
        ["kills of a rank survived", f"{metrics['rank_kills_survived']:.0f}"],
        ["largest difference of a loss to the undisturbed run", f"{metrics['resume_loss_max_abs_diff']:g}"],
        [
            "runs with weights identical to the undisturbed run",
            f"{metrics['runs_with_identical_weights']:.0f} of {len(settings['seeds'])}",
        ],
        ["median time from the kill to a later step", f"{metrics['recovery_s_median']:.1f} s"],
    ]
    return Table(["", ""], rows, "", ("kills",))
