"""The suite of simulated robots: collect, train and evaluate one task after another.

``python -m benchmarks.sims TASK...`` writes the rows of these tasks in ``benchmarks/results/sims.json`` and leaves the
others; without a task it writes those that are missing. What is finished in the work directory (episodes, phases,
evaluations of the same weights) is reused, so that an interrupted run continues. ``--zoo`` evaluates the shipped
models, which were trained by the same recipes, and trains nothing; ``--zoo --check`` is the release check.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks import release_check, render
from benchmarks.minimal_pairs import minimal_pairs
from benchmarks.recipes import RECIPES, Recipe
from benchmarks.record import RESULTS, about, read_result, write_result
from cli.stopping import stoppable
from hnet_vjepa import zoo
from hnet_vjepa.checkpoint import load_checkpoint, read_manifest
from hnet_vjepa.config import load_config
from hnet_vjepa.errors import UserError, one_of
from hnet_vjepa.models.model import Robot
from hnet_vjepa.pipeline import run_pipeline
from hnet_vjepa.planning.inspect import Inspector
from hnet_vjepa.planning.planner import load_planner
from hnet_vjepa.utils.files import write_bytes_atomic, write_json_atomic
from sims.core.collect import collect
from sims.core.registry import get_task
from sims.core.task import Task
from sims.diagnosis.measure import diagnose
from sims.diagnosis.verdicts import verdicts, weakest
from sims.evaluation.evaluate import GOAL_LABELS, evaluate
from sims.evaluation.manifest import check_pairs
from sims.evaluation.pairs import GoalKind, NoGoalError, actions_of, budget, make_pairs
from sims.evaluation.policies import Policy, RandomPolicy, ReplayPolicy, ScriptedPolicy, check_card, local_planner
from sims.evaluation.results import EvaluationResult, as_text, to_json

EPISODES = 300  # test pairs
FAR_EPISODES = 40  # test pairs of each distance in steps
MINIMAL_PAIRS = 60  # of sentences, for left/right and for up/down
DIAGNOSED = 20  # dev pairs of the diagnosis
DISTANCES = (25, 50, 75)  # steps of the environment
FEWEST = 5  # actions: where a distance takes fewer, hardly anything moves on the way


def train(task: Task, recipe: Recipe, work: Path) -> Path:
    """Collect the task's episodes and train its model, as far as that is not done; return the checkpoint."""
    data = collect(task.name, recipe.episodes, 0, work / "episodes")
    run_pipeline(load_config(recipe.config), data, work / "training", recipe.phases)
    return work / "training" / "action"


def judge(
    task: Task, checkpoint: Path, work: Path, kind: GoalKind, distance: int | None, episodes: int
) -> dict[str, Any]:
    """Evaluate on test pairs, or return the kept result of the same weights, pairs and steps, as JSON values."""
    planner, steps = load_planner(checkpoint, threads=1), budget(task, distance)
    name = kind if distance is None else f"{kind}-d{distance}"
    path = work / "evaluation" / f"{name}.json"
    if path.is_file():
        known: dict[str, Any] = json.loads(path.read_text())
        asked = known["conditions"]["weights"], known["episodes_asked"], known["steps"]
        if asked == (planner.card.fingerprint, episodes, steps):
            return known
    check_card(task, planner.card, kind)
    with contextlib.closing(task.open()) as simulation:
        pairs = make_pairs(task, simulation, "test", 0, episodes, kind, distance)
        drawn = check_pairs(task, pairs, "test", 0, kind, distance)
        policies: list[Policy] = [RandomPolicy(task), local_planner(planner), ScriptedPolicy(task)]
        if distance is not None:
            policies.append(ReplayPolicy(task))
        conditions = {"weights": planner.card.fingerprint, "planner": "in process, one thread", "pairs": drawn}
        result: EvaluationResult = evaluate(
            task, simulation, policies, pairs, "test", 0, kind, conditions, steps=steps, distance=distance
        )
    print(as_text(result), flush=True)
    content = {**to_json(result), "episodes_asked": episodes}
    write_json_atomic(path, content)
    return content


def one_word(task: Task, checkpoint: Path, work: Path) -> dict[str, Any]:
    """Success on minimal pairs of sentences (see minimal_pairs), or the kept result of the same weights."""
    planner = load_planner(checkpoint, threads=1)
    path = work / "evaluation" / f"minimal-pairs-{planner.card.fingerprint[:12]}.json"
    if not path.is_file():
        with contextlib.closing(task.open()) as simulation:
            pairs = make_pairs(task, simulation, "test", 0, EPISODES, "text")
            write_json_atomic(path, minimal_pairs(task, simulation, local_planner(planner), pairs, MINIMAL_PAIRS))
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def command_of(task: str, zoo_too: bool, episodes: int, far: int, standard: bool = False) -> str:
    """The command that reproduces a task's row, with its arguments other than the defaults."""
    words = [f"python -m benchmarks.sims {task}", "--zoo" if zoo_too else "", "--standard" if standard else ""]
    words += ["" if episodes == EPISODES else f"--episodes {episodes}"]
    words += ["" if far == FAR_EPISODES else f"--far-episodes {far}"]
    return " ".join(word for word in words if word)


def standard_metrics(standard: dict[str, Any], episodes: int) -> dict[str, Any]:
    """The metrics of image goals at the task's own distance."""
    main, floor, ceiling = (standard["summary"][name] for name in ("planner", "random", "scripted"))
    criteria = standard["criteria"]
    first = main["success"][criteria[0]]
    metrics: dict[str, Any] = {
        "success_end": first["end"]["value"],
        "success_ever": first["ever"]["value"],
        "success_held": first["held"]["value"],
        "ci95": [first["end"]["low"], first["end"]["high"]],
        "random_success_end": floor["success"][criteria[0]]["end"]["value"],
        "ceiling_success_end": ceiling["success"][criteria[0]]["end"]["value"],
        "episodes": episodes,
    }
    for criterion in criteria:
        short = criterion.replace(" ", "").replace("xallowed", "x")
        metrics[f"success_end_{short}"] = main["success"][criterion]["end"]["value"]
        metrics[f"random_success_end_{short}"] = floor["success"][criterion]["end"]["value"]
    return metrics


def standard_again(
    task: Task,
    checkpoint: Path,
    work: Path,
    episodes: int,
    metrics: dict[str, Any],
    behind: dict[str, Any],
    command: str,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """A row whose image goals at the task's own distance and diagnosis are measured again; the rest stays as it was.

    ``earlier`` in the result names the command and commit of the rest.
    """
    standard = judge(task, checkpoint, work, "image", None, episodes)
    rest = {key: behind[key] for key in ("command", "date", "commit", "machine", "weights")}
    again = {
        **behind,
        **about(command),
        "weights": read_manifest(checkpoint).fingerprint,
        "steps": standard["steps"],
        "excluded": standard["excluded"],
        "comparisons": standard["comparisons"],
        "summary": {**behind["summary"], "image": standard["summary"]},
        "diagnosis": diagnosis(task, checkpoint, work),
        "earlier": behind.get("earlier", rest),
    }
    return {**metrics, **standard_metrics(standard, episodes)}, again


def row(
    task: Task, recipe: Recipe, checkpoint: Path, work: Path, episodes: int, far: int, command: str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The metrics of one task's model, and the details that sims.json keeps under "rows"."""
    card, manifest = load_planner(checkpoint, threads=1).card, read_manifest(checkpoint)
    standard = judge(task, checkpoint, work, "image", None, episodes)
    criteria, metrics = standard["criteria"], standard_metrics(standard, episodes)
    summaries, without_goals = {"image": standard["summary"]}, list[int]()
    for distance in DISTANCES:
        if actions_of(task, distance) < FEWEST:
            continue
        try:
            result = judge(task, checkpoint, work, "image", distance, far)
        except NoGoalError as error:
            print(f"{task.name}, {distance} steps: {error}", flush=True)
            without_goals.append(distance)
            continue
        summaries[f"d{distance}"] = result["summary"]
        for method, prefix in (("planner", ""), ("random", "random_"), ("scripted", "ceiling_")):
            found = result["summary"][method]["success"][criteria[0]]
            for when in ("ever", "end"):
                metrics[f"{prefix}success_{when}_d{distance}"] = found[when]["value"]
    kinds = [kind for kind in recipe.goals if kind in card.goals]  # a shipped model may have fewer
    for kind in kinds:
        result = judge(task, checkpoint, work, kind, None, episodes)
        summaries[kind] = result["summary"]
        metrics[f"{kind}_success_end"] = result["summary"]["planner"]["success"][GOAL_LABELS]["end"]["value"]
        metrics[f"{kind}_random_success_end"] = result["summary"]["random"]["success"][GOAL_LABELS]["end"]["value"]
    robot = Robot.model_validate_json((checkpoint / "robot.json").read_bytes())
    if robot.states:
        metrics["state_supervision"] = list(robot.states)
    sentences = one_word(task, checkpoint, work) if "text" in kinds else {}
    metrics |= {f"text_minimal_{name}": found["both"]["value"] for name, found in sentences.items()}
    behind = {
        **about(command),
        "recipe": asdict(recipe),
        "weights": manifest.fingerprint,
        "parameters": card.parameters,
        "training_s": sum(phase.seconds for phase in manifest.phases),
        "phases": {phase.phase: {"seconds": phase.seconds, "metrics": phase.metrics} for phase in manifest.phases},
        "search": asdict(card.search),
        "interval": task.interval,
        "steps": standard["steps"],
        "excluded": standard["excluded"],
        "distances_without_goals": without_goals,
        "comparisons": standard["comparisons"],
        "summary": summaries,
        "minimal_pairs": sentences,
        "diagnosis": diagnosis(task, checkpoint, work),
    }
    return metrics, behind


def diagnosis(task: Task, checkpoint: Path, work: Path) -> str:
    """The verdicts of a diagnosis on dev seeds as Markdown, or the kept ones of the same weights."""
    loaded = load_checkpoint(checkpoint)
    path = work / "evaluation" / f"diagnosis-{loaded.fingerprint[:12]}.txt"
    if not path.is_file():
        with contextlib.closing(task.open()) as simulation:
            found = diagnose(task, simulation, Inspector(loaded), 0, 40, DIAGNOSED, 64)
        lines = [f"Measured on {DIAGNOSED} dev pairs: {weakest(found)}.", ""]
        lines += [f"- {v.link}: {'sound' if v.sound else 'weak'}, {v.reason}" for v in verdicts(found).values()]
        write_bytes_atomic(path, "\n".join(lines).encode())
    return path.read_text()


def known() -> dict[str, Any]:
    """The present content of sims.json."""
    return read_result("sims") if (RESULTS / "sims.json").is_file() else {"metrics": {}, "rows": {}}


@stoppable()
def main() -> None:
    """Write the chosen rows, or run the release check."""
    if "--check" in sys.argv[1:]:
        sys.exit(release_check.main(sys.argv[1:]))
    parser = argparse.ArgumentParser(description="Train and evaluate a model on simulated robots, row by row.")
    parser.add_argument("task", nargs="*", help="which tasks; by default all that have no row yet")
    parser.add_argument("--work", type=Path, default=Path("outputs/sims"), help="episodes, models and evaluations")
    parser.add_argument("--zoo", action="store_true", help="evaluate the shipped models; train nothing")
    parser.add_argument("--episodes", type=int, default=EPISODES, help="test pairs")
    parser.add_argument("--far-episodes", type=int, default=FAR_EPISODES, help="test pairs of each distance in steps")
    parser.add_argument(
        "--standard",
        action="store_true",
        help="evaluate image goals at the task's own distance and diagnose; keep the rest of the row",
    )
    options = parser.parse_args()
    try:
        wanted = options.task or [name for name in RECIPES if name not in known()["metrics"]]
        for name in wanted:
            if name not in RECIPES:
                raise one_of("task", name, RECIPES)
        for name in wanted:
            task, recipe, work = get_task(name), RECIPES[name], options.work / name
            checkpoint = zoo.path(name) if options.zoo else train(task, recipe, work)
            asked = options.episodes, options.far_episodes
            command = command_of(name, options.zoo, *asked, options.standard)
            if options.standard:
                if name not in known()["metrics"]:
                    raise UserError(f"{name} has no row yet; leave --standard out")
                old = known()["metrics"][name], known()["rows"][name]
                metrics, behind = standard_again(task, checkpoint, work, options.episodes, *old, command)
            else:
                metrics, behind = row(task, recipe, checkpoint, work, *asked, command)
            before = known()  # another process may have written another row meanwhile
            path = write_result(
                "sims",
                "python -m benchmarks.sims",
                {"split": "test", "seed": 0, "budget": "twice the distance for goals d steps away"},
                {**before["metrics"], name: metrics},
                rows={**before["rows"], name: behind},
            )
            print(f"{path}: {name}")
    except UserError as error:
        print(f"sims: {error}", file=sys.stderr)
        sys.exit(2)
    render.main()


if __name__ == "__main__":
    main()
