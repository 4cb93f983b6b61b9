"""How much of the cells' features the chunks preserve: the variance that the dechunker's reconstruction explains.

``python -m benchmarks.chunking --part reconstruction CHECKPOINT DATA`` takes a checkpoint of the phase ``pretrain``,
which trains the dechunker, and the episodes it was trained on. It writes the part ``reconstruction`` of
``benchmarks/results/chunking.json`` and ``docs/images/reconstruction.png``.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from benchmarks.record import ROOT, merge_result
from benchmarks.table import Result, Table
from hnet_vjepa.checkpoint import load_checkpoint
from hnet_vjepa.data.batch import clip_batches
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.data.summary import encode_png
from hnet_vjepa.errors import UserError
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.utils.files import write_bytes_atomic

COMMAND = "python -m benchmarks.chunking --part reconstruction"
PLOT = ROOT / "docs" / "images" / "reconstruction.png"
FRAMES = 500  # held-out frames that are measured on
SHOWN = 6
SIDE = 128  # pixels of a shown frame
GAP = 6


@dataclass(frozen=True)
class Reconstruction:
    """Cell features of N frames, each N x cells x D: the target, from chunks alone, and with the residual."""

    target: Tensor
    chunks: Tensor
    whole: Tensor
    grid: tuple[int, int]


@torch.no_grad()
def reconstruct(model: HNetVJEPA, video: Tensor) -> Reconstruction:
    """Dechunk frames (N x 1 x H x W x 3, normalised) as the phase ``pretrain`` does."""
    seen, target = model.backbone(video), model.target(video)
    parts = (seen.chunks, seen.assignment, seen.chunk_centroids, seen.chunk_mask)
    args = [part.flatten(0, 1) for part in parts]
    cells = target.cells.flatten(0, 1).float()
    return Reconstruction(
        F.layer_norm(cells, cells.shape[-1:]),
        model.dechunker(*args).float(),
        model.dechunker(*args, seen.cells.flatten(0, 1)).float(),
        (target.grid[1], target.grid[2]),
    )


def explained(target: Tensor, made: Tensor) -> float:
    """Share of the target's variance around its mean that ``made`` explains; 1 when equal. Both N x cells x D."""
    error = (target - made).square().sum()
    return float(1 - error / (target - target.mean((0, 1))).square().sum())


def colours(features: Tensor, like: Tensor) -> NDArray[np.uint8]:
    """Features ... x D as colours ... x 3: the first three principal components of ``like``, outliers clipped."""
    rows = like.flatten(0, -2).double()
    middle = rows.mean(0)
    axes = torch.linalg.svd(rows - middle, full_matrices=False).Vh[:3].T  # D x 3
    spread = (rows - middle) @ axes
    low, high = spread.quantile(0.02, 0), spread.quantile(0.98, 0)
    shown = ((features.double() - middle) @ axes - low) / (high - low).clamp(min=1e-9)
    return np.asarray((shown.clamp(0, 1) * 255).byte())


def draw(frames: NDArray[np.uint8], rebuilt: Reconstruction) -> Image.Image:
    """A column per frame (N x H x W x 3): the frame, target features, features from chunks alone, with the residual."""
    rows, columns = rebuilt.grid
    pictures = [frames]
    for features in (rebuilt.target, rebuilt.chunks, rebuilt.whole):
        pictures.append(colours(features, rebuilt.target).reshape(len(frames), rows, columns, 3))
    sheet = Image.new("RGB", ((SIDE + GAP) * len(frames) - GAP, (SIDE + GAP) * len(pictures) - GAP), "white")
    for down, row in enumerate(pictures):
        for along, picture in enumerate(row):
            large = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(large, (along * (SIDE + GAP), down * (SIDE + GAP)))
    return sheet


def main(words: Sequence[str]) -> None:
    """Measure, draw, write. Raises UserError for a checkpoint of another phase than ``pretrain``."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Reconstruct the cells' features from chunks.")
    parser.add_argument("checkpoint", type=Path, help="of the phase pretrain (hnet train --phases pretrain)")
    parser.add_argument("data", type=Path, help="its episodes")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(options.checkpoint)
    model, trained = checkpoint.model, checkpoint.manifest.trained()
    if trained != ("pretrain",):
        raise UserError(f"{options.checkpoint} was trained in {', '.join(trained) or 'no phase'}; needs pretrain alone")
    store = EpisodeStore(options.data, model.config.data.folds, model.config.data.held_out_fold)
    batches = clip_batches(store, model.robot.action, "held_out", 1, model.device, FRAMES)
    video = torch.cat([batch.video for batch in batches])
    rebuilt = reconstruct(model, video)
    metrics = {
        "reconstruction_explained_chunks": explained(rebuilt.target, rebuilt.chunks),
        "reconstruction_explained_with_residual": explained(rebuilt.target, rebuilt.whole),
    }
    some = np.linspace(0, len(video) - 1, SHOWN).astype(int)
    frames = np.asarray(((video[some, 0] + 1) * 127.5).round().clamp(0, 255).byte())
    shown = Reconstruction(rebuilt.target[some], rebuilt.chunks[some], rebuilt.whole[some], rebuilt.grid)
    write_bytes_atomic(PLOT, encode_png(draw(frames, shown)))
    chunks = float((~model.backbone(video).chunk_mask).sum(-1).double().mean())
    settings = {
        "frames": len(video),
        "data": store.info.source,
        "steps": model.config.pretrain.steps,
        "cells": rebuilt.target.shape[1],
        "chunks": chunks,
        "weights": checkpoint.fingerprint,
    }
    print(merge_result("chunking", "reconstruction", f"{COMMAND} CHECKPOINT DATA", settings, metrics), metrics)


def table(result: Result) -> Table:
    """The variance that the dechunker's reconstruction explains."""
    settings = result.parts["reconstruction"]["settings"]
    rows = [
        ["chunks alone", f"{result.metrics['reconstruction_explained_chunks']:.2f}"],
        ["chunks and residual", f"{result.metrics['reconstruction_explained_with_residual']:.2f}"],
    ]
    note = (
        f"Share of the variance of {settings['cells']} cells' features on {settings['frames']} held-out frames of "
        f"`{settings['data']}`; {settings['chunks']:.1f} live chunks on average, {settings['steps']} steps "
        "of pretraining."
    )
    return Table(["reconstructed from", "variance explained"], rows, note, ("reconstruction",))
