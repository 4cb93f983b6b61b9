"""``hnet evaluate``: check a planner in simulation, or a checkpoint on recordings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from cli.models import MODEL_HELP, chosen_checkpoint, trained_task
from hnet_vjepa.errors import UserError


def evaluate(
    task: Annotated[
        str | None,
        typer.Option(
            help="Which simulated robot; 'hnet sims list' shows them. By default the one that the model was trained "
            "for, and fetch-reach with --url."
        ),
    ] = None,
    url: Annotated[str | None, typer.Option(help="A running planner service, as the robot would use it.")] = None,
    checkpoint: Annotated[Path | None, typer.Option(help="Or a checkpoint, planned with in this process.")] = None,
    model: Annotated[str | None, typer.Option(help=MODEL_HELP)] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="Score --checkpoint on the held-out episodes of this data set instead; no simulation."),
    ] = None,
    episodes: Annotated[
        int, typer.Option(help="Pairs of a start and a goal; 100 give an interval of +-10 points.")
    ] = 100,
    seed: Annotated[int, typer.Option(help="The same seed gives the same pairs to every model.")] = 0,
    split: Annotated[
        Literal["dev", "test"], typer.Option(help="Pairs to tune on, or pairs to report; they are disjoint.")
    ] = "test",
    goal: Annotated[
        Literal["image", "text", "label"], typer.Option(help="Kind of goal that the planner is given.")
    ] = "image",
    distance: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Take goals from episodes of the data policy, this many steps of the environment after the start "
            "(25 is usual in the literature). Without it, the task's own goals.",
        ),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Actions per episode; by default the task's own number, with --distance twice as many steps as that.",
        ),
    ] = None,
    vary: Annotated[
        list[str] | None,
        typer.Option(
            help="Play the same pairs again under one factor at rising strengths: light, camera, colours, distractors, "
            "friction, or all. May be repeated; each takes about as long as four evaluations."
        ),
    ] = None,
    no_manifest: Annotated[
        bool,
        typer.Option("--no-manifest", help="Do not compare the pairs with the task's manifest."),
    ] = False,
    deadline_ms: Annotated[
        float | None, typer.Option(min=1, help="Take the best plan found after this many milliseconds.")
    ] = None,
    token: Annotated[
        str | None, typer.Option(envvar="HNET_TOKEN", help="The service's token, if it needs one.")
    ] = None,
    training: Annotated[
        Path | None,
        typer.Option(help="A --work-dir of 'hnet train': the report then also shows how the model was trained."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", help="Change a search setting of the checkpoint: --set plan.candidates=16. May be repeated."
        ),
    ] = None,
    rerun: Annotated[
        Path | None,
        typer.Option(
            help="Also write the episodes with frames as a Rerun recording, out.rrd (needs the extra 'rerun')."
        ),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Directory for result.json, table.txt, rollout.gif and report.html.")
    ] = Path("outputs/evaluation"),
) -> None:
    """Evaluate a planner in simulation, with random actions as the floor and ceilings on the same goals.

    Prints success ever, at the end and held over the last three actions with 95 % intervals, the rank correlation of
    energy and true distance, and the plan latency; writes a report with videos. The ceilings are a scripted controller
    and, with --distance, the recorded actions themselves.

    Examples:

    hnet evaluate --checkpoint outputs/action --episodes 100

    hnet evaluate --model fetch-reach                            # a shipped model

    hnet evaluate --checkpoint outputs/action --distance 25      # goals 25 steps away, 50 steps to get there

    hnet evaluate --checkpoint outputs/action --vary light --vary camera

    hnet evaluate --checkpoint outputs/action --data data/mine   # a robot without a simulator
    """
    from hnet_vjepa.planning.overrides import plan_settings
    from sims.core.registry import get_task
    from sims.evaluation.robustness import chosen_factors
    from sims.evaluation.run import EvaluationRequest, run_evaluation
    from sims.evaluation.sources import CheckpointSource, ServiceSource, open_planner
    from sims.reporting.rerun_recording import check_rerun
    from sims.reporting.training import read_run
    from sims.reporting.write import write_report

    _check_combination(url, checkpoint, model, data, rerun, set_)
    changes = plan_settings(set_ or ())
    path = chosen_checkpoint(checkpoint, model, or_url=data is None) if url is None else None
    if data is not None and path is not None:
        _score_recordings(data, path, out)
        return
    if rerun is not None:
        check_rerun()
    if task is None:
        task = "fetch-reach" if path is None else trained_task(path)
    chosen = get_task(task)
    request = EvaluationRequest(
        task=chosen,
        episodes=episodes,
        seed=seed,
        split=split,
        goal=goal,
        distance=distance,
        steps=steps,
        factors=chosen_factors(chosen, vary or ()),
        check_manifest=not no_manifest,
    )
    run = None if training is None else read_run(training)
    source: CheckpointSource | ServiceSource
    if path is not None:
        source = CheckpointSource(path, model or str(path), changes)
    else:
        assert url is not None
        source = ServiceSource(url, token or None)
    with open_planner(source, deadline_ms) as planner:
        evaluation = run_evaluation(request, planner, out, print)
    report = write_report(out, chosen, evaluation, run, rerun)
    if rerun is not None:
        print(f"recording: {rerun}")
    print(f"report: {report}")


def _check_combination(
    url: str | None,
    checkpoint: Path | None,
    model: str | None,
    data: Path | None,
    rerun: Path | None,
    set_: list[str] | None,
) -> None:
    """Raise UserError when options are given that exclude each other."""
    if data is not None and url is not None:
        raise UserError("--data scores a model on recordings; give --checkpoint or --model, not --url")
    if url is not None and (checkpoint is not None or model is not None):
        raise UserError("give only one of --url, --checkpoint and --model")
    if rerun is not None and data is not None:
        raise UserError("--rerun shows episodes in simulation; --data has none")
    if set_ and url is not None:
        raise UserError("--set changes the search of a checkpoint; with --url the service decides how to search")
    if set_ and data is not None:
        raise UserError("--set changes the search in simulation; --data does not search")


def _score_recordings(data: Path, checkpoint: Path, out: Path) -> None:
    """Score a checkpoint on held-out recordings; print the table and write it with result.json."""
    from hnet_vjepa.checkpoint import load_checkpoint
    from hnet_vjepa.utils.files import write_bytes_atomic, write_json_atomic
    from sims.evaluation import recorded

    loaded = load_checkpoint(checkpoint)
    result = recorded.score(loaded, recorded.open_recordings(data, loaded))
    table = recorded.as_text(result)
    print(table)
    write_json_atomic(out / "result.json", recorded.to_json(result))
    write_bytes_atomic(out / "table.txt", f"{table}\n".encode())
