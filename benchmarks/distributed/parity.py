"""Equal losses: every engine against one process, step by step, in every stage."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.distributed.runs import ALONE, ENGINES, STAGES, Engine, episodes, finish, losses, small, start
from benchmarks.part import Part
from benchmarks.table import Result, Table

STEPS = 20
PHASES = "pretrain,language,probe,action"


def measure(work: Path) -> Part:
    """Train all stages on every engine and compare the losses."""
    data = ["--data", str(episodes(work)), "--phases", PHASES, "--set", "encoder_adaptation.inverse=1.0"]
    words = [*data, *small(STEPS, 100, accumulate=2)]

    def run(engine: Engine) -> dict[str, list[float]]:
        work_dir = work / engine.name.replace(" ", "_").replace(",", "")
        finish(start(engine, words, work_dir), work_dir)
        return {stage: losses(work_dir, stage) for stage in STAGES}

    alone = run(ALONE)
    found = {engine.name: run(engine) for engine in ENGINES}
    worst = {name: {s: _difference(alone[s], of[s]) for s in STAGES} for name, of in found.items()}
    ddp, zero = found["DDP, 2 ranks"], found["ZeRO-2, 2 ranks"]
    metrics = {
        "parity_max_rel_diff": max(max(stages.values()) for stages in worst.values()),
        "zero2_vs_ddp_loss_max_rel_diff": max(_difference(ddp[s], zero[s]) for s in STAGES),
        "context_parallel_loss_max_rel_diff": max(worst["context of 2 ranks"].values()),
    }
    settings = {"steps": STEPS, "accumulate": 2, "precision": "fp32", "preset": "two_room, shortened"}
    return Part(settings, metrics, {"worst": worst})


def _difference(one: Sequence[float], other: Sequence[float]) -> float:
    """The largest relative difference."""
    return max(abs(a - b) / abs(a) for a, b in zip(one, other, strict=True))


def table(result: Result) -> Table:
    """The largest relative difference of a loss to one process, by engine and stage."""
    worst = result.parts["parity"]["worst"]
    rows = [[name, *(f"{stages[stage]:.1e}" for stage in STAGES)] for name, stages in worst.items()]
    note = f"\nThe largest relative difference of the loss to that of one process over {STEPS} steps.\n"
    return Table(["engine", *(stage.replace("_", " ") for stage in STAGES)], rows, note, ("parity",))
