"""``hnet calibrate``: fit the probability of success of a checkpoint's plans on simulated rollouts."""

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
    rollouts: Annotated[int, typer.Option(min=20, help="Number of rollouts, one per dev pair.")] = 300,
    tolerance: Annotated[
        float | None, typer.Option(help="What counts as reached, in the task's unit; by default its first criterion.")
    ] = None,
) -> None:
    """Fit the probability that a checkpoint's plans succeed.

    Rolls out plans on dev pairs in simulation, fits success as a function of the plans' energies, and writes the curve
    into the checkpoint's manifest; served plans then carry 'success_probability'. The weights are not changed.

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
        outcomes = play_plans(chosen, simulation, planner, pairs)
    reached = outcomes.distances <= near
    curve = fit(outcomes.features, reached, chosen.name, near, chosen.unit, planner.card.search.horizon)
    predicted = outcomes.probabilities(curve)
    amend_manifest(checkpoint, success=curve)
    print(
        f"{rollouts} rollouts, {100 * reached.mean():.0f} % within {near:g} {chosen.unit}; on these, which it fits: "
        f"expected calibration error {calibration_error(predicted, reached):.3f}, "
        f"Brier skill {brier_skill(predicted, reached):.2f}\n{checkpoint}: plans now carry a probability"
    )
