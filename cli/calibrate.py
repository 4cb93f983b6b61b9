"""``hnet calibrate``: measure what a checkpoint's energies are worth, so that its plans come with a probability."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer


def calibrate(
    checkpoint: Annotated[Path, typer.Option(help="A checkpoint that plans; its manifest receives the probability.")],
    task: Annotated[
        str | None,
        typer.Option(help="Which simulated robot; 'hnet sims list' shows them. By default the one it was trained for."),
    ] = None,
    rollouts: Annotated[int, typer.Option(min=20, help="Dev pairs that are played.")] = 300,
    tolerance: Annotated[
        float | None, typer.Option(help="What counts as reached, in the task's unit; by default its first criterion.")
    ] = None,
) -> None:
    """Let a checkpoint's plans say how likely they are to succeed.

    Plays dev pairs in simulation, compares what plans promised with what came of them, and writes the fitted curve
    into the checkpoint; served plans then carry 'success_probability'. The weights stay as they are.

    Example: hnet calibrate --checkpoint outputs/demo/training/action
    """
    from cli.models import trained_task
    from hnet_vjepa.calibration.success import brier_skill, calibration_error, fit
    from hnet_vjepa.checkpoint import amend_manifest
    from hnet_vjepa.planning.planner import load_planner
    from sims.core.registry import get_task
    from sims.evaluation.calibrate import play_plans
    from sims.evaluation.pairs import make_pairs
    from sims.evaluation.policies import check_card

    chosen = get_task(task or trained_task(checkpoint))
    planner = load_planner(checkpoint)
    check_card(chosen, planner.card, "image")
    near = tolerance if tolerance is not None else chosen.tolerances[0]
    with contextlib.closing(chosen.open()) as simulation:
        pairs = make_pairs(chosen, simulation, "dev", 0, rollouts, "image")
        seen = play_plans(chosen, simulation, planner, pairs)
    reached = seen.distances <= near
    curve = fit(seen.features, reached, chosen.name, near, chosen.unit, planner.card.search.horizon)
    said = seen.probabilities(curve)
    amend_manifest(checkpoint, success=curve)
    print(
        f"{rollouts} rollouts, {100 * reached.mean():.0f} % within {near:g} {chosen.unit}: expected calibration error "
        f"{calibration_error(said, reached):.3f}, Brier skill {brier_skill(said, reached):.2f} (on the rollouts that "
        f"it was fitted to)\n{checkpoint}: plans now carry a probability"
    )
