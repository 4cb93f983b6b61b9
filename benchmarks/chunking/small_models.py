"""The small models of the study: one configuration for each tokenizer, everything else equal, and their training."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.recipes import RECIPES
from hnet_vjepa.checkpoint import Checkpoint, Manifest, PhaseRecord, read_manifest, save_checkpoint
from hnet_vjepa.config import Config, load_config
from hnet_vjepa.data.batch import clip_batches
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.models.hnet.tokenizers import BudgetedChunks
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.models.vjepa.vit import HNetViT
from hnet_vjepa.pipeline import describe_robot
from hnet_vjepa.trainers.action_posttrain import Action
from hnet_vjepa.trainers.engine import train
from hnet_vjepa.trainers.heads import Heads
from hnet_vjepa.trainers.phase import Phase
from hnet_vjepa.trainers.pretrain import Pretrain
from hnet_vjepa.trainers.probe_train import Probe
from hnet_vjepa.utils.runtime import set_seed, versions

TOKENS = (8, 16)
METHODS = {"chunks": "chunks", "uniform": "grid", "random": "random", "merge": "merge"}  # to tokenizers
RECTANGLES = {8: (2, 4), 16: (4, 4)}  # rows and columns whose product is the token count
GRID = (8, 8)  # cells of a frame of 64 x 64 pixels, and as many prototypes before Ward merges
CELLS = GRID[0] * GRID[1]
PRIOR = 60.0  # position prior of the chunks' prototypes: nearly all of a cell belongs to its own prototype
TUBELETS = "tubelets"  # at equal compute: every cell is a token, made from its pixels by a linear map and a transformer
BLOCKS = (2, 2)  # of that transformer; with them a frame costs as much as with chunks (see flops)
FRAMES = 1000  # frames, or clips, of a split that are measured on

TRAINING = {
    "pretrain.steps": 30,
    "pretrain.batch_size": 16,
    "pretrain.clip_frames": 3,
    "probe.steps": 40,
    "probe.batch_size": 32,
    "action.steps": 200,
    "action.batch_size": 16,
    "action.clip_frames": 4,
    "action.frozen_encoder": False,  # the pretraining is too short to freeze the encoder after it
    "heads.steps": 300,
    "heads.batch_size": 16,
    "heads.clip_frames": 4,
    **{f"{phase}.save_every": 1000 for phase in ("pretrain", "probe", "action", "heads")},  # a cell starts from scratch
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


def settings(task: str, tokens: int, method: str, seed: int) -> Config:
    """The configuration of one cell: the task's own, shortened, with the tokenizer (for TUBELETS, the encoder too)."""
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
    """Floating-point operations of one frame of fetch-push, in convolutions and matrix products.

    For chunks with the smaller of the two budgets; Ward merges contain no matrix product and are not counted.
    """
    tokens = CELLS if method == TUBELETS else min(TOKENS)
    model = HNetViT(settings("fetch-push", tokens, method, 0).model.backbone)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        model(torch.zeros(1, 1, 64, 64, 3))
    return int(counter.get_total_flops())


class Unmeasured:
    """A phase without its own metrics, which would take as long as these short trainings."""

    def evaluate(self, model: HNetVJEPA, store: EpisodeStore) -> dict[str, float]:
        """Return no metrics."""
        return {}


class ShortPretrain(Unmeasured, Pretrain):
    """The phase ``pretrain``."""


class ShortProbe(Unmeasured, Probe):
    """The phase ``probe``."""


class ShortAction(Unmeasured, Action):
    """The phase ``action``, without its stage ``heads``."""


class ShortHeads(Unmeasured, Heads):
    """The stage ``heads`` of the phase ``action``."""


def fresh_model(config: Config, store: EpisodeStore) -> HNetVJEPA:
    """A model with weights from the configuration's seed; nothing else in a training is random."""
    set_seed(config.seed)
    return HNetVJEPA(config, describe_robot(store))


def train_model(model: HNetVJEPA, phases: Sequence[Phase], store: EpisodeStore, folder: Path) -> Checkpoint:
    """Train a model in place as ``hnet train`` does, phase after phase."""
    records = []
    for phase in phases:
        outcome = train(phase, model, store, folder / f"{phase.name}.run", progress=False)
        if phase.name == "encoder_adaptation" or phase.name == "heads":
            continue  # these stages have no record of their own
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


@torch.no_grad()
def calibrate(checkpoint: Checkpoint, store: EpisodeStore) -> None:
    """Let the chunks' threshold converge on training frames with the final weights (see BudgetedChunks)."""
    model = checkpoint.model
    routing = model.backbone.routing
    if isinstance(routing, BudgetedChunks):
        routing.train()
        for batch in clip_batches(store, model.robot.action, "train", 1, model.device, FRAMES):
            model.backbone(batch.video)
        routing.eval()


@torch.no_grad()
def live_tokens(checkpoint: Checkpoint, store: EpisodeStore) -> tuple[float, float]:
    """Mean and standard deviation of the number of tokens of a held-out frame, without padding."""
    model = checkpoint.model
    counts = [
        (~model.backbone(batch.video).chunk_mask).sum(-1).flatten()
        for batch in clip_batches(store, model.robot.action, "held_out", 1, model.device, FRAMES)
    ]
    live = torch.cat(counts).double()
    return float(live.mean()), float(live.std())
