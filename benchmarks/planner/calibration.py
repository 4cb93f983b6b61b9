"""Whether the probability that comes with a plan is right: promised against achieved on test pairs."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.part import Part
from benchmarks.planner.instrumented import threads
from hnet_vjepa.calibration.success import brier_skill, calibration_error, reliability
from hnet_vjepa.checkpoint import read_manifest
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.planner import load_planner
from hnet_vjepa.utils.files import write_bytes_atomic
from sims.core.task import Task
from sims.evaluation.calibrate import play_plans
from sims.evaluation.pairs import make_pairs
from sims.evaluation.policies import check_card
from sims.reporting.plots import OTHERS

ROLLOUTS = 1000


def calibration(task: Task, checkpoint: Path, plot: Path, rollouts: int = ROLLOUTS) -> Part:
    """Play test pairs and hold the probabilities against what happened. They were fitted to dev pairs.

    Raises UserError when the checkpoint was not calibrated.
    """
    manifest = read_manifest(checkpoint)
    curve = manifest.success
    if curve is None:
        raise UserError(f"{checkpoint} says no probabilities yet; run hnet calibrate --checkpoint {checkpoint}")
    with threads(1), contextlib.closing(task.open()) as simulation:
        planner = load_planner(checkpoint)
        check_card(task, planner.card, "image")
        pairs = make_pairs(task, simulation, "test", 0, rollouts, "image")
        seen = play_plans(task, simulation, planner, pairs)
    said, reached = seen.probabilities(curve), seen.distances <= curve.tolerance
    rows = reliability(said, reached)
    write_bytes_atomic(plot, draw(rows))
    return Part(
        settings={
            "weights": manifest.fingerprint,
            "task": task.name,
            "split": "test",
            "fitted_to": f"{curve.rollouts} dev rollouts",
            "tolerance": curve.tolerance,
            "unit": curve.unit,
            "actions": curve.horizon,
        },
        metrics={
            "brier_skill": brier_skill(said, reached),
            "ece": calibration_error(said, reached),
            "calibration_rollouts": len(reached),
            "calibration_failed_share": float(1 - reached.mean()),
        },
        behind={"reliability": [{"rollouts": n, "said": mean, "came_true": true} for n, mean, true in rows]},
    )


def draw(rows: list[tuple[int, float, float]]) -> bytes:
    """The reliability curve as a PNG: on the diagonal, what was promised came true as often as promised."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    counts, said, came = np.array(rows, float).T
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    axes.errorbar(said, came, 1.96 * np.sqrt(came * (1 - came) / counts), color=OTHERS[0], marker="o", capsize=3)
    for count, x, y in rows:
        axes.annotate(f"{count:.0f}", (x, y), textcoords="offset points", xytext=(6, -10), fontsize=7, color="0.4")
    axes.set(
        xlabel="probability that came with the plan", ylabel="share that reached the goal", xlim=(0, 1), ylim=(0, 1)
    )
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=110)
    return target.getvalue()
