"""What of the cells' features is left in the chunks: the dechunker's picture of them, and how much it explains.

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
from hnet_vjepa.checkpoint import load_checkpoint
from hnet_vjepa.data.batch import clip_batches
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.data.summary import encode_png
from hnet_vjepa.errors import UserError
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.utils.files import write_bytes_atomic

COMMAND = "python -m benchmarks.chunking --part reconstruction"
PLOT = ROOT / "docs" / "images" / "reconstruction.png"
FRAMES = 500  # held-out ones that are measured on
SHOWN = 6
SIDE = 128  # pixels of a shown frame
GAP = 6


@dataclass(frozen=True)
class Rebuilt:
    """Cell features of N frames, each N x cells x D: those wanted, from chunks alone, and with the residual."""

    wanted: Tensor
    chunks: Tensor
    whole: Tensor
    grid: tuple[int, int]


@torch.no_grad()
def rebuild(model: HNetVJEPA, video: Tensor) -> Rebuilt:
    """Put the chunks of frames (N x 1 x H x W x 3, normalised) back on the grid, as the phase ``pretrain`` does."""
    seen, target = model.backbone(video), model.target(video)
    parts = (seen.chunks, seen.assignment, seen.chunk_centroids, seen.chunk_mask)
    args = [part.flatten(0, 1) for part in parts]
    cells = target.cells.flatten(0, 1).float()
    return Rebuilt(
        F.layer_norm(cells, cells.shape[-1:]),
        model.dechunker(*args).float(),
        model.dechunker(*args, seen.cells.flatten(0, 1)).float(),
        (target.grid[1], target.grid[2]),
    )


def explained(wanted: Tensor, made: Tensor) -> float:
    """Share of the variance of the wanted features around their mean that the made ones explain; 1 when equal."""
    error = (wanted - made).square().sum()
    return float(1 - error / (wanted - wanted.mean((0, 1))).square().sum())


def colours(features: Tensor, like: Tensor) -> NDArray[np.uint8]:
    """Features ... x D as colours ... x 3: the three directions in which ``like`` differs most, less its extremes."""
    rows = like.flatten(0, -2).double()
    middle = rows.mean(0)
    axes = torch.linalg.svd(rows - middle, full_matrices=False).Vh[:3].T  # D x 3
    spread = (rows - middle) @ axes
    low, high = spread.quantile(0.02, 0), spread.quantile(0.98, 0)
    shown = ((features.double() - middle) @ axes - low) / (high - low).clamp(min=1e-9)
    return np.asarray((shown.clamp(0, 1) * 255).byte())


def draw(frames: NDArray[np.uint8], rebuilt: Rebuilt) -> Image.Image:
    """A column per frame (N x H x W x 3): the frame, the wanted features, from chunks alone, with the residual."""
    rows, columns = rebuilt.grid
    pictures = [frames]
    for features in (rebuilt.wanted, rebuilt.chunks, rebuilt.whole):
        pictures.append(colours(features, rebuilt.wanted).reshape(len(frames), rows, columns, 3))
    sheet = Image.new("RGB", ((SIDE + GAP) * len(frames) - GAP, (SIDE + GAP) * len(pictures) - GAP), "white")
    for down, row in enumerate(pictures):
        for along, picture in enumerate(row):
            large = Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.NEAREST)
            sheet.paste(large, (along * (SIDE + GAP), down * (SIDE + GAP)))
    return sheet


def main(words: Sequence[str]) -> None:
    """Measure, draw, write. Raises UserError for what is wrong."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Put chunks back on the grid of cells.")
    parser.add_argument("checkpoint", type=Path, help="of the phase pretrain (hnet train --phases pretrain)")
    parser.add_argument("data", type=Path, help="its episodes")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    checkpoint = load_checkpoint(options.checkpoint)
    model, trained = checkpoint.model, checkpoint.manifest.trained()
    if trained != ("pretrain",):
        raise UserError(f"{options.checkpoint} was trained in {', '.join(trained) or 'no phase'}; needs pretrain alone")
    store = EpisodeStore(options.data, model.config.data.folds, model.config.data.held_out_fold)
    video = torch.cat(
        [batch.video for batch in clip_batches(store, model.robot.action, "held_out", 1, model.device, FRAMES)]
    )
    rebuilt = rebuild(model, video)
    metrics = {
        "reconstruction_explained_chunks": explained(rebuilt.wanted, rebuilt.chunks),
        "reconstruction_explained_with_residual": explained(rebuilt.wanted, rebuilt.whole),
    }
    some = np.linspace(0, len(video) - 1, SHOWN).astype(int)
    frames = np.asarray(((video[some, 0] + 1) * 127.5).round().clamp(0, 255).byte())
    shown = Rebuilt(rebuilt.wanted[some], rebuilt.chunks[some], rebuilt.whole[some], rebuilt.grid)
    write_bytes_atomic(PLOT, encode_png(draw(frames, shown)))
    chunks = float((~model.backbone(video).chunk_mask).sum(-1).double().mean())
    settings = {
        "frames": len(video),
        "data": store.info.source,
        "steps": model.config.pretrain.steps,
        "cells": rebuilt.wanted.shape[1],
        "chunks": chunks,
        "weights": checkpoint.fingerprint,
    }
    print(merge_result("chunking", "reconstruction", f"{COMMAND} CHECKPOINT DATA", settings, metrics), metrics)
