"""The training run as sections of a report: what each phase learnt beside its baseline, loss curves, chunks."""

from __future__ import annotations

import html
import io
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np

from hnet_vjepa.checkpoint import load_checkpoint
from hnet_vjepa.errors import UserError
from hnet_vjepa.visualise import chunk_sheet
from sims.protocol import Pair
from sims.report import Section
from sims.task import Simulation, Task

BASELINES = {
    "readout_cm": ("readout_cm_mean_baseline", "always the mean"),
    "state_readout_cm": ("state_readout_cm_mean_baseline", "always the mean"),
    "effective_rank": ("dimensions", "dimensions"),
    "retrieval_accuracy": ("retrieval_chance", "chance"),
    "left_right_accuracy": (None, "0.5 is chance"),
    "mean_ap": ("mean_frequency", "frequency of the labels"),
    "open_loop_ratio": (None, "1 is 'nothing moves'"),
}


def training_sections(work_dir: Path, task: Task, simulation: Simulation, pair: Pair) -> list[Section]:
    """Sections about the run in ``work_dir`` (what hnet train made). The chunks are shown on a way to ``pair``'s goal.

    Raises UserError when there is no finished run.
    """
    file = work_dir / "pipeline.json"
    if not file.is_file():
        raise UserError(f"{work_dir} holds no training run (no pipeline.json); name the --work-dir of 'hnet train'")
    phases: dict[str, Any] = json.loads(file.read_text())["phases"]
    sections = [Section("Training: what each phase learnt, on held-out episodes", _table(phases))]
    curves = [(name, work_dir / f"{name}.run" / "log.jsonl") for name in phases]
    sections.append(Section("Training: losses", _curves([(n, p) for n, p in curves if p.is_file()])))
    errors = phases.get("action", {}).get("metrics", {})
    if errors:
        sections.append(Section("Training: imagining further and further ahead", _open_loop(errors)))
    last = list(phases)[-1]
    model = load_checkpoint(work_dir / last).model
    sections.append(Section("Chunks of one rollout", chunk_sheet(model, _way(task, simulation, pair))))
    return sections


def _table(phases: dict[str, Any]) -> str:
    rows = []
    for name, phase in phases.items():
        for key, value in phase["metrics"].items():
            if key in BASELINES:
                baseline, label = BASELINES[key]
                shown = f"{phase['metrics'][baseline]:.3g} ({label})" if baseline else label
                cells = (name, key.replace("_", " "), f"{value:.3g}", shown, f"{phase['seconds']:.0f} s")
                rows.append("<tr>" + "".join(f"<td>{html.escape(c)}</td>" for c in cells) + "</tr>")
        labels = [k.removeprefix("ap/") for k in phase["metrics"] if k.startswith("ap/")]
        if labels and name == "probe":
            each = ", ".join(
                f"{label} {phase['metrics'][f'ap/{label}']:.2f} ({phase['metrics'][f'frequency/{label}']:.2f})"
                for label in labels
            )
            rows.append(
                f"<tr><td>{name}</td><td colspan=4 style='text-align:left;white-space:normal'>average precision "
                f"per label (frequency): {html.escape(each)}</td></tr>"
            )
    head = "".join(f"<th>{h}</th>" for h in ("phase", "metric", "value", "baseline", "training"))
    return f"<div class='scroll'><table><tr>{head}</tr>{''.join(rows)}</table></div>"


def _curves(logs: list[tuple[str, Path]]) -> bytes:
    figure, axes = plt.subplots(1, max(1, len(logs)), figsize=(3.2 * max(1, len(logs)), 2.8), squeeze=False)
    for axis, (name, path) in zip(axes[0], logs, strict=False):
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        terms = [key for key in lines[0] if key not in ("step", "learning_rate", "grad_norm")]
        for term in terms:
            axis.plot(
                [line["step"] for line in lines], [max(line[term], 1e-6) for line in lines], label=term, linewidth=1.2
            )
        axis.set_title(name, fontsize=10)
        axis.set_yscale("log")
        axis.tick_params(labelsize=7)
        axis.legend(fontsize=6, frameon=False)
        axis.set_xlabel("step", fontsize=8)
    return _png(figure)


def _open_loop(metrics: dict[str, float]) -> bytes:
    in_cm = "open_loop_cm/1" in metrics
    model, still = ("open_loop_cm", "nothing_moves_cm") if in_cm else ("open_loop", "nothing_moves")
    steps = [h for h in range(1, 100) if f"{model}/{h}" in metrics]
    figure, axis = plt.subplots(figsize=(5, 2.8))
    axis.plot(steps, [metrics[f"{model}/{h}"] for h in steps], marker="o", label="imagined")
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


def _way(task: Task, simulation: Simulation, pair: Pair) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Every other frame of the scripted controller's way to the goal, five in all."""
    simulation.restore(pair.start)
    control = task.controller(pair.goal_state)
    frames = [simulation.frame()]
    for _ in range(8):
        simulation.step(control(simulation.state()))
        frames.append(simulation.frame())
    return np.stack(frames[::2])
