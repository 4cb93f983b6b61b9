"""A training run as sections of a report: metrics beside their baselines, loss curves, chunks."""

from __future__ import annotations

import contextlib
import html
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from hnet_vjepa.checkpoint import load_checkpoint
from hnet_vjepa.config import PHASES
from hnet_vjepa.errors import UserError
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.viz.chunk_sheet import chunk_sheet
from sims.core.seeds import generator
from sims.core.task import Simulation, Task
from sims.evaluation.pairs import Pair
from sims.reporting.baselines import compared
from sims.reporting.report import Section

CHUNKS = "Chunks of one rollout"

Line = dict[str, float]


@dataclass(frozen=True)
class TrainingRun:
    """A run of ``hnet train`` with at least one finished phase."""

    work_dir: Path
    phases: dict[str, Any]  # metrics and seconds of each finished phase, in the order of training
    model: HNetVJEPA  # after the last of them


def read_run(work_dir: Path) -> TrainingRun:
    """Read the run in ``work_dir`` (what hnet train made).

    Raises UserError when there is none, no phase of it is finished, or a file is damaged.
    """
    file = work_dir / "pipeline.json"
    if not file.is_file():
        raise UserError(f"{work_dir} holds no training run (no pipeline.json); name the --work-dir of 'hnet train'")
    try:
        finished: dict[str, Any] = json.loads(file.read_text())["phases"]
        phases = {
            name: {key: finished[name][key] for key in ("metrics", "seconds")}
            for name in sorted(finished, key=PHASES.index)
        }
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}); delete it and train again") from error
    if not phases:
        raise UserError(f"no phase of the run in {work_dir} is finished; give the command of 'hnet train' again")
    return TrainingRun(work_dir, phases, load_checkpoint(work_dir / list(phases)[-1]).model)


def training_sections(run: TrainingRun, task: Task, simulation: Simulation, pair: Pair) -> list[Section]:
    """Sections about a training run. The chunks are those of a scripted episode towards ``pair``'s goal."""
    sections = [Section("Training: what each phase learnt, on held-out episodes", _table(run.phases))]
    logs = {name: lines for name in run.phases if (lines := _log(run.work_dir / f"{name}.run" / "log.jsonl"))}
    if logs:
        sections.append(Section("Training: losses", _curves(logs)))
    errors = run.phases.get("action", {}).get("metrics", {})
    if "open_loop/1" in errors:
        sections.append(Section("Training: open-loop error over the steps", _open_loop(errors)))
    sections.append(Section(CHUNKS, chunk_sheet(run.model, _way_frames(task, simulation, pair))))
    return sections


def _table(phases: dict[str, Any]) -> str:
    rows = []
    for row in compared({name: phase["metrics"] for name, phase in phases.items()}):
        cells = (row.phase, row.what, row.value, row.baseline, f"{phases[row.phase]['seconds']:.0f} s")
        rows.append("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in cells) + "</tr>")
    metrics = phases.get("probe", {}).get("metrics", {})
    labels = [key.removeprefix("ap/") for key in metrics if key.startswith("ap/")]
    if labels:
        each = ", ".join(
            f"{label} {metrics[f'ap/{label}']:.2f} ({metrics[f'frequency/{label}']:.2f})" for label in labels
        )
        rows.append(
            f"<tr><td>probe</td><td colspan=4>average precision per label (frequency): {html.escape(each)}</td></tr>"
        )
    head = "".join(f"<th>{h}</th>" for h in ("phase", "metric", "value", "baseline", "training"))
    return f"<div class='scroll'><table class='words'><tr>{head}</tr>{''.join(rows)}</table></div>"


def _log(path: Path) -> list[Line]:
    """The logged steps of a phase, without the partial line that a killed run may leave."""
    lines = []
    for text in path.read_text(errors="replace").splitlines() if path.is_file() else ():
        with contextlib.suppress(ValueError):
            line = json.loads(text)
            if isinstance(line, dict) and "step" in line:
                lines.append(line)
    return lines


def _curves(logs: dict[str, list[Line]]) -> bytes:
    rows = -(-len(logs) // 2)
    figure, axes = plt.subplots(rows, 2, figsize=(9, 3 * rows), squeeze=False)
    for axis, (name, lines) in zip(axes.flat, logs.items(), strict=False):
        for term in (key for key in lines[0] if key not in ("step", "learning_rate", "grad_norm")):
            drawn = [(line["step"], max(line[term], 1e-6)) for line in lines if term in line]
            axis.plot(*zip(*drawn, strict=True), label=term, linewidth=1.2)
        axis.set_title(name, fontsize=10)
        axis.set_yscale("log")
        axis.tick_params(labelsize=8)
        axis.legend(fontsize=7, frameon=False)
        axis.set_xlabel("step", fontsize=8)
    for axis in axes.flat[len(logs) :]:
        axis.axis("off")
    return _png(figure)


def _open_loop(metrics: dict[str, float]) -> bytes:
    in_cm = "open_loop_cm/1" in metrics
    model, still = ("open_loop_cm", "nothing_moves_cm") if in_cm else ("open_loop", "nothing_moves")
    steps = [h for h in range(1, 100) if f"{model}/{h}" in metrics]
    figure, axis = plt.subplots(figsize=(5, 2.8))
    axis.plot(steps, [metrics[f"{model}/{h}"] for h in steps], marker="o", label="rollout")
    axis.plot(steps, [metrics[f"{still}/{h}"] for h in steps], marker="s", label="nothing moves")
    axis.set_xlabel("steps ahead")
    axis.set_ylabel("median error of the position [cm]" if in_cm else "mean error of the planning state")
    axis.set_ylim(bottom=0)
    axis.legend(frameon=False)
    return _png(figure)


def _png(figure: Any) -> bytes:
    stream = io.BytesIO()
    figure.tight_layout()
    figure.savefig(stream, dpi=130)
    plt.close(figure)
    return stream.getvalue()


def _way_frames(task: Task, simulation: Simulation, pair: Pair) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Every other frame of the scripted controller on its way to the goal, or of the data policy; five in all."""
    simulation.restore(pair.start)
    control = task.data_policy(generator(pair.seed)) if task.controller is None else task.controller(pair.goal_state)
    frames = [simulation.frame()]
    for _ in range(8):
        simulation.step(control(simulation.state()))
        frames.append(simulation.frame())
    return np.stack(frames[::2])
