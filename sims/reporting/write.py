"""The files that show an evaluation to people: report.html, rollout.gif, chunks.png and a Rerun recording."""

from __future__ import annotations

import contextlib
from pathlib import Path

from hnet_vjepa.utils.files import write_bytes_atomic
from sims.core.task import Task
from sims.evaluation.run import Evaluation
from sims.reporting.report import render_report, rollout_gif
from sims.reporting.rerun_recording import write_rerun
from sims.reporting.training import CHUNKS, TrainingRun, training_sections


def write_report(
    out: Path, task: Task, evaluation: Evaluation, training: TrainingRun | None = None, rerun: Path | None = None
) -> Path:
    """Write the report of an evaluation into ``out`` and return the path of report.html.

    ``training``: a training run to show as well. ``rerun``: where to write a Rerun recording, if anywhere.
    """
    result, pairs, extra = evaluation.result, evaluation.pairs, []
    if training is not None:
        with contextlib.closing(task.open()) as simulation:
            extra = training_sections(training, task, simulation, pairs[0])
    if rerun is not None:
        write_rerun(rerun, result, pairs)
    write_bytes_atomic(out / "rollout.gif", rollout_gif(result.main.rollouts[0], pairs, task.unit))
    for section in extra:
        if section.title == CHUNKS and isinstance(section.body, bytes):
            write_bytes_atomic(out / "chunks.png", section.body)
    report = out / "report.html"
    write_bytes_atomic(report, render_report(task, result, pairs, extra, evaluation.sweeps))
    return report
