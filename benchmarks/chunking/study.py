"""Do content-adaptive chunks represent frames with fewer tokens than fixed alternatives at the same quality?

``python -m benchmarks.chunking --part study`` trains one small model for every task, token count, seed and tokenizer;
everything else is equal: data, encoder, attention, pooling, transformer, world model, steps. Each model is scored by
what its planning state represents on held-out episodes and by closed-loop success on dev pairs; the differences between
chunks and every other tokenizer are written to ``benchmarks/results/chunking.json``. The chunks' mean number of live
tokens is calibrated to the others' fixed number on training frames, and measured on held-out ones.

Success means that the robot (the gripper, the pusher) ends where the goal image shows it. The tasks' own criterion, the
object at its goal, is out of reach for models trained as briefly as these (0 of 24 pairs in a trial), so it would not
separate the methods.

Every cell writes one JSON to the work directory and is not computed again, so an interrupted run can be resumed. The
result is written after every seed from all cells so far.
"""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from benchmarks.chunking.paired import OUTCOMES, Cell, means, metrics
from benchmarks.chunking.scores import (
    DISTANCE,
    NEAR,
    PAIRS,
    READ,
    bounds,
    label_score,
    position_scores,
    success_score,
)
from benchmarks.chunking.small_models import (
    BLOCKS,
    CELLS,
    FRAMES,
    GRID,
    METHODS,
    RECTANGLES,
    TOKENS,
    TRAINING,
    TUBELETS,
    ShortAction,
    ShortHeads,
    ShortPretrain,
    ShortProbe,
    calibrate,
    flops,
    fresh_model,
    live_tokens,
    settings,
    train_model,
)
from benchmarks.recipes import RECIPES
from benchmarks.record import merge_result
from benchmarks.table import Result, Table
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.planning.planner import WorldModelPlanner
from hnet_vjepa.utils.files import write_json_atomic
from sims.core.collect import collect
from sims.core.registry import get_task
from sims.core.task import Task
from sims.evaluation.policies import local_planner

COMMAND = "python -m benchmarks.chunking --part study"
SEEDS = (1, 2, 3)  # seed 0 was used to choose how chunks are merged, so it is no evidence
DIFFERENCES = {"score": "points", **{name: f"{name}_points" for name in OUTCOMES}}  # columns, to names of metrics


def make_cell(task: Task, data: Path, work: Path, tokens: int, method: str, seed: int) -> Cell:
    """Train and score one model, unless the work directory has its scores with the same settings."""
    config = settings(task.name, tokens, method, seed)
    folder = work / task.name / f"{tokens}-{method}-{seed}"
    scoring = {"near": NEAR, "read": READ, "distance": DISTANCE, "pairs": PAIRS, "frames": FRAMES}
    wanted = {"config": config.model_dump(mode="json"), **scoring}
    path = folder / "cell.json"
    if path.is_file():
        known = json.loads(path.read_text())
        if known["asked"] == wanted:
            return Cell(**known["cell"])
    store = EpisodeStore(data, config.data.folds, config.data.held_out_fold)
    phases = (ShortPretrain(), ShortProbe(), ShortAction(("probe",)), ShortHeads())
    checkpoint = train_model(fresh_model(config, store), phases, store, folder)
    calibrate(checkpoint, store)
    live, live_std = live_tokens(checkpoint, store)
    thing, robot = position_scores(task, checkpoint, store)
    cell = Cell(
        task=task.name,
        tokens=tokens,
        method=method,
        seed=seed,
        live=live,
        live_std=live_std,
        object=thing,
        robot=robot,
        labels=label_score(checkpoint, store),
        success=success_score(task, local_planner(WorldModelPlanner(checkpoint)), seed),
    )
    write_json_atomic(path, {"asked": wanted, "cell": asdict(cell)})
    return cell


def write(cells: Sequence[Cell], tasks: Sequence[Task]) -> Path:
    """Write the part of the result from the cells so far."""
    seeds = sorted({c.seed for c in cells})
    floor = {
        task.name: {name: float(np.mean([bounds(task, s)[name] for s in seeds])) for name in bounds(task, seeds[0])}
        for task in tasks
    }
    return merge_result(
        "chunking",
        "study",
        COMMAND,
        {
            "tasks": list(NEAR),
            "tokens": list(TOKENS),
            "training": TRAINING,
            "rectangles": {str(count): grid for count, grid in RECTANGLES.items()},
            "prototypes": GRID,
            "tubelets": {"tokens": CELLS, "blocks": sum(BLOCKS), "flops_ratio": flops(TUBELETS) / flops("chunks")},
            "near": NEAR,
            "read": READ,
            "split": "dev",
            "distance": DISTANCE,
            "pairs": PAIRS,
            "unit": "a pair of models that share task, token count and seed",
            "interval": "two-sided 95 %, Student's t over the pairs",
            "score": f"mean of {', '.join(OUTCOMES)}",
        },
        metrics(cells),
        table=means(cells),
        cells=[{**asdict(c), "score": c.score} for c in cells],
        success_bounds=floor,
    )


def main(words: Sequence[str]) -> None:
    """Compute all cells, seed after seed; ``words`` are the command's arguments."""
    parser = argparse.ArgumentParser(
        prog=COMMAND, description="Compare dynamic chunks with fixed tokens at equal token count."
    )
    parser.add_argument("--work", type=Path, default=Path("outputs/chunking"), help="where models and scores are kept")
    parser.add_argument(
        "--episodes", type=Path, default=Path("outputs/sims"), help="directory of <task>/episodes, collected if missing"
    )
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    tasks = [get_task(name) for name in NEAR]
    data = {
        task.name: collect(task.name, RECIPES[task.name].episodes, 0, options.episodes / task.name / "episodes")
        for task in tasks
    }
    cells: list[Cell] = []
    # Tubelets come last, so that an interrupted study has at least compared chunks at equal token counts.
    for kinds in (list(itertools.product(TOKENS, METHODS)), [(CELLS, TUBELETS)]):
        for seed in SEEDS:
            for task, (tokens, method) in itertools.product(tasks, kinds):
                cell = make_cell(task, data[task.name], options.work, tokens, method, seed)
                print(cell, flush=True)
                cells.append(cell)
            print(write(cells, tasks), flush=True)


def table(result: Result) -> Table:
    """Every task, token count and tokenizer: the three outcomes, their mean, and the number of live tokens."""
    part = result.parts["study"]
    settings, outcomes = part["settings"], ("object", "labels", "success", "score")
    rows = [
        [
            f"`{row['task']}`",
            str(row["tokens"]),
            row["method"],
            f"{row['live']:.1f} ± {row['live_std']:.1f}",
            *(f"{row[name]:.1f}" for name in outcomes),
        ]
        for row in part["table"]
    ]
    bounds = "; ".join(
        f"`{task}`: " + ", ".join(f"{name} {points:.0f}" for name, points in found.items())
        for task, found in part["success_bounds"].items()
    )
    note = (
        f"Points from 0 to 100, means over {result.metrics['seeds']} seeds; the score is the {settings['score']}. Live "
        "tokens: mean and standard deviation over held-out frames. "
        f"Success: {settings['pairs']} dev pairs per seed, goals {settings['distance']} steps away. "
        f"Success without a model ({bounds})."
    )
    return Table(["task", "tokens", "tokenizer", "live tokens", *outcomes], rows, note, ("study",))


def differences_table(result: Result) -> Table:
    """Chunks minus every other tokenizer, with the lower bound of the 95 % interval."""
    part = result.parts["study"]
    settings, tubelets = part["settings"], part["settings"]["tubelets"]
    others = [name for name in dict.fromkeys(row["method"] for row in part["table"]) if name != "chunks"]
    rows = [
        [
            f"chunks − {other}",
            *(
                f"{result.metrics[f'chunks_minus_{other}_{kind}_mean']:+.1f} "
                f"(from {result.metrics[f'chunks_minus_{other}_{kind}_low95']:+.1f})"
                for kind in DIFFERENCES.values()
            ),
            f"{result.metrics[f'chunks_minus_{other}_pairs']:.0f}",
        ]
        for other in others
    ]
    note = (
        f"Mean difference in points over units (a unit is {settings['unit']}); in brackets the lower bound of its "
        f"interval ({settings['interval']}). The chunks' mean number of live tokens differs from the others' by at "
        f"most {100 * result.metrics['tokens_off_most']:.1f} %. Tubelets: {tubelets['tokens']} tokens, "
        f"{tubelets['blocks']} blocks on all of them, "
        f"{tubelets['flops_ratio']:.2f} times the operations of a frame in chunks."
    )
    return Table(["", *DIFFERENCES, "units"], rows, note, ("study",))
