"""Kinds of dynamics: step by step or all steps in one pass, slots or one vector, encoder fine-tuned or frozen.

For each task and seed the variants share one short pretraining; each then trains the action phase with the same
episodes and number of steps and plays the same dev pairs with the same search. The trainings are much shorter than the
presets', so that variants differ where the presets' models all succeed.

Every model writes one JSON to the work directory and is not trained again, so an interrupted run can be resumed. The
cost of a plan is measured when all models exist, in turn. It takes a quarter of an hour on one core for fetch-reach,
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
from benchmarks.planner.cells import difference
from benchmarks.planner.instrumented import InstrumentedPlanner, closed_loop_queries, measure, replay, threads
from benchmarks.table import Result, Table, rate
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
from sims.evaluation.units import length, shown_in

FLAT = "slots, MLP step"  # the default
VARIANTS: dict[str, dict[str, Any]] = {
    FLAT: {"model.world_model.dynamics": "flat"},
    "slots, transformer step": {"model.world_model.dynamics": "transformer"},
    "slots, all steps in one pass": {"model.world_model.dynamics": "prefix"},
    "slots, MLP step, encoder frozen": {"action.frozen_encoder": True},
    # As many numbers in all as the slots have.
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
    "plan.horizon": 4,  # as many steps as the clips have
    "plan.elites": 6,
}
LONGER: dict[str, Any] = {
    **SHORT,
    "pretrain.steps": 300,
    "action.steps": 500,
}  # for small agents
EPISODES = 400
PAIRS = 100
REPLAYED = 4  # pairs whose closed loop is replayed to measure the cost of a plan
ROUNDS = 5  # of replaying
WORK = Path("outputs/dynamics")


@dataclass(frozen=True)
class Study:
    """The trainings on one task, and the distance within which an episode is a success (in the task's unit)."""

    task: Task
    tolerance: float
    config: str  # the configuration that is shortened, by name or path
    short: Mapping[str, Any]  # the fields that shorten it
    seeds: tuple[int, ...] = (0,)  # of the trainings
    pairs: int = PAIRS

    def settings(self, variant: str, seed: int) -> Config:
        """The configuration of a training."""
        return load_config(self.config, {**self.short, **VARIANTS[variant], "seed": seed})


@dataclass(frozen=True)
class Cell:
    """One training: its cost, its open-loop errors, and the final distances of its episodes."""

    train_cpu_s: float  # of the action phase, its held-out metrics included
    open_loop: float  # error of imagined states after 1 to 10 steps, relative to the constant state
    open_loop_cm: float | None  # position error of its linear probe after ``plan.horizon`` steps, if measured
    distances: list[float]  # to the goal after the last action, in the task's unit


STUDIES = (
    Study(get_task("fetch-reach"), 0.03, "fetch_reach", SHORT),
    Study(get_task("two-room"), 0.225, "two_room", LONGER),
)


def episodes(study: Study, work: Path) -> Path:
    """The task's episodes, collected if missing."""
    return collect(study.task.name, EPISODES, 0, work / study.task.name / "episodes")


def checkpoint(study: Study, work: Path, variant: str, seed: int) -> Path:
    """Directory of a training's weights."""
    name = variant.replace(", ", "-").replace(" ", "-")
    return work / study.task.name / f"{name}-{seed}" / "training" / "action"


def make_cell(study: Study, data: Path, work: Path, variant: str, seed: int) -> Cell:
    """Train and evaluate one model, unless the work directory has it with the same settings."""
    config, folder = study.settings(variant, seed), checkpoint(study, work, variant, seed).parent
    wanted = {"config": config.model_dump(mode="json"), "pairs": study.pairs, "episodes": EPISODES}
    path = folder.parent / "cell.json"
    if path.is_file():
        known = json.loads(path.read_text())
        if known["asked"] == wanted:
            return Cell(**known["cell"])
    shared = work / study.task.name / f"shared-{seed}"
    with contextlib.closing(study.task.open()) as simulation, threads(1):
        begun = run_pipeline(study.settings(FLAT, seed), data, shared, ("pretrain",), progress=False)
        shutil.rmtree(folder, ignore_errors=True)  # resuming would make the training look cheaper
        trained, cost = measure(lambda: run_pipeline(config, data, folder, ("action",), begun, progress=False))
        metrics, policy = read_manifest(trained).phases[-1].metrics, local_planner(load_planner(trained))
        pairs = make_pairs(study.task, simulation, "dev", 0, study.pairs, "image")
        played = play(study.task, simulation, policy, pairs, study.task.evaluation_steps, progress=False)
    cell = Cell(
        train_cpu_s=cost.cpu_s,
        open_loop=metrics["open_loop_ratio"],
        open_loop_cm=metrics.get(f"open_loop_cm/{config.plan.horizon}"),
        distances=[float(d) for d in played.final_distances()],
    )
    write_json_atomic(path, {"asked": wanted, "cell": asdict(cell)})
    return cell


def plan_cpu_ms(study: Study, work: Path, variants: Sequence[str], replayed: int, rounds: int) -> dict[str, float]:
    """Median CPU time of a plan in milliseconds, one thread: all variants answer the first one's queries in turn."""
    planners = {variant: load_planner(checkpoint(study, work, variant, study.seeds[0])) for variant in variants}
    first = planners[variants[0]]
    measured: dict[str, list[InstrumentedPlanner]] = {variant: [] for variant in variants}
    with contextlib.closing(study.task.open()) as simulation, threads(1):
        pairs = make_pairs(study.task, simulation, "dev", 0, replayed, "image")
        queries = closed_loop_queries(study.task, simulation, first, pairs)
        for run, variant in itertools.product(range(1, rounds + 1), variants):
            measured[variant].append(replay(planners[variant], queries, run))
    return {
        variant: 1e3 * float(np.median([cost.cpu_s for planner in instrumented for cost in planner.costs]))
        for variant, instrumented in measured.items()
    }


def rows(study: Study, cells: Mapping[str, Sequence[Cell]], cpu_ms: Mapping[str, float]) -> list[dict[str, Any]]:
    """One row for each variant. ``cells``: each variant's trainings, by seed.

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
    replayed: int = REPLAYED,
    rounds: int = ROUNDS,
    record: Callable[[Study, Path], Path] = episodes,
) -> Part:
    """Train the missing variants on one task, and compare them all. ``record`` returns the task's episodes."""
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
        {"rows": rows(study, cells, plan_cpu_ms(study, work, list(cells), replayed, rounds))},
    )


def table(result: Result) -> Table:
    """Cost and success of the variants of the dynamics, task by task."""
    names = tuple(name for name in result.parts if name.startswith("dynamics-"))
    rows, steps = [], []
    for name in names:
        settings = result.parts[name]["settings"]
        short = settings["short"]
        steps.append(f"{short['pretrain.steps']} + {short['action.steps']} on {settings['task']}")
        for i, row in enumerate(result.parts[name]["rows"]):
            factor, unit = shown_in(row["unit"])
            compared = row["against_first"]
            rows.append(
                [
                    "" if i else f"`{settings['task']}`, within {row['within']}",
                    row["variant"],
                    rate(row["success_end"]),
                    " / ".join(f"{100 * share:.0f}" for share in row["trainings"]),
                    difference({**compared, "difference": -compared["difference"]}) if i else "–",
                    f"{factor * row['final_distance']:.2g} {unit}",
                    f"{row['open_loop']:.3f}",
                    "–" if row["open_loop_cm"] is None else f"{row['open_loop_cm']:.1f}",
                    f"{row['cpu_ms']:.1f}",
                    f"{row['train_cpu_s']:.0f}",
                ]
            )
    note = (
        "Far fewer steps than the presets' (of the shared pretraining + of each variant's action phase): "
        f"{', '.join(steps)}. One thread, the same search for all. Success at the end on dev pairs by the models of "
        "all trainings, with its 95 % interval, then of each, compared with the first row pair by pair (exact McNemar "
        "test), which ignores the variance between trainings. Open-loop error: mean error of imagined states on "
        "held-out episodes, over 1 to 10 steps, relative to the constant state; in cm: of the position that a linear "
        "probe reads from them after as many steps as a plan has."
    )
    head = [
        "",
        "dynamics",
        "success",
        "of each training [%]",
        "against the first",
        "final distance, median",
        "open-loop error, relative",
        "open-loop error [cm]",
        "CPU ms per plan",
        "training [CPU s]",
    ]
    return Table(head, rows, note, names)
