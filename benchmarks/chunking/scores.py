"""The scores of the study: what a model's planning state represents, and its closed-loop success."""

from __future__ import annotations

import contextlib
import functools
import math
import re
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.chunking.small_models import FRAMES
from hnet_vjepa.checkpoint import Checkpoint
from hnet_vjepa.data.batch import clip_batches
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.trainers.linear_probe import fit_probe, sampled_states
from sims.core.task import State, Task
from sims.evaluation.evaluate import play
from sims.evaluation.pairs import Pair, budget, make_pairs
from sims.evaluation.policies import Policy, RandomPolicy, ReplayPolicy

NEAR = {"fetch-push": 0.05, "push-t": 20.0}  # metres and pixels: the position tolerances of the tasks' loosest criteria
READ = {"fetch-push": 0.03, "push-t": 30.0}  # tolerance of a predicted position: a tenth of the objects' range
DISTANCE = 15  # steps of the environment between start and goal, few enough for models as small as these
PAIRS = 12


def bodies(task: Task) -> dict[str, list[int]]:
    """Columns of the recorded state that hold positions, by body: {"cube": [0, 1, 2], "gripper": [3, 4, 5]}."""
    found: dict[str, list[int]] = {}
    for column, name in enumerate(task.states):
        if place := re.match(r"(\S+) [xyz] ", name):
            found.setdefault(place[1], []).append(column)
    return found


def robot_of(task: Task) -> list[int]:
    """Columns of the recorded state that hold the position of what the robot moves itself."""
    [columns] = [columns for body, columns in bodies(task).items() if body != task.subject]
    return columns


@functools.cache
def reaching(task: Task) -> Task:
    """The task with one criterion, the robot's position; the object's position does not count."""
    columns = robot_of(task)

    def distance(state: State, goal: State) -> float:
        return float(np.linalg.norm(state[columns] - goal[columns]))

    return replace(task, distance=distance, tolerances=(NEAR[task.name],))


def position_scores(task: Task, checkpoint: Checkpoint, store: EpisodeStore) -> tuple[float, float]:
    """Points of object and robot: held-out frames in which a linear probe of the planning state finds the position."""
    features, states = sampled_states(checkpoint.model, store, False, FRAMES)
    train, held_out = (states[half][:, : len(task.states)] for half in ("train", "held_out"))
    error = fit_probe(features["train"], train)(features["held_out"]) - held_out
    thing, robot = (
        100 * float((np.linalg.norm(error[:, columns], axis=1) <= READ[task.name]).mean())
        for columns in (bodies(task)[task.subject], robot_of(task))
    )
    return thing, robot


def balanced_accuracy(predicted: NDArray[np.bool_], true: NDArray[np.bool_]) -> float:
    """Mean over labels of the mean of both classes' accuracies (0 to 1); N x L each. Guessing gives 0.5.

    Labels that are always or never true do not count; NaN when none is left.
    """
    found = [
        (predicted[true[:, i], i].mean() + (~predicted[~true[:, i], i]).mean()) / 2
        for i in range(true.shape[1])
        if 0 < true[:, i].sum() < len(true)
    ]
    return float(np.mean(found)) if found else math.nan


@torch.no_grad()
def label_score(checkpoint: Checkpoint, store: EpisodeStore) -> float:
    """Points of the label head: its balanced accuracy on held-out clips.

    A label is predicted when its logit is above that of its frequency in training; with a threshold of 0.5, rare labels
    would never be predicted.
    """
    model = checkpoint.model
    recorded = np.concatenate([e.labels for e in store.split("train") if e.labels is not None])
    share = np.clip(recorded.mean(0), 1e-3, 1 - 1e-3)
    predicted, true = [], []
    frames = model.config.probe.clip_frames
    for batch in clip_batches(store, model.robot.action, "held_out", frames, model.device, FRAMES):
        logits = model.probe(model.read(model.states(batch.video)[0])).double().cpu().numpy()
        predicted.append(logits > np.log(share / (1 - share)))
        true.append(batch.labels.cpu().numpy() > 0)
    return 100 * balanced_accuracy(np.concatenate(predicted), np.concatenate(true))


@functools.cache
def dev_pairs(task: Task, seed: int) -> tuple[Pair, ...]:
    """The pairs of a seed, the same for all models."""
    with contextlib.closing(task.open()) as simulation:
        return tuple(make_pairs(task, simulation, "dev", seed, PAIRS, "image", DISTANCE))


def success_score(task: Task, policy: Policy, seed: int) -> float:
    """Points of success: dev pairs, goals ``DISTANCE`` steps away, that meet ``reaching``'s criterion at the end."""
    task = reaching(task)
    pairs = dev_pairs(task, seed)
    with contextlib.closing(task.open()) as simulation:
        played = play(task, simulation, policy, pairs, budget(task, DISTANCE), progress=False)
    return 100 * played.end(0).value


@functools.cache
def bounds(task: Task, seed: int) -> dict[str, float]:
    """Success in points of random actions (the floor) and of the recorded actions to the goals (the ceiling)."""
    policies: list[Policy] = [RandomPolicy(task), ReplayPolicy(task)]
    return {policy.name: success_score(task, policy, seed) for policy in policies}
