"""One run of ``hnet evaluate``: draw the pairs, play them with every method, vary the factors, keep the results."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from hnet_vjepa.utils.files import disk_errors, write_bytes_atomic, write_json_atomic
from sims.core.task import Simulation, Task
from sims.core.variation import Factor
from sims.evaluation.evaluate import evaluate
from sims.evaluation.manifest import check_pairs
from sims.evaluation.pairs import GoalKind, Pair, Split, budget, make_pairs
from sims.evaluation.policies import Policy, RandomPolicy, ReplayPolicy, ceilings, check_card
from sims.evaluation.results import EvaluationResult, as_text, to_json
from sims.evaluation.robustness import Sweep, sweep, sweeps_to_json
from sims.evaluation.sources import OpenPlanner


@dataclass(frozen=True)
class EvaluationRequest:
    """What to evaluate. The defaults are those of ``hnet evaluate``.

    ``distance``: goals this many steps of the environment after the start, None for the task's own goals. ``steps``:
    actions per episode, None for those of ``budget``. ``factors``: of variation, for the robustness sweeps.
    ``check_manifest``: refuse pairs that differ from the task's manifest.
    """

    task: Task
    episodes: int = 100
    seed: int = 0
    split: Split = "test"
    goal: GoalKind = "image"
    distance: int | None = None
    steps: int | None = None
    factors: tuple[Factor, ...] = ()
    check_manifest: bool = True


@dataclass(frozen=True)
class Evaluation:
    """The results of a run, and the pairs that were played."""

    result: EvaluationResult
    pairs: tuple[Pair, ...]
    sweeps: tuple[Sweep, ...]


def run_evaluation(
    request: EvaluationRequest, planner: OpenPlanner, out: Path, say: Callable[[str], None]
) -> Evaluation:
    """Evaluate a planner between the random floor and the ceilings; write result.json and table.txt into ``out``.

    Both files are written as soon as the evaluation is measured and again after every sweep, so that no later failure
    loses a measurement. ``say`` is called with the table and with one sentence per sweep. Raises UserError when the
    model does not fit the task, a pair differs from the manifest, or ``out`` can not be written.
    """
    task = request.task
    check_card(task, planner.card, request.goal)
    with disk_errors(out):
        out.mkdir(parents=True, exist_ok=True)
    with contextlib.closing(task.open()) as simulation:
        pairs = make_pairs(
            task, simulation, request.split, request.seed, request.episodes, request.goal, request.distance
        )
        result = _play(request, planner, simulation, pairs)
        say(as_text(result))
        _keep(out, result, ())
        sweeps: tuple[Sweep, ...] = ()
        for factor in request.factors:
            found = sweep(task, simulation, factor, planner.policy, RandomPolicy(task), pairs, result)
            sweeps = (*sweeps, found)
            say(found.sentence())
            _keep(out, result, sweeps)
    return Evaluation(result, tuple(pairs), sweeps)


def _play(
    request: EvaluationRequest, planner: OpenPlanner, simulation: Simulation, pairs: Sequence[Pair]
) -> EvaluationResult:
    task, distance = request.task, request.distance
    drawn = "not compared"
    if request.check_manifest:
        drawn = check_pairs(task, pairs, request.split, request.seed, request.goal, distance)
    policies: list[Policy] = [RandomPolicy(task), planner.policy]
    policies += [] if distance is None else [ReplayPolicy(task)]
    return evaluate(
        task,
        simulation,
        [*policies, *ceilings(task)],
        pairs,
        request.split,
        request.seed,
        request.goal,
        {**planner.conditions, "pairs": drawn},
        steps=budget(task, distance) if request.steps is None else request.steps,
        distance=distance,
    )


def _keep(out: Path, result: EvaluationResult, sweeps: Sequence[Sweep]) -> None:
    """Write what is measured so far."""
    variation = {"variation": sweeps_to_json(sweeps)} if sweeps else {}
    write_json_atomic(out / "result.json", {**to_json(result), **variation})
    lines = [as_text(result), *(found.sentence() for found in sweeps)]
    write_bytes_atomic(out / "table.txt", ("\n".join(lines) + "\n").encode())
