"""Which dynamics to plan with: steps or all in one pass, slots or one vector, the encoder trained along or frozen.

For each task and seed one short pretraining is shared; from it every variant trains the action phase with the same
episodes and number of steps, and then plays the same dev pairs with the same search. The trainings are far shorter
than the presets', so that variants differ where the presets' models all succeed.

Every model leaves one JSON in the work directory and is not made again, so a run that was stopped goes on. What a plan
costs is measured when all are there, in turn. A quarter of an hour on one core for fetch-reach,
half an hour for two-room.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.part import Part
from benchmarks.planner.instrumented import Watched, asked_again, closed_loop, measured, threads
from hnet_vjepa.checkpoint import read_manifest
from hnet_vjepa.config import Config, load_config
from hnet_vjepa.pipeline import run_pipeline
from hnet_vjepa.planning.planner import load_planner
from hnet_vjepa.utils.files import write_json_atomic
from sims.core.collect import collect
from sims.core.registry import get_task
from sims.core.task import Task
from sims.evaluation.evaluate import play
from sims.evaluation.pairs import make_pairs
from sims.evaluation.policies import local_planner
from sims.evaluation.statistics import paired_difference, wilson
from sims.evaluation.units import length

FLAT = "slots, MLP step"  # the default
VARIANTS: dict[str, dict[str, Any]] = {
    FLAT: {"model.world_model.dynamics": "flat"},
    "slots, transformer step": {"model.world_model.dynamics": "transformer"},
    "slots, all steps in one pass": {"model.world_model.dynamics": "prefix"},
    "slots, MLP step, encoder frozen": {"action.frozen_encoder": True},
    # As many numbers in all: to the dynamics it is the same.
    "one vector, MLP step": {"model.backbone.pooling.grid": [1, 1], "model.world_model.state_dim": 288},
}
SHORT: dict[str, Any] = {
    "pretrain.steps": 120,
    "pretrain.clip_frames": 3,
    "action.steps": 150,
    "heads.steps": 300,
    "action.batch_size": 24,
    "action.clip_frames": 6,
    "plan.candidates": 32,
    "plan.iterations": 2,
    "plan.horizon": 4,  # as many steps as the clips show
    "plan.elites": 6,
}
LONGER: dict[str, Any] = {**SHORT, "pretrain.steps": 300, "action.steps": 500}  # small things are learnt late
EPISODES = 400
PAIRS = 100
ASKED = 4  # pairs whose closed loop is asked again for what a plan costs
ROUNDS = 5  # how often
WORK = Path("outputs/dynamics")


@dataclass(frozen=True)
class Study:
    """What is trained on one task, and from which distance on it counts as success (in the task's unit)."""

    task: Task
    tolerance: float
    config: str  # the configuration that is made short, by name or path
    short: Mapping[str, Any]
    seeds: tuple[int, ...] = (0,)  # of the trainings
    pairs: int = PAIRS

    def settings(self, variant: str, seed: int) -> Config:
        """The configuration of a training."""
        return load_config(self.config, {**self.short, **VARIANTS[variant], "seed": seed})


@dataclass(frozen=True)
class Cell:
    """One training: how it was trained, how well it imagines, and where its episodes ended."""

    train_cpu_s: float  # of the action phase, measuring on held-out episodes included
    open_loop: float  # error of the imagined state after 1 to 10 steps, as a share of "nothing moves"
    open_loop_cm: float | None  # error of the place read from it after ``plan.horizon`` steps, where there is one
    distances: list[float]  # to the goal after the last action, in the task's unit


STUDIES = (
    Study(get_task("fetch-reach"), 0.03, "fetch_reach", SHORT),
    Study(get_task("two-room"), 0.225, "two_room", LONGER),
)


def episodes(study: Study, work: Path) -> Path:
    """The task's episodes, collected unless they are there."""
    return collect(study.task.name, EPISODES, 0, work / study.task.name / "episodes")


def checkpoint(study: Study, work: Path, variant: str, seed: int) -> Path:
    """Where the weights of a training are."""
    name = variant.replace(", ", "-").replace(" ", "-")
    return work / study.task.name / f"{name}-{seed}" / "training" / "action"


def make_cell(study: Study, data: Path, work: Path, variant: str, seed: int) -> Cell:
    """Train and judge one model, unless that was done before with the same settings."""
    config, folder = study.settings(variant, seed), checkpoint(study, work, variant, seed).parent
    asked = {"config": config.model_dump(mode="json"), "pairs": study.pairs, "episodes": EPISODES}
    path = folder.parent / "cell.json"
    if path.is_file():
        known = json.loads(path.read_text())
        if known["asked"] == asked:
            return Cell(**known["cell"])
    shared = work / study.task.name / f"shared-{seed}"
    with contextlib.closing(study.task.open()) as simulation, threads(1):
        begun = run_pipeline(study.settings(FLAT, seed), data, shared, ("pretrain",), progress=False)
        shutil.rmtree(folder, ignore_errors=True)  # half a training would be cheaper than it is
        trained, spent = measured(lambda: run_pipeline(config, data, folder, ("action",), begun, progress=False))
        metrics, policy = read_manifest(trained).phases[-1].metrics, local_planner(load_planner(trained))
        pairs = make_pairs(study.task, simulation, "dev", 0, study.pairs, "image")
        played = play(study.task, simulation, policy, pairs, study.task.evaluation_steps, progress=False)
    cell = Cell(
        train_cpu_s=spent.cpu_s,
        open_loop=metrics["open_loop_ratio"],
        open_loop_cm=metrics.get(f"open_loop_cm/{config.plan.horizon}"),
        distances=[float(d) for d in played.final_distances()],
    )
    write_json_atomic(path, {"asked": asked, "cell": asdict(cell)})
    return cell


def plan_cpu_ms(study: Study, work: Path, variants: Sequence[str], asked: int, rounds: int) -> dict[str, float]:
    """Median CPU time of a plan, in milliseconds, one thread: all variants in turn answer what the first was asked."""
    planners = {variant: load_planner(checkpoint(study, work, variant, study.seeds[0])) for variant in variants}
    first = planners[variants[0]]
    noted: dict[str, list[Watched]] = {variant: [] for variant in variants}
    with contextlib.closing(study.task.open()) as simulation, threads(1):
        pairs = make_pairs(study.task, simulation, "dev", 0, asked, "image")
        queries = closed_loop(study.task, simulation, first, pairs)
        for run, variant in itertools.product(range(1, rounds + 1), variants):
            noted[variant].append(asked_again(planners[variant], queries, run))
    return {
        variant: 1e3 * float(np.median([spent.cpu_s for w in instrumented for spent in w.spent]))
        for variant, instrumented in noted.items()
    }


def rows(study: Study, cells: Mapping[str, Sequence[Cell]], cpu_ms: Mapping[str, float]) -> list[dict[str, Any]]:
    """What stands in the table of a task. ``cells``: each variant's trainings.

    Successes are compared with those of the first variant, seed by seed and pair by pair.
    """
    met = {name: [d <= study.tolerance for cell in trained for d in cell.distances] for name, trained in cells.items()}
    first = next(iter(met.values()))
    return [
        {
            "within": length(study.tolerance, study.task.unit),
            "unit": study.task.unit,
            "variant": variant,
            "success_end": asdict(wilson(sum(met[variant]), len(met[variant]))),
            "trainings": [float(np.mean(np.array(cell.distances) <= study.tolerance)) for cell in trained],
            "against_first": asdict(paired_difference(met[variant], first)),
            "final_distance": float(np.median([d for cell in trained for d in cell.distances])),
            "open_loop": float(np.mean([cell.open_loop for cell in trained])),
            "open_loop_cm": _mean([cell.open_loop_cm for cell in trained if cell.open_loop_cm is not None]),
            "cpu_ms": cpu_ms[variant],
            "train_cpu_s": float(np.mean([cell.train_cpu_s for cell in trained])),
        }
        for variant, trained in cells.items()
    ]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None


def dynamics(
    study: Study,
    work: Path = WORK,
    asked: int = ASKED,
    rounds: int = ROUNDS,
    record: Callable[[Study, Path], Path] = episodes,
) -> Part:
    """Make what is missing of all variants on one task, and compare them. ``record`` gives the task's episodes."""
    data = record(study, work)
    cells = {variant: [make_cell(study, data, work, variant, seed) for seed in study.seeds] for variant in VARIANTS}
    return Part(
        {
            "task": study.task.name,
            "short": dict(study.short),
            "variants": VARIANTS,
            "episodes": EPISODES,
            "seeds": list(study.seeds),
            "split": "dev",
            "pairs": study.pairs,
            "threads": 1,
        },
        {},
        {"rows": rows(study, cells, plan_cpu_ms(study, work, list(cells), asked, rounds))},
    )
