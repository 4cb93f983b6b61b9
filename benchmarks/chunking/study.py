"""Do content-adaptive chunks represent frames with fewer tokens than fixed alternatives at the same quality?

``python -m benchmarks.chunking --part study`` trains one small model for every task, token count, seed and tokenizer;
all else is the same: data, encoder, attention, pooling, transformer, world model, steps. It scores each model by what
can be read from its planning state on held-out episodes and by closed-loop success on dev pairs, and writes the
differences between chunks and every other tokenizer to ``benchmarks/results/chunking.json``. The chunks' mean number of
live tokens is set to the others' fixed number on training frames, and measured on held-out ones.

Success means that the robot (the gripper, the pusher) comes to where it is in the goal picture. The tasks' own
criterion, the object at its goal, is out of reach for models trained as shortly as these: 0 of 24 pairs in a trial, and
where everything is 0 nothing is compared.

Every cell leaves one JSON in the work directory and is not done again, so a run that was stopped goes on. After every
seed the result is written anew from all cells so far.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import itertools
import json
import math
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.recipes import RECIPES
from benchmarks.record import merge_result
from hnet_vjepa.checkpoint import Checkpoint, Manifest, PhaseRecord, read_manifest, save_checkpoint
from hnet_vjepa.config import Config, load_config
from hnet_vjepa.data.batch import clip_batches
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.errors import UserError
from hnet_vjepa.models.hnet.tokenizers import BudgetedChunks
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.models.vjepa.vit import HNetViT
from hnet_vjepa.pipeline import describe_robot
from hnet_vjepa.planning.planner import WorldModelPlanner
from hnet_vjepa.trainers.action_posttrain import Action
from hnet_vjepa.trainers.engine import train
from hnet_vjepa.trainers.heads import Heads
from hnet_vjepa.trainers.linear_probe import fit_probe, sampled_states
from hnet_vjepa.trainers.phase import Phase
from hnet_vjepa.trainers.pretrain import Pretrain
from hnet_vjepa.trainers.probe_train import Probe
from hnet_vjepa.utils.files import write_json_atomic
from hnet_vjepa.utils.runtime import set_seed, versions
from sims.core.collect import collect
from sims.core.registry import get_task
from sims.core.task import State, Task
from sims.evaluation.evaluate import play
from sims.evaluation.pairs import Pair, budget, make_pairs
from sims.evaluation.policies import Policy, RandomPolicy, ReplayPolicy, local_planner

COMMAND = "python -m benchmarks.chunking --part study"
NEAR = {"fetch-push": 0.05, "push-t": 20.0}  # metres and pixels: how near the tasks' loosest criteria want a place
READ = {"fetch-push": 0.03, "push-t": 30.0}  # tolerance of a place that is read: a tenth of the objects' range
TOKENS = (8, 16)
SEEDS = (1, 2, 3)  # by seed 0 it was decided how chunks are joined, so it is no evidence
METHODS = {"chunks": "chunks", "uniform": "grid", "random": "random", "merge": "merge"}  # to tokenizers
RECTANGLES = {8: (2, 4), 16: (4, 4)}  # rows and columns whose product is the token count
GRID = (8, 8)  # cells of a frame of 64 x 64 pixels; a prototype for each, before those that are alike are joined
CELLS = GRID[0] * GRID[1]
PRIOR = 60.0  # of the chunks' prototypes: a cell is nearly all its own prototype's
TUBELETS = "tubelets"  # at equal compute: every cell is a token, made of its pixels by a linear map and a transformer
BLOCKS = (2, 2)  # of that transformer; with them a frame costs as much as with chunks (see flops)

TRAINING = {
    "pretrain.steps": 30,
    "pretrain.batch_size": 16,
    "pretrain.clip_frames": 3,
    "probe.steps": 40,
    "probe.batch_size": 32,
    "action.steps": 200,
    "action.batch_size": 16,
    "action.clip_frames": 4,
    "action.frozen_encoder": False,  # the pretraining is too short for the encoder to stay as it is
    "heads.steps": 300,
    "heads.batch_size": 16,
    "heads.clip_frames": 4,
    **{f"{phase}.save_every": 1000 for phase in ("pretrain", "probe", "action", "heads")},  # a cell begins again
    "model.backbone.attention.heads": 1,
    "model.backbone.routing.placed": True,
    "model.backbone.pooling.size_weight": 0.0,
    "model.world_model.flat_width": 256,
    "plan.candidates": 64,
    "plan.elites": 8,
    "plan.iterations": 3,
    "plan.horizon": 5,
    "plan.prior_candidates": 8,
    "plan.behaviour_prior": 0.0,
}
DISTANCE = 15  # steps of the environment between start and goal, few enough for models as small as these
PAIRS = 12
FRAMES = 1000  # of a split, or clips, that are measured on
OUTCOMES = ("object", "labels", "success")  # what a cell's score is the mean of, all in points
CLOSE = 0.02  # how far the mean number of tokens may be from the others'

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Cell:
    """One model and its scores, in points (0 to 100)."""

    task: str
    tokens: int
    method: str
    seed: int
    live: float  # mean number of live tokens of a held-out frame ...
    live_std: float  # ... and its spread over the frames
    object: float  # held-out frames whose object is read from the planning state within READ
    robot: float  # the same of what the robot moves
    labels: float  # balanced accuracy of the probe on held-out episodes, mean over the labels
    success: float  # dev pairs at the end of which the robot is where the goal picture shows it

    @property
    def score(self) -> float:
        """The mean of the outcomes, in points."""
        return float(np.mean([getattr(self, name) for name in OUTCOMES]))


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, and the lower end of its 95 % interval (two-sided, Student's t)."""

    mean: float
    low95: float
    pairs: int


def student_quantile(freedom: int, confidence: float = 0.95) -> float:
    """The t with ``P(|T| < t) = confidence`` for ``freedom`` degrees of freedom (Abramowitz and Stegun 26.7.3 and 4).

    Raises ValueError without at least one degree of freedom.
    """
    if freedom < 1:
        raise ValueError(f"freedom must be at least 1; got {freedom}")

    def inside(t: float) -> float:
        angle = math.atan(t / math.sqrt(freedom))
        sine, cosine = math.sin(angle), math.cos(angle)
        term = cosine if freedom % 2 else 1.0
        total = 0.0
        for k in range(freedom % 2 + 1, freedom, 2):  # cos, 2/3 cos^3, ... or 1, 1/2 cos^2, ...
            total += term
            term *= cosine**2 * k / (k + 1)
        return 2 / math.pi * (angle + sine * total) if freedom % 2 else sine * total

    low, high = 0.0, 1.0
    while inside(high) < confidence:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < confidence else (low, middle)
    return (low + high) / 2


def paired(cells: Sequence[Cell], other: str, outcome: str) -> Difference:
    """Chunks minus another method, in points of ``outcome`` (a field of Cell, or "score").

    The unit is a pair of models that share task, token count and seed, hence data, order of the clips and dev pairs.
    Tubelets have a number of tokens of their own, so that chunks of every number stand against them.
    Raises UserError when fewer than two such pairs are there.
    """
    scores = {(c.method, c.task, c.tokens, c.seed): float(getattr(c, outcome)) for c in cells}
    partners = {
        (task, tokens, seed): (other, task, CELLS if other == TUBELETS else tokens, seed)
        for method, task, tokens, seed in scores
        if method == "chunks"
    }
    differences = [scores["chunks", *cell] - scores[partner] for cell, partner in partners.items() if partner in scores]
    if len(differences) < 2:
        raise UserError(f"{len(differences)} pairs of chunks and {other} say nothing of their spread; needs at least 2")
    mean, deviation = float(np.mean(differences)), float(np.std(differences, ddof=1))
    half = student_quantile(len(differences) - 1) * deviation / math.sqrt(len(differences))
    return Difference(mean, mean - half, len(differences))


def settings(task: str, tokens: int, method: str, seed: int) -> Config:
    """The configuration of one cell: the task's own, made short, with the tokenizer (of TUBELETS, the encoder too)."""
    own: dict[str, Any]
    if method == TUBELETS:
        own = {"encoder.kind": "patches", "encoder.depths": BLOCKS, "routing.tokenizer": "grid", "routing.grid": GRID}
    elif method == "chunks":
        own = {"routing.grid": GRID, "routing.prior_strength": PRIOR, "routing.tokens": float(tokens)}
    else:
        own = {"routing.grid": RECTANGLES[tokens], "routing.tokenizer": METHODS[method]}
    backbone = {f"model.backbone.{name}": value for name, value in own.items()}
    compression = {"pretrain.compression": CELLS / tokens} if tokens < CELLS else {}
    return load_config(RECIPES[task].config, {**TRAINING, "seed": seed, **compression, **backbone})


def flops(method: str) -> int:
    """Floating-point operations of one frame of fetch-push, in convolutions and products of matrices.

    Of chunks the fewer of the two budgets; how they are joined is no product of matrices and not in it.
    """
    tokens = CELLS if method == TUBELETS else min(TOKENS)
    model = HNetViT(settings("fetch-push", tokens, method, 0).model.backbone)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 1, 64, 64, 3))
    return int(counter.get_total_flops())


def bodies(task: Task) -> dict[str, list[int]]:
    """Which of the recorded numbers are the place of what: {"cube": [0, 1, 2], "gripper": [3, 4, 5]}."""
    found: dict[str, list[int]] = {}
    for column, name in enumerate(task.states):
        if place := re.match(r"(\S+) [xyz] ", name):
            found.setdefault(place[1], []).append(column)
    return found


def robot_of(task: Task) -> list[int]:
    """Which of the recorded numbers are the place of what the robot moves itself."""
    [columns] = [columns for body, columns in bodies(task).items() if body != task.subject]
    return columns


@functools.cache
def reaching(task: Task) -> Task:
    """The task with the one criterion that the robot comes to where it was; the object's place does not count."""
    columns = robot_of(task)

    def distance(state: State, goal: State) -> float:
        return float(np.linalg.norm(state[columns] - goal[columns]))

    return replace(task, distance=distance, tolerances=(NEAR[task.name],))


class Unmeasured:
    """A phase without its own metrics, which would take as long as trainings as short as these."""

    def evaluate(self, model: HNetVJEPA, store: EpisodeStore) -> dict[str, float]:
        """Return none."""
        return {}


class ShortPretrain(Unmeasured, Pretrain):
    """Pretrain."""


class ShortProbe(Unmeasured, Probe):
    """Probe."""


class ShortAction(Unmeasured, Action):
    """Action."""


class ShortHeads(Unmeasured, Heads):
    """The second half of it."""


def fresh_model(config: Config, store: EpisodeStore) -> HNetVJEPA:
    """A model with weights that follow from the configuration's seed; nothing else in a training is random."""
    set_seed(config.seed)
    return HNetVJEPA(config, describe_robot(store))


def train_model(model: HNetVJEPA, phases: Sequence[Phase], store: EpisodeStore, folder: Path) -> Checkpoint:
    """Train a model in place as ``hnet train`` does, phase after phase."""
    records = []
    for phase in phases:
        outcome = train(phase, model, store, folder / f"{phase.name}.run", progress=False)
        if phase.name == "encoder_adaptation" or phase.name == "heads":
            continue  # which have no record of their own
        records.append(
            PhaseRecord(
                phase=phase.name,
                started_from="scratch",
                steps=outcome.steps,
                seconds=outcome.seconds,
                metrics={},
                data=store.info.source,
                data_fingerprint=store.fingerprint(),
                data_settings=store.info.settings,
            )
        )
    save_checkpoint(folder / "model", model, Manifest(phases=tuple(records), versions=versions()))
    return Checkpoint(folder / "model", model, read_manifest(folder / "model"))


def places_read(task: Task, checkpoint: Checkpoint, store: EpisodeStore) -> tuple[float, float]:
    """Points of object and robot: held-out frames in which a linear read-out of the planning state finds the place."""
    features, states = sampled_states(checkpoint.model, store, False, FRAMES)
    train, held_out = (states[half][:, : len(task.states)] for half in ("train", "held_out"))
    error = fit_probe(features["train"], train)(features["held_out"]) - held_out
    thing, robot = (
        100 * float((np.linalg.norm(error[:, columns], axis=1) <= READ[task.name]).mean())
        for columns in (bodies(task)[task.subject], robot_of(task))
    )
    return thing, robot


def balanced_accuracy(said: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """Mean over labels of the mean of both classes' accuracies (0 to 1); N x L each. Guessing gives 0.5.

    Labels that are always or never true do not count; NaN when none is left.
    """
    found = [
        (said[true[:, i], i].mean() + (~said[~true[:, i], i]).mean()) / 2
        for i in range(true.shape[1])
        if 0 < true[:, i].sum() < len(true)
    ]
    return float(np.mean(found)) if found else math.nan


@torch.no_grad()
def labels_read(checkpoint: Checkpoint, store: EpisodeStore) -> float:
    """Points of the probe: its balanced accuracy on held-out clips.

    A label is said to hold when its logit is above that of its frequency in training, so that rare labels are not
    simply denied.
    """
    model = checkpoint.model
    recorded = np.concatenate([e.labels for e in store.split("train") if e.labels is not None])
    share = np.clip(recorded.mean(0), 1e-3, 1 - 1e-3)
    said, true = [], []
    for batch in clip_batches(
        store, model.robot.action, "held_out", model.config.probe.clip_frames, model.device, FRAMES
    ):
        logits = model.probe(model.read(model.states(batch.video)[0])).double().cpu().numpy()
        said.append(logits > np.log(share / (1 - share)))
        true.append(batch.labels.cpu().numpy() > 0)
    return 100 * balanced_accuracy(np.concatenate(said), np.concatenate(true))


@torch.no_grad()
def calibrate(checkpoint: Checkpoint, store: EpisodeStore) -> None:
    """Let the chunks' threshold settle on training frames, now that the weights move no more (see BudgetedChunks)."""
    routing = checkpoint.model.backbone.routing
    if isinstance(routing, BudgetedChunks):
        routing.train()
        for batch in clip_batches(store, checkpoint.model.robot.action, "train", 1, checkpoint.model.device, FRAMES):
            checkpoint.model.backbone(batch.video)
        routing.eval()


@torch.no_grad()
def live_tokens(checkpoint: Checkpoint, store: EpisodeStore) -> tuple[float, float]:
    """Mean and spread of the number of tokens of a held-out frame that are no padding."""
    counts = [
        (~checkpoint.model.backbone(batch.video).chunk_mask).sum(-1).flatten()
        for batch in clip_batches(store, checkpoint.model.robot.action, "held_out", 1, checkpoint.model.device, FRAMES)
    ]
    live = torch.cat(counts).double()
    return float(live.mean()), float(live.std())


@functools.cache
def dev_pairs(task: Task, seed: int) -> tuple[Pair, ...]:
    """The pairs of a seed, the same for all models."""
    with contextlib.closing(task.open()) as simulation:
        return tuple(make_pairs(task, simulation, "dev", seed, PAIRS, "image", DISTANCE))


def solved(task: Task, policy: Policy, seed: int) -> float:
    """Points of success: dev pairs ``DISTANCE`` steps apart that meet the criterion of ``reaching`` at the end."""
    task = reaching(task)
    pairs = dev_pairs(task, seed)
    with contextlib.closing(task.open()) as simulation:
        played = play(task, simulation, policy, pairs, budget(task, DISTANCE), progress=False)
    return 100 * played.end(0).value


def make_cell(task: Task, data: Path, work: Path, tokens: int, method: str, seed: int) -> Cell:
    """Train and score one model, unless that was done before with the same settings."""
    config = settings(task.name, tokens, method, seed)
    folder = work / task.name / f"{tokens}-{method}-{seed}"
    measured = {"near": NEAR, "read": READ, "distance": DISTANCE, "pairs": PAIRS, "frames": FRAMES}
    asked = {"config": config.model_dump(mode="json"), **measured}
    path = folder / "cell.json"
    if path.is_file():
        known = json.loads(path.read_text())
        if known["asked"] == asked:
            return Cell(**known["cell"])
    store = EpisodeStore(data, config.data.folds, config.data.held_out_fold)
    phases = (ShortPretrain(), ShortProbe(), ShortAction(("probe",)), ShortHeads())
    checkpoint = train_model(fresh_model(config, store), phases, store, folder)
    calibrate(checkpoint, store)
    live, live_std = live_tokens(checkpoint, store)
    place, robot = places_read(task, checkpoint, store)
    cell = Cell(
        task=task.name,
        tokens=tokens,
        method=method,
        seed=seed,
        live=live,
        live_std=live_std,
        object=place,
        robot=robot,
        labels=labels_read(checkpoint, store),
        success=solved(task, local_planner(WorldModelPlanner(checkpoint)), seed),
    )
    write_json_atomic(path, {"asked": asked, "cell": asdict(cell)})
    return cell


@functools.cache
def bounds(task: Task, seed: int) -> dict[str, float]:
    """Success in points of random actions (the floor) and of the actions that led to the goals (the ceiling)."""
    policies: list[Policy] = [RandomPolicy(task), ReplayPolicy(task)]
    return {policy.name: solved(task, policy, seed) for policy in policies}


def metrics(cells: Sequence[Cell]) -> dict[str, Any]:
    """Differences of the score and of every outcome, how equal the token counts are, and the number of seeds."""
    found: dict[str, Any] = {"seeds": len({c.seed for c in cells})}
    made = {c.method for c in cells}
    for other in [name for name in (*METHODS, TUBELETS) if name in made - {"chunks"}]:
        for outcome, kind in (("score", "points"), *((name, f"{name}_points") for name in OUTCOMES)):
            difference = paired(cells, other, outcome)
            found[f"chunks_minus_{other}_{kind}_mean"] = difference.mean
            found[f"chunks_minus_{other}_{kind}_low95"] = difference.low95
            found[f"chunks_minus_{other}_pairs"] = difference.pairs
    found["tokens_off_most"] = max(abs(mean / tokens - 1) for tokens, mean in mean_tokens(cells).items())
    found["tokens_equal"] = found["tokens_off_most"] <= CLOSE
    return found


def mean_tokens(cells: Sequence[Cell]) -> dict[int, float]:
    """The chunks' mean number of live tokens over tasks and seeds, by the number that they should have."""
    chunks = [c for c in cells if c.method == "chunks"]
    return {tokens: float(np.mean([c.live for c in chunks if c.tokens == tokens])) for tokens in TOKENS}


def table(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Means over the seeds, a row for every task, token count and method."""
    rows = []
    for task, tokens, method in dict.fromkeys((c.task, c.tokens, c.method) for c in cells):
        alike = [c for c in cells if (c.task, c.tokens, c.method) == (task, tokens, method)]
        numbers = ("live", "live_std", "object", "robot", "labels", "success", "score")
        means = {name: float(np.mean([getattr(c, name) for c in alike])) for name in numbers}
        rows.append({"task": task, "tokens": tokens, "method": method, **means})
    return rows


def write(cells: Sequence[Cell], tasks: Sequence[Task]) -> Path:
    """Write the study's part of the result from the cells so far."""
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
        table=table(cells),
        cells=[{**asdict(c), "score": c.score} for c in cells],
        success_bounds=floor,
    )


def main(words: Sequence[str]) -> None:
    """Make all cells, seed after seed, as the words of the command line say. Raises UserError for what is wrong."""
    parser = argparse.ArgumentParser(
        prog=COMMAND, description="Compare dynamic chunks with fixed tokens at equal token count."
    )
    parser.add_argument("--work", type=Path, default=Path("outputs/chunking"), help="models and their scores")
    parser.add_argument("--episodes", type=Path, default=Path("outputs/sims"), help="<task>/episodes, made if missing")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    tasks = [get_task(name) for name in NEAR]
    data = {
        task.name: collect(task.name, RECIPES[task.name].episodes, 0, options.episodes / task.name / "episodes")
        for task in tasks
    }
    cells: list[Cell] = []
    # Tubelets come last: a study that has to be stopped has compared chunks at equal tokens first.
    for kinds in (list(itertools.product(TOKENS, METHODS)), [(CELLS, TUBELETS)]):
        for seed in SEEDS:
            for task, (tokens, method) in itertools.product(tasks, kinds):
                cell = make_cell(task, data[task.name], options.work, tokens, method, seed)
                print(cell, flush=True)
                cells.append(cell)
            print(write(cells, tasks), flush=True)
