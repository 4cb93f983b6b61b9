"""``hnet diagnose``: why a planner fails at a task."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Annotated

import typer

from cli.models import MODEL_HELP, chosen_checkpoint, trained_task


def diagnose(
    checkpoint: Annotated[
        Path | None, typer.Option(help="A checkpoint that plans; the phase 'action' makes one.")
    ] = None,
    model: Annotated[str | None, typer.Option(help=MODEL_HELP)] = None,
    task: Annotated[
        str | None,
        typer.Option(help="Which simulated robot; 'hnet sims list' shows them. By default the one it was trained for."),
    ] = None,
    pairs: Annotated[int, typer.Option(min=1, help="Starts and goals at which the search is examined.")] = 20,
    candidates: Annotated[
        int, typer.Option(min=2, help="Action sequences per pair that are executed in the simulation.")
    ] = 64,
    episodes: Annotated[
        int, typer.Option(min=4, help="Fresh episodes for the linear probe and the rollouts; a quarter is held out.")
    ] = 40,
    seed: Annotated[int, typer.Option(help="Of the dev pairs and episodes; test pairs are never used.")] = 0,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Change a search setting of the checkpoint: --set plan.candidates=16. May be repeated."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Directory for diagnosis.json, diagnosis.txt and diagnosis.png.")] = Path(
        "outputs/diagnosis"
    ),
) -> None:
    """Find the weakest link between picture and action, by measuring each against the simulator's true state.

    (a) representation: is the true state linearly decodable from the planning state? (b) dynamics: how far do rollouts
    follow it? (c) policy prior and search: do the first candidates contain progress towards the goal, and does the plan
    make it? (d) energy: does it rank outcomes by what is left of the way? Progress is counted in steps that the
    scripted controller still needs, or by straight distance where it does not solve the pairs. Uses dev seeds only, so
    that results on the test pairs stay valid.

    Example: hnet diagnose --task fetch-reach --checkpoint outputs/demo/training/action
    """
    from hnet_vjepa.checkpoint import load_checkpoint
    from hnet_vjepa.planning.inspect import Inspector
    from hnet_vjepa.planning.overrides import plan_settings, with_plan
    from hnet_vjepa.utils.files import disk_errors, write_bytes_atomic, write_json_atomic
    from sims.core.registry import get_task
    from sims.diagnosis import text
    from sims.diagnosis.measure import diagnose as measure
    from sims.evaluation.pairs import refuse_evaluation_data
    from sims.evaluation.policies import check_card
    from sims.evaluation.sources import changed_settings
    from sims.reporting import plots

    changes = plan_settings(set_ or ())
    source = chosen_checkpoint(checkpoint, model)
    chosen = get_task(task or trained_task(source))
    loaded = with_plan(load_checkpoint(source), changes)
    for phase in loaded.manifest.phases:
        refuse_evaluation_data(phase.data_settings, f"{source}, phase {phase.phase},")
    inspector = Inspector(loaded)
    check_card(chosen, inspector.planner.card, "image")
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(chosen.open()) as simulation:
        found = measure(chosen, simulation, inspector, seed, episodes, pairs, candidates)
    conditions = {"planner": model or str(source), "weights": loaded.fingerprint, **changed_settings(changes)}
    table = "\n".join([text.as_text(found), *(f"{k}: {v}" for k, v in changed_settings(changes).items())])
    print(table)
    write_json_atomic(out / "diagnosis.json", {**text.to_json(found), "conditions": conditions})
    write_bytes_atomic(out / "diagnosis.txt", f"{table}\n".encode())
    write_bytes_atomic(out / "diagnosis.png", plots.diagnosis(found, text.OUTCOMES))
    print(f"plot: {out / 'diagnosis.png'}")
