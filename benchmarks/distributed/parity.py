"""Equal losses: every engine against one process, step by step, in every stage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.distributed.runs import ALONE, ENGINES, STAGES, Engine, episodes, finish, losses, small, start
from benchmarks.part import Part
from benchmarks.table import Result, Table

STEPS = 20


@dataclass(frozen=True)
class Trial:
    """One stage alone: its phase, the phase of whose checkpoint it starts, and the stages that are trained.

    Every engine starts from the same checkpoint: after several stages, rounding that AdamW enlarged would be compared.
    """

    stage: str
    phase: str
    after: str | None
    stages: tuple[str, ...]
    shortened: tuple[str, ...] = ()  # stages of the phase that are not looked at: one step each


TRIALS = (
    Trial("pretrain", "pretrain", None, ("pretrain",)),
    Trial("language", "language", "pretrain", ("language",)),
    Trial("probe", "probe", "language", ("probe",)),
    Trial("encoder_adaptation", "action", "probe", ("encoder_adaptation", "action", "heads"), ("action", "heads")),
    Trial("action", "action", "probe", ("action", "heads"), ("heads",)),
    Trial("heads", "action", "probe", ("action", "heads"), ("action",)),
)


def measure(work: Path) -> Part:
    """Train every stage on every engine and compare the losses."""
    data = ["--data", str(episodes(work))]
    checkpoints: dict[str, Path] = {}

    def run(engine: Engine, trial: Trial) -> list[float]:
        work_dir = work / f"{engine.name.replace(' ', '_').replace(',', '')}-{trial.stage}"
        words = [*data, "--phases", trial.phase, *small(trial.stages, STEPS, 100, accumulate=2)]
        words += [word for stage in trial.shortened for word in ("--set", f"{stage}.steps=1")]
        words += [] if trial.after is None else ["--init-from", str(checkpoints[trial.after])]
        finish(start(engine, words, work_dir), work_dir)
        if engine is ALONE and trial.stage == trial.phase:
            checkpoints[trial.stage] = work_dir / trial.stage
        return losses(work_dir, trial.stage)

    alone = {trial.stage: run(ALONE, trial) for trial in TRIALS}
    found = {engine.name: {trial.stage: run(engine, trial) for trial in TRIALS} for engine in ENGINES}
    worst = {name: {stage: _difference(alone[stage], of[stage]) for stage in alone} for name, of in found.items()}
    ddp, zero = found["DDP, 2 ranks"], found["ZeRO-2, 2 ranks"]
    metrics = {
        "parity_max_rel_diff": max(max(stages.values()) for stages in worst.values()),
        "zero2_vs_ddp_loss_max_rel_diff": max(_difference(ddp[stage], zero[stage]) for stage in ddp),
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
