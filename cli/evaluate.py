"""``hnet evaluate``: check a planner in simulation, or a checkpoint on recordings."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from cli.models import MODEL_HELP, chosen_checkpoint, trained_task
from hnet_vjepa.errors import UserError

if TYPE_CHECKING:
    from hnet_vjepa.planning.interface import ModelCard
    from sims.evaluation.policies import PlannerPolicy


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
        Literal["dev", "test"], typer.Option(help="Pairs to tune on, or pairs to report; they never meet.")
    ] = "test",
    goal: Annotated[
        Literal["image", "text", "label"], typer.Option(help="How the planner is told where to go.")
    ] = "image",
    distance: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Take goals from episodes of the data policy, this many steps of the environment after the start: "
            "25 is how the literature asks. Without it, the task's own goals.",
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
            help="Play the same pairs again with one thing at rising strengths: light, camera, colours, distractors, "
            "friction, or all. May be given several times; each takes about as long as four evaluations."
        ),
    ] = None,
    no_manifest: Annotated[
        bool,
        typer.Option("--no-manifest", help="Do not insist that the pairs are those written down for this task."),
    ] = False,
    deadline_ms: Annotated[
        float | None, typer.Option(min=1, help="Take the best plan found after this many milliseconds.")
    ] = None,
    token: Annotated[
        str | None, typer.Option(envvar="HNET_TOKEN", help="The service's token, if it asks for one.")
    ] = None,
    training: Annotated[
        Path | None,
        typer.Option(help="A --work-dir of 'hnet train': the report then also shows how the model was trained."),
    ] = None,
    rerun: Annotated[
        Path | None,
        typer.Option(help="Also write the filmed episodes as a Rerun recording, out.rrd (needs the extra 'rerun')."),
    ] = None,
    out: Annotated[
        Path, typer.Option(help="Directory for result.json, table.txt, rollout.gif and report.html.")
    ] = Path("outputs/evaluation"),
) -> None:
    """Let a planner reach goals in simulation, beside random actions and ceilings on the same goals.

    Prints success ever, at the end and held over the last three actions with 95 % intervals, whether the model's energy
    ranks states by true distance, and the plan latency; and writes a report with films. The ceilings are a scripted
    controller and, with --distance, the recorded actions themselves.

    Examples:

    hnet evaluate --checkpoint outputs/action --episodes 100

    hnet evaluate --model fetch-reach                            # one that came along

    hnet evaluate --checkpoint outputs/action --distance 25      # goals 25 steps away, 50 steps to get there

    hnet evaluate --checkpoint outputs/action --vary light --vary camera

    hnet evaluate --checkpoint outputs/action --data data/mine   # a robot without a simulator
    """
    from hnet_vjepa.utils.files import disk_errors, write_bytes_atomic, write_json_atomic
    from sims.core.registry import get_task
    from sims.evaluation import evaluate as evaluation
    from sims.evaluation.manifest import check_pairs
    from sims.evaluation.pairs import budget, make_pairs
    from sims.evaluation.policies import Policy, RandomPolicy, ReplayPolicy, ScriptedPolicy, check_card
    from sims.evaluation.robustness import chosen_factors, sweep, sweeps_as_text, sweeps_to_json
    from sims.reporting.report import render_report, rollout_film
    from sims.reporting.rerun_recording import check_rerun, write_rerun
    from sims.reporting.training import CHUNKS, read_run, training_sections

    if data is not None and url is not None:
        raise UserError("--data scores what a model expects of recordings; give --checkpoint or --model, not --url")
    if url is not None and (checkpoint is not None or model is not None):
        raise UserError("give only one of --url, --checkpoint and --model")
    source = chosen_checkpoint(checkpoint, model, or_url=data is None) if url is None else None
    if rerun is not None:
        if data is not None:
            raise UserError("--rerun shows episodes in simulation; --data has none")
        check_rerun()
    if data is not None and source is not None:
        _score_recordings(data, source, out)
        return
    if task is None:
        task = "fetch-reach" if source is None else trained_task(source)
    chosen = get_task(task)
    factors = chosen_factors(chosen, vary or ())
    run = read_run(training) if training is not None else None
    with _planner(url, token or None, source, model or str(source), deadline_ms) as (policy, card, conditions):
        check_card(chosen, card, goal)
        with disk_errors(out):
            out.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(chosen.open()) as simulation:
            pairs = make_pairs(chosen, simulation, split, seed, episodes, goal, distance)
            known = "not compared" if no_manifest else check_pairs(chosen, pairs, split, seed, goal, distance)
            random = RandomPolicy(chosen)
            policies: list[Policy] = [random, policy]
            policies += [] if distance is None else [ReplayPolicy(chosen)]
            result = evaluation.evaluate(
                chosen,
                simulation,
                [*policies, ScriptedPolicy(chosen)],
                pairs,
                split,
                seed,
                goal,
                {**conditions, "pairs": known},
                steps=budget(chosen, distance) if steps is None else steps,
                distance=distance,
            )
            # What was measured comes first: nothing that goes wrong with the rest may lose it.
            table = evaluation.as_text(result)
            print(table)
            write_json_atomic(out / "result.json", evaluation.to_json(result))
            write_bytes_atomic(out / "table.txt", f"{table}\n".encode())
            varied = [sweep(chosen, simulation, factor, policy, random, pairs, result) for factor in factors]
            if varied:
                table = f"{table}\n{sweeps_as_text(varied)}"
                print(sweeps_as_text(varied))
                write_json_atomic(
                    out / "result.json", {**evaluation.to_json(result), "variation": sweeps_to_json(varied)}
                )
                write_bytes_atomic(out / "table.txt", f"{table}\n".encode())
            extra = [] if run is None else training_sections(run, chosen, simulation, pairs[0])
    if rerun is not None:
        write_rerun(rerun, result, pairs)
        print(f"recording: {rerun}")
    film = rollout_film(result.method(policy.name).rollouts[0], pairs, chosen.unit)
    write_bytes_atomic(out / "rollout.gif", film)
    for section in extra:
        if section.title == CHUNKS and isinstance(section.body, bytes):
            write_bytes_atomic(out / "chunks.png", section.body)
    write_bytes_atomic(out / "report.html", render_report(chosen, result, pairs, extra, varied))
    print(f"report: {out / 'report.html'}")


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


@contextlib.contextmanager
def _planner(
    url: str | None, token: str | None, checkpoint: Path | None, name: str, deadline_ms: float | None
) -> Iterator[tuple[PlannerPolicy, ModelCard, dict[str, str]]]:
    """Open the planner at ``url``, or else of ``checkpoint``, which the report calls ``name``.

    Give the policy, what the model is, and what the report says of it.
    """
    from planner_service.client import PlanError, PlannerClient
    from sims.evaluation.pairs import refuse_evaluation_data
    from sims.evaluation.policies import local_planner, remote_planner

    deadline = {} if deadline_ms is None else {"deadline": f"{deadline_ms:g} ms"}
    if url is not None:
        with PlannerClient(url, token) as client:
            try:
                card = client.model()
            except PlanError as error:
                raise UserError(f"the planner at {url} does not answer as it should: {error}") from error
            yield remote_planner(client, card, deadline_ms), card, {"planner": url, **_facts(card), **deadline}
    elif checkpoint is not None:
        from hnet_vjepa.checkpoint import read_manifest
        from hnet_vjepa.planning.planner import load_planner

        for phase in read_manifest(checkpoint).phases:
            refuse_evaluation_data(phase.data_settings, f"{checkpoint}, phase {phase.phase},")
        planner = load_planner(checkpoint)
        yield (
            local_planner(planner, deadline_ms),
            planner.card,
            {"planner": name, **_facts(planner.card), **deadline},
        )


def _facts(card: ModelCard) -> dict[str, str]:
    search = card.search
    return {
        "model": f"{card.name}, {card.parameters:,} parameters, phases {', '.join(card.phases)}",
        "weights (SHA-256)": card.fingerprint,
        "search": f"{search.candidates} candidates, {search.iterations} iterations, horizon {search.horizon}",
    }
