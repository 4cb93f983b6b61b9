"""Does it help to pool chunks by saliency when the data says what is salient? The design document's question.

``HNET_RENDER=raycast python -m benchmarks.chunking --part saliency`` trains small models, as the study does, on
episodes of fetch-push in which every cell's saliency is known: the share of its pixels that show the cube or a finger,
from the rays that drew them. Three kinds, equal in all else:

* ``attention``: the product's pooling; no label is used.
* ``loss``: the same, and the divergence of its attention from the saliency is minimised beside the other losses.
* ``mean``: every slot is the mean of the chunks near it, weighted by saliency. The saliency is *predicted* from the
  chunk, and the same loss teaches the prediction, so that no label is needed once the model is trained.

Scores are the study's. Every model leaves one JSON in the work directory and is not trained again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.chunking import study
from benchmarks.record import merge_result
from hnet_vjepa.config import PoolingConfig
from hnet_vjepa.data.batch import Batch, clip_batches
from hnet_vjepa.data.store import Episode, EpisodeStore, create_store, write_shard
from hnet_vjepa.errors import UserError
from hnet_vjepa.losses.auxiliaries import saliency_loss
from hnet_vjepa.models.hnet.downsampler import LearnedAttentionPooling, Pooled
from hnet_vjepa.models.hnet.routing import Routing
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.models.vjepa.vit import Chunks
from hnet_vjepa.planning.planner import WorldModelPlanner
from hnet_vjepa.utils.files import write_json_atomic
from sims.core.collect import SHARD_EPISODES, record, store_info
from sims.core.registry import get_task
from sims.core.rendering import RayCaster, backend
from sims.core.seeds import episode_seed
from sims.core.task import Task
from sims.evaluation.policies import local_planner
from sims.tasks import fetch, fetch_push

COMMAND = "HNET_RENDER=raycast python -m benchmarks.chunking --part saliency"
TASK = "fetch-push"
EPISODES = 400
KINDS = ("attention", "loss", "mean")
SEEDS = (1, 2, 3)
TOKENS = 8
WEIGHT = 0.1  # of the saliency loss
SALIENT = ("object0", *(f"robot0:{name}" for name in fetch.FINGERS))  # names of the bodies that count

Array = NDArray[np.float32]


class Watching(fetch_push.FetchPush):
    """Fetch push, drawn by the ray caster, that also notes the saliency of every picture that it draws."""

    def __init__(self) -> None:
        super().__init__()
        wanted = [self._model.body(name).id for name in SALIENT]
        self._geoms = np.flatnonzero(np.isin(self._model.geom_bodyid, wanted))
        size = fetch_push.CAMERA
        self._caster = RayCaster(self._model, self._data, fetch_push.VIEW, size.height, size.width, 1.0)
        self.noted: list[Array] = []

    def frame(self) -> NDArray[np.uint8]:
        """Draw, and note the saliency of the cells: N, in reading order."""
        picture = self._caster.render()
        self.noted.append(cell_shares(np.isin(self._caster.geoms(), self._geoms), study.GRID))
        return picture


def cell_shares(salient: NDArray[np.bool_], grid: tuple[int, int]) -> Array:
    """Share of every cell's pixels that are salient: H x W, a multiple of the grid, -> rows * columns."""
    rows, columns = grid
    height, width = salient.shape
    cells = salient.reshape(rows, height // rows, columns, width // columns)
    return cells.mean((1, 3)).astype(np.float32).ravel()


def collect_labelled(task: Task, episodes: int, seed: int, out: Path) -> Path:
    """Collect as ``sims.core.collect``, with the cells' saliency as further numbers of the recorded state."""
    cells = tuple(f"saliency of cell {i}" for i in range(study.CELLS))
    info = store_info(task, episodes, seed, "raycast").model_copy(update={"states": (*task.states, *cells)})
    missing = sorted(set(range(info.shards)) - create_store(out, info))
    with contextlib.closing(Watching()) as watching:
        for number in missing:
            first = number * SHARD_EPISODES
            indices = range(first, min(first + SHARD_EPISODES, episodes))
            write_shard(
                out, number, info, [_labelled(task, watching, episode_seed("collect", seed, i), i) for i in indices]
            )
    return out


def _labelled(task: Task, watching: Watching, seed: int, index: int) -> Episode:
    watching.noted.clear()
    episode = record(task, watching, seed, index)
    assert episode.states is not None
    return replace(episode, states=np.concatenate([episode.states, np.stack(watching.noted)], 1))


class SaliencyMean(nn.Module):
    """M chunks to M' slots: means of the chunks near each slot's anchor, weighted by how salient each is predicted.

    ``weight_jk = softmax_k( log sigmoid(u . z_k) + w log size_k - s |anchor_j - centroid_k|^2 )``: the product's
    pooling with one saliency for all slots in place of what each slot's query finds.
    """

    def __init__(self, dim: int, config: PoolingConfig) -> None:
        super().__init__()
        self.places = LearnedAttentionPooling(dim, *config.grid, config.prior_strength, config.size_weight)
        nothing = torch.zeros_like(self.places.queries)
        del self.places.queries
        self.places.register_buffer("queries", nothing)  # no slot looks for anything
        self.look = nn.Linear(dim, 1)

    @property
    def anchors(self) -> Tensor:
        """The slots' places, M' x 2."""
        return self.places.anchors

    def saliency(self, chunks: Tensor) -> Tensor:
        """Predicted saliency of chunks ... x K x D, from 0 to 1: ... x K."""
        return self.look(self.places.norm(chunks)).squeeze(-1).float().sigmoid()

    def forward(self, routing: Routing) -> Pooled:
        """Pool B x K chunks to B x M' slots; which slot a chunk counts for does not depend on its saliency."""
        plain = self.places(routing)
        salient = self.saliency(routing.chunks).clamp(min=1e-6)
        weighted = self.places(replace(routing, gate=routing.gate * salient))  # a factor is a logarithm's summand
        return replace(plain, slots=weighted.slots, centroids=weighted.centroids, attention=weighted.attention)


def divergence(model: HNetVJEPA, chunks: Chunks, states: Tensor) -> Tensor:
    """``KL(saliency || what the pooling attends to)``, mean over B x T frames; the states end with the N saliencies."""
    saliency = states[..., -chunks.cells.shape[2] :]  # B x T x N
    attention, unused = chunks.attention.flatten(0, 1), chunks.mask.flatten(0, 1)
    if isinstance(model.backbone.pooling, SaliencyMean):  # what is predicted, wherever the slots lie
        attention = model.backbone.pooling.saliency(chunks.chunks).flatten(0, 1)[:, None]  # BT x 1 x K
        unused = unused[:, :1] & False
    assignment, dead = chunks.assignment.flatten(0, 1), chunks.chunk_mask.flatten(0, 1)
    return saliency_loss(saliency.flatten(0, 1), assignment, attention, dead, unused)


class SalientAction(study.ShortAction):
    """Action, and the saliency loss on the chunks of every frame."""

    def loss(self, model: HNetVJEPA, batch: Batch) -> dict[str, Tensor]:
        """Add ``saliency`` to the terms."""
        made: list[Chunks] = []
        hook = model.backbone.register_forward_hook(lambda _, __, chunks: made.append(chunks))
        with hook:
            losses = super().loss(model, batch)
        return losses | {"saliency": WEIGHT * divergence(model, made[0], batch.states)}


@dataclass(frozen=True)
class Cell:
    """One model and its scores, in points (0 to 100) but for the divergence."""

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
        """As the study's."""
        return float(np.mean([getattr(self, name) for name in study.OUTCOMES]))


@torch.no_grad()
def divergence_measured(model: HNetVJEPA, store: EpisodeStore) -> float:
    """Mean divergence on held-out frames."""
    found = []
    for batch in clip_batches(store, model.robot.action, "held_out", 1, model.device, study.FRAMES):
        found.append(float(divergence(model, model.backbone(batch.video), batch.states)))
    return float(np.mean(found))


def make_cell(task: Task, data: Path, work: Path, kind: str, seed: int) -> Cell:
    """Train and score one model, unless that was done before with the same settings."""
    config = study.settings(task.name, TOKENS, "chunks", seed)
    path = work / f"{kind}-{seed}" / "cell.json"
    asked = {"config": config.model_dump(mode="json"), "weight": WEIGHT, "pairs": study.PAIRS, "frames": study.FRAMES}
    if path.is_file():
        known = json.loads(path.read_text())
        if known["asked"] == asked:
            return Cell(**known["cell"])
    store = EpisodeStore(data, config.data.folds, config.data.held_out_fold)
    model = study.fresh_model(config, store)
    if kind == "mean":
        for encoder in (model.backbone, model.target):
            encoder.register_module("pooling", SaliencyMean(encoder.dim, config.model.backbone.pooling))
        model.target.requires_grad_(False)
    action = study.ShortAction if kind == "attention" else SalientAction
    phases = (study.ShortPretrain(), study.ShortProbe(), action(("probe",)), study.ShortHeads())
    checkpoint = study.train_model(model, phases, store, path.parent)
    study.calibrate(checkpoint, store)
    place, robot = study.places_read(task, checkpoint, store)
    cell = Cell(
        kind=kind,
        seed=seed,
        live=study.live_tokens(checkpoint, store)[0],
        divergence=divergence_measured(model, store),
        object=place,
        robot=robot,
        labels=study.labels_read(checkpoint, store),
        success=study.solved(task, local_planner(WorldModelPlanner(checkpoint)), seed),
    )
    write_json_atomic(path, {"asked": asked, "cell": asdict(cell)})
    return cell


def figures(cells: Sequence[Cell]) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Means over the seeds, a row for every kind; and every other kind minus ``attention``, paired by seed."""
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
    """Write the part of the result."""
    table, metrics = figures(cells)
    settings = {
        "task": TASK,
        "episodes": EPISODES,
        "tokens": TOKENS,
        "seeds": len({c.seed for c in cells}),
        "weight": WEIGHT,
        "salient": SALIENT,
        "training": study.TRAINING,
        "pairs": study.PAIRS,
        "distance": study.DISTANCE,
        "score": f"mean of {', '.join(study.OUTCOMES)}",
    }
    rows = [{**asdict(c), "score": c.score} for c in cells]
    return merge_result("chunking", "saliency", COMMAND, settings, metrics, table=table, cells=rows)


def main(words: Sequence[str]) -> None:
    """Make all models, seed after seed. Raises UserError when pictures would not be drawn by rays."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Compare ways to pool where saliency is known.")
    parser.add_argument("--work", type=Path, default=Path("outputs/saliency"), help="episodes, models and scores")
    options = parser.parse_args(words)
    if backend() != "raycast":
        raise UserError(f"saliency is known from the rays that draw a picture; run {COMMAND}")
    torch.set_num_threads(1)
    task = get_task(TASK)
    data = collect_labelled(task, EPISODES, 0, options.work / "episodes")
    cells: list[Cell] = []
    for seed in SEEDS:
        for kind in KINDS:
            cells.append(make_cell(task, data, options.work, kind, seed))
            print(cells[-1], flush=True)
        print(write(cells), flush=True)
