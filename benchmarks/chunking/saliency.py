"""Does pooling chunks by saliency help when the data has saliency labels? The design document's question.

``HNET_RENDER=raycast python -m benchmarks.chunking --part saliency`` trains small models, as the study does, on
episodes of fetch-push in which every cell's saliency is known: the share of its pixels that show the cube or a finger,
from the rays that drew them. Three kinds, otherwise equal:

* ``attention``: the pooling of the shipped models; no label is used.
* ``loss``: the same, with the divergence of its attention from the saliency as a further loss.
* ``mean``: every slot is the mean of the chunks near it, weighted by saliency. The saliency is *predicted* from the
  chunk and trained by the same loss, so that no label is needed after training.

Scores are the study's. Every model writes one JSON to the work directory and is not trained again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.chunking.labelled_push import SALIENT, collect_labelled
from benchmarks.chunking.paired import OUTCOMES
from benchmarks.chunking.scores import DISTANCE, PAIRS, label_score, position_scores, success_score
from benchmarks.chunking.small_models import (
    FRAMES,
    TRAINING,
    ShortAction,
    ShortHeads,
    ShortPretrain,
    ShortProbe,
    calibrate,
    fresh_model,
    live_tokens,
    settings,
    train_model,
)
from benchmarks.record import merge_result
from benchmarks.table import Result, Table
from hnet_vjepa.config import PoolingConfig
from hnet_vjepa.data.batch import Batch, clip_batches
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.errors import UserError
from hnet_vjepa.losses.auxiliaries import saliency_loss
from hnet_vjepa.models.hnet.downsampler import LearnedAttentionPooling, Pooled
from hnet_vjepa.models.hnet.routing import Routing
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.models.vjepa.vit import Chunks
from hnet_vjepa.planning.planner import WorldModelPlanner
from hnet_vjepa.utils.files import write_json_atomic
from sims.core.registry import get_task
from sims.core.rendering import backend
from sims.core.task import Task
from sims.evaluation.policies import local_planner

COMMAND = "HNET_RENDER=raycast python -m benchmarks.chunking --part saliency"
TASK = "fetch-push"
EPISODES = 400
KINDS = {"attention": "attention", "loss": "attention, saliency loss", "mean": "saliency"}  # to names in the table
SEEDS = (1, 2, 3)
TOKENS = 8
WEIGHT = 0.1  # of the saliency loss


class SaliencyMean(nn.Module):
    """M chunks to M' slots: means of the chunks near each slot's anchor, weighted by their predicted saliency.

    ``weight_jk = softmax_k( log sigmoid(u . z_k) + w log size_k - s |anchor_j - centroid_k|^2 )``: the shipped
    pooling with one saliency for all slots in place of each slot's query.
    """

    def __init__(self, dim: int, config: PoolingConfig) -> None:
        super().__init__()
        self.places = LearnedAttentionPooling(dim, *config.grid, config.prior_strength, config.size_weight)
        zeros = torch.zeros_like(self.places.queries)
        del self.places.queries
        self.places.register_buffer("queries", zeros)  # so that the attention has no content term
        self.predict = nn.Linear(dim, 1)

    @property
    def anchors(self) -> Tensor:
        """The slots' positions, M' x 2."""
        return self.places.anchors

    def saliency(self, chunks: Tensor) -> Tensor:
        """Predicted saliency of chunks ... x K x D, from 0 to 1: ... x K."""
        return self.predict(self.places.norm(chunks)).squeeze(-1).float().sigmoid()

    def forward(self, routing: Routing) -> Pooled:
        """Pool B x K chunks to B x M' slots; the sizes of the slots do not depend on the saliency."""
        plain = self.places(routing)
        salient = self.saliency(routing.chunks).clamp(min=1e-6)
        weighted = self.places(
            replace(routing, gate=routing.gate * salient)
        )  # the attention adds the logarithm of the gate
        return replace(plain, slots=weighted.slots, centroids=weighted.centroids, attention=weighted.attention)


def divergence(model: HNetVJEPA, chunks: Chunks, states: Tensor) -> Tensor:
    """``KL(saliency || pooling attention)``, mean over B x T frames; the states end with the N cells' saliency."""
    saliency = states[..., -chunks.cells.shape[2] :]  # B x T x N
    attention, unused = chunks.attention.flatten(0, 1), chunks.mask.flatten(0, 1)
    if isinstance(model.backbone.pooling, SaliencyMean):  # the prediction, independent of the slots
        attention = model.backbone.pooling.saliency(chunks.chunks).flatten(0, 1)[:, None]  # BT x 1 x K
        unused = unused[:, :1] & False
    assignment, dead = chunks.assignment.flatten(0, 1), chunks.chunk_mask.flatten(0, 1)
    return saliency_loss(saliency.flatten(0, 1), assignment, attention, dead, unused)


class SalientAction(ShortAction):
    """The phase ``action`` with the saliency loss on the chunks of every frame."""

    def loss(self, model: HNetVJEPA, batch: Batch) -> dict[str, Tensor]:
        """Add ``saliency`` to the terms."""
        made: list[Chunks] = []
        hook = model.backbone.register_forward_hook(lambda _, __, chunks: made.append(chunks))
        with hook:
            losses = super().loss(model, batch)
        return losses | {"saliency": WEIGHT * divergence(model, made[0], batch.states)}


@dataclass(frozen=True)
class Cell:
    """One model and its scores, in points (0 to 100) except for the divergence."""

    kind: str
    seed: int
    live: float
    divergence: float  # of the pooling's attention from the saliency, on held-out frames
    object: float
    robot: float
    labels: float
    success: float

    @property
    def score(self) -> float:
        """The mean of the outcomes, as in the study."""
        return float(np.mean([getattr(self, name) for name in OUTCOMES]))


@torch.no_grad()
def held_out_divergence(model: HNetVJEPA, store: EpisodeStore) -> float:
    """Mean divergence on held-out frames."""
    found = []
    for batch in clip_batches(store, model.robot.action, "held_out", 1, model.device, FRAMES):
        found.append(float(divergence(model, model.backbone(batch.video), batch.states)))
    return float(np.mean(found))


def make_cell(task: Task, data: Path, work: Path, kind: str, seed: int) -> Cell:
    """Train and score one model, unless the work directory has its scores with the same settings."""
    config = settings(task.name, TOKENS, "chunks", seed)
    path = work / f"{kind}-{seed}" / "cell.json"
    wanted = {"config": config.model_dump(mode="json"), "weight": WEIGHT, "pairs": PAIRS, "frames": FRAMES}
    if path.is_file():
        known = json.loads(path.read_text())
        if known["asked"] == wanted:
            return Cell(**known["cell"])
    store = EpisodeStore(data, config.data.folds, config.data.held_out_fold)
    model = fresh_model(config, store)
    if kind == "mean":
        for encoder in (model.backbone, model.target):
            encoder.register_module("pooling", SaliencyMean(encoder.dim, config.model.backbone.pooling))
        model.target.requires_grad_(False)
    action = ShortAction if kind == "attention" else SalientAction
    phases = (ShortPretrain(), ShortProbe(), action(("probe",)), ShortHeads())
    checkpoint = train_model(model, phases, store, path.parent)
    calibrate(checkpoint, store)
    thing, robot = position_scores(task, checkpoint, store)
    cell = Cell(
        kind=kind,
        seed=seed,
        live=live_tokens(checkpoint, store)[0],
        divergence=held_out_divergence(model, store),
        object=thing,
        robot=robot,
        labels=label_score(checkpoint, store),
        success=success_score(task, local_planner(WorldModelPlanner(checkpoint)), seed),
    )
    write_json_atomic(path, {"asked": wanted, "cell": asdict(cell)})
    return cell


def summarise(cells: Sequence[Cell]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Means over the seeds, a row for every kind; and the difference of every other kind to ``attention``, by seed."""
    numbers = ("live", "divergence", "object", "robot", "labels", "success", "score")
    table, metrics = [], {}
    plain = {c.seed: c.score for c in cells if c.kind == "attention"}
    for kind in KINDS:
        alike = [c for c in cells if c.kind == kind]
        table.append({"kind": kind, **{n: float(np.mean([getattr(c, n) for c in alike])) for n in numbers}})
        if kind != "attention":
            wins = [c.score - plain[c.seed] for c in alike]
            metrics[f"saliency_{kind}_minus_attention_points_mean"] = float(np.mean(wins))
            metrics[f"saliency_{kind}_minus_attention_points_std"] = float(np.std(wins))
    return table, metrics


def write(cells: Sequence[Cell]) -> Path:
    """Write the part of the result from the cells so far."""
    table, metrics = summarise(cells)
    about = {
        "task": TASK,
        "episodes": EPISODES,
        "tokens": TOKENS,
        "seeds": len({c.seed for c in cells}),
        "weight": WEIGHT,
        "salient": SALIENT,
        "training": TRAINING,
        "pairs": PAIRS,
        "distance": DISTANCE,
        "score": f"mean of {', '.join(OUTCOMES)}",
    }
    rows = [{**asdict(c), "score": c.score} for c in cells]
    return merge_result("chunking", "saliency", COMMAND, about, metrics, table=table, cells=rows)


def main(words: Sequence[str]) -> None:
    """Train all models, seed after seed. Raises UserError when frames would not be drawn by the ray caster."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Compare ways to pool where saliency is known.")
    parser.add_argument(
        "--work", type=Path, default=Path("outputs/saliency"), help="where episodes, models and scores are kept"
    )
    options = parser.parse_args(words)
    if backend() != "raycast":
        raise UserError(f"saliency labels need the ray caster; run {COMMAND}")
    torch.set_num_threads(1)
    task = get_task(TASK)
    data = collect_labelled(task, EPISODES, 0, options.work / "episodes")
    cells: list[Cell] = []
    for seed in SEEDS:
        for kind in KINDS:
            cells.append(make_cell(task, data, options.work, kind, seed))
            print(cells[-1], flush=True)
        print(write(cells), flush=True)


def table(result: Result) -> Table:
    """Pooling by attention, by attention with a saliency loss, and by predicted saliency."""
    part = result.parts["saliency"]
    about = part["settings"]
    outcomes = ("object", "robot", "labels", "success", "score")
    rows = []
    for row in part["table"]:
        key = f"saliency_{row['kind']}_minus_attention_points"
        against = (
            f"{result.metrics[f'{key}_mean']:+.1f} ± {result.metrics[f'{key}_std']:.1f}"
            if f"{key}_mean" in result.metrics
            else "–"
        )
        numbers = [f"{row['divergence']:.2f}", *(f"{row[name]:.1f}" for name in outcomes), against]
        rows.append([KINDS[row["kind"]], *numbers])
    note = (
        f"`{about['task']}`, {about['tokens']} chunks, {about['episodes']} episodes, means over "
        f"{about['seeds']} seeds; points from 0 to 100, the score is the {about['score']}. Divergence of "
        f"the pooling attention from the saliency, on held-out frames. Weight of the loss {about['weight']:g}. "
        "Last column: mean and standard deviation over the seeds."
    )
    return Table(["pooled by", "divergence", *outcomes, "score against the first"], rows, note, ("saliency",))
