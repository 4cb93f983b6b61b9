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
        int, typer.Option(min=2, help="Action sequences per pair that are done in the true simulation.")
    ] = 64,
    episodes: Annotated[
        int, typer.Option(min=4, help="Fresh episodes that the state is read out of; a quarter is held out.")
    ] = 40,
    seed: Annotated[int, typer.Option(help="Of the dev pairs and episodes; test pairs are never touched.")] = 0,
    out: Annotated[Path, typer.Option(help="Directory for diagnosis.json, diagnosis.txt and diagnosis.png.")] = Path(
        "outputs/diagnosis"
    ),
) -> None:
    """Find the weakest link between picture and action, by measuring each against the simulator's truth.

    (a) whether the true state can be read from the planning state, (b) how far imagination follows it, (c) whether
    what the search tries first contains a way to the goal and whether the plan takes it, (d) whether the energy ranks
    outcomes by true distance. Uses dev seeds only, so test results stay honest.

    Example: hnet diagnose --task fetch-reach --checkpoint outputs/demo/training/action
    """
    from hnet_vjepa.checkpoint import load_checkpoint
    from hnet_vjepa.planning.inspect import Inspector
    from hnet_vjepa.utils.files import disk_errors, write_bytes_atomic, write_json_atomic
    from sims.core.registry import get_task
    from sims.diagnosis import diagnose as diagnosing
    from sims.evaluation.pairs import refuse_evaluation_data
    from sims.evaluation.policies import check_card
    from sims.reporting import plots

    source = chosen_checkpoint(checkpoint, model)
    chosen = get_task(task or trained_task(source))
    loaded = load_checkpoint(source)
    for phase in loaded.manifest.phases:
        refuse_evaluation_data(phase.data_settings, f"{source}, phase {phase.phase},")
    inspector = Inspector(loaded)
    check_card(chosen, inspector.planner.card, "image")
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(chosen.open()) as simulation:
        found = diagnosing.diagnose(chosen, simulation, inspector, seed, episodes, pairs, candidates)
    text = diagnosing.as_text(found)
    print(text)
    write_json_atomic(out / "diagnosis.json", diagnosing.to_json(found))
    write_bytes_atomic(out / "diagnosis.txt", f"{text}\n".encode())
    write_bytes_atomic(out / "diagnosis.png", plots.diagnosis(found, diagnosing.DISTANCES))
    print(f"plot: {out / 'diagnosis.png'}")
