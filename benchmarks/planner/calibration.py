"""Calibration of the predicted success probability: predicted against observed success on test pairs."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from benchmarks.part import Part
from benchmarks.planner.instrumented import threads
from benchmarks.table import Result, Table
from hnet_vjepa.calibration.success import brier_skill, calibration_error, reliability
from hnet_vjepa.checkpoint import read_manifest
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.planner import load_planner
from hnet_vjepa.utils.files import write_bytes_atomic
from sims.core.task import Task
from sims.evaluation.calibrate import play_plans
from sims.evaluation.pairs import make_pairs
from sims.evaluation.policies import check_card
from sims.evaluation.units import shown_in
from sims.reporting.plots import OTHERS

ROLLOUTS = 1000


def calibration(task: Task, checkpoint: Path, plot: Path, rollouts: int = ROLLOUTS) -> Part:
    """Play test pairs and compare the predicted probabilities, which were fitted to dev pairs, with the outcomes.

    Raises UserError when the checkpoint was not calibrated.
    """
    manifest = read_manifest(checkpoint)
    curve = manifest.success
    if curve is None:
        raise UserError(f"{checkpoint} predicts no success probabilities; run hnet calibrate --checkpoint {checkpoint}")
    with threads(1), contextlib.closing(task.open()) as simulation:
        planner = load_planner(checkpoint)
        check_card(task, planner.card, "image")
        pairs = make_pairs(task, simulation, "test", 0, rollouts, "image")
        seen = play_plans(task, simulation, planner, pairs)
    predicted, reached = seen.probabilities(curve), seen.distances <= curve.tolerance
    rows = reliability(predicted, reached)
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
            "brier_skill": brier_skill(predicted, reached),
            "ece": calibration_error(predicted, reached),
            "calibration_rollouts": len(reached),
            "calibration_failed_share": float(1 - reached.mean()),
        },
        behind={"reliability": [{"rollouts": n, "predicted": mean, "observed": share} for n, mean, share in rows]},
    )


def draw(rows: list[tuple[int, float, float]]) -> bytes:
    """The reliability diagram as a PNG: predicted probability against observed share, with the diagonal."""
    figure = Figure(figsize=(4.6, 4.2), layout="constrained")
    axes = figure.subplots()
    counts, predicted, observed = np.array(rows, float).T
    axes.plot([0, 1], [0, 1], color="0.7", linewidth=1)
    spread = 1.96 * np.sqrt(observed * (1 - observed) / counts)
    axes.errorbar(predicted, observed, spread, color=OTHERS[0], marker="o", capsize=3)
    for count, x, y in rows:
        axes.annotate(f"{count:.0f}", (x, y), textcoords="offset points", xytext=(6, -10), fontsize=7, color="0.4")
    axes.set(
        xlabel="predicted probability of success",
        ylabel="share of plans that reached the goal",
        xlim=(0, 1),
        ylim=(0, 1),
    )
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=110)
    return target.getvalue()


def table(result: Result) -> Table:
    """Predicted probabilities in ten bins, beside the share of these plans that reached the goal."""
    part = result.parts["calibration"]
    settings = part["settings"]
    rows = [
        [str(row["rollouts"]), f"{100 * row['predicted']:.0f} %", f"{100 * row['observed']:.0f} %"]
        for row in part["reliability"]
    ]
    factor, unit = shown_in(settings["unit"])
    note = (
        f"{sum(row['rollouts'] for row in part['reliability'])} plans of {settings['actions']} actions on "
        f"{settings['split']} pairs of {settings['task']}, within {factor * settings['tolerance']:g} {unit}; the curve "
        f"was fitted to {settings['fitted_to']}."
    )
    return Table(["plans", "predicted probability, mean", "reached the goal"], rows, note, ("calibration",))
