"""Whether the number of chunks follows content: chunks per frame of every shipped model on real and simulated clips.

``python -m benchmarks.chunking --part counts VIDEO...`` counts the chunks that ``hnet viz chunks`` draws.
Controls beside the clips: a uniform grey image, which has no content, and noise; and every clip *held*, each window's
first frame repeated, so that nothing moves in it. ``--budgeted`` names checkpoints that were trained with
``model.backbone.routing.tokens``, which merges chunks where this loses little (Ward merges); without it every
prototype that wins a cell is a chunk. Writes the part "counts" of ``benchmarks/results/chunking.json``.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.record import merge_result
from benchmarks.table import Result, Table
from hnet_vjepa import zoo
from hnet_vjepa.checkpoint import load_checkpoint, read_manifest
from hnet_vjepa.data.batch import normalise_frames
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.data.video import Size, fit
from hnet_vjepa.errors import UserError
from hnet_vjepa.models.vjepa.vit import HNetViT
from hnet_vjepa.viz.frame_source import episode_source, video_source
from sims.core.collect import collect
from sims.evaluation.statistics import spearman

COMMAND = "python -m benchmarks.chunking --part counts"
FRAMES = 120  # of a clip, from the first
WINDOW = 8  # frames that are routed together where motion counts
EPISODES, SEED = 4, 1  # of each robot; no model was trained on that seed
PLAIN, NOISE = "one grey", "noise"

Frames = NDArray[np.uint8]  # T x H x W x 3


@dataclass(frozen=True)
class Counts:
    """Chunks per frame, over all frames of a clip."""

    least: int
    median: float
    most: int
    mean: float


@dataclass(frozen=True)
class Row:
    """One model on one clip."""

    model: str
    budgeted: bool
    clip: str
    detail: float
    motion: float
    counts: Counts
    moving: float  # mean chunks of a window of WINDOW frames
    held: float  # the same for held windows


def detail(frames: Frames) -> NDArray[np.float64]:
    """Detail of each frame: mean absolute difference of neighbouring pixels (0 to 1). T x H x W x 3 -> T."""
    pixels = frames.astype(np.float64) / 255
    down, right = (np.abs(np.diff(pixels, axis=axis)).mean((1, 2, 3)) for axis in (1, 2))
    return np.asarray((down + right) / 2)


def motion(frames: Frames) -> float:
    """Motion: mean absolute difference of a pixel between consecutive frames (0 to 1). T x H x W x 3 -> a number."""
    return float(np.abs(np.diff(frames.astype(np.float64) / 255, axis=0)).mean()) if len(frames) > 1 else 0.0


def hold(frames: Frames, window: int) -> Frames:
    """The same number of frames, each window's first frame repeated throughout the window."""
    return frames[np.arange(len(frames)) // window * window]


@torch.no_grad()
def live_chunks(backbone: HNetViT, frames: Frames, window: int) -> NDArray[np.int64]:
    """Number of chunks of each window of a clip, T x H x W x 3 -> T // window; an incomplete window is left out."""
    whole = len(frames) // window * window
    chunks = backbone(normalise_frames(frames[:whole])[None], window=window)
    return np.asarray((~chunks.chunk_mask[0]).sum(-1).cpu().numpy())


def measure(model: str, budgeted: bool, backbone: HNetViT, clips: Mapping[str, Frames]) -> list[Row]:
    """Rows of one model on all clips."""
    rows = []
    for name, frames in clips.items():
        found = live_chunks(backbone, frames, 1)
        rows.append(
            Row(
                model=model,
                budgeted=budgeted,
                clip=name,
                detail=float(detail(frames).mean()),
                motion=motion(frames),
                counts=Counts(int(found.min()), float(np.median(found)), int(found.max()), float(found.mean())),
                moving=float(live_chunks(backbone, frames, WINDOW).mean()),
                held=float(live_chunks(backbone, hold(frames, WINDOW), WINDOW).mean()),
            )
        )
    return rows


def metrics(rows: Sequence[Row], real: Sequence[str]) -> dict[str, float]:
    """Means over the shipped models; with the suffix ``_budgeted``, over those trained with a budget.

    ``still_over_busy_chunks``: chunks of the ``real`` clips when they are held, over those when they move.
    ``plain_over_busy_chunks``: chunks of one grey over those of the real clips.
    ``chunks_follow_detail``: rank correlation of chunks with detail over all clips.
    """
    found: dict[str, float] = {}
    for budgeted in sorted({row.budgeted for row in rows}):
        names = dict.fromkeys(row.model for row in rows if row.budgeted == budgeted)
        models = [{row.clip: row for row in rows if row.model == name} for name in names]
        still = [sum(m[c].held for c in real) / sum(m[c].moving for c in real) for m in models]
        plain = [m[PLAIN].counts.mean / float(np.mean([m[c].counts.mean for c in real])) for m in models]
        follows = [spearman([r.detail for r in m.values()], [r.counts.mean for r in m.values()]) for m in models]
        end = "_budgeted" if budgeted else ""
        found[f"still_over_busy_chunks{end}"] = float(np.mean(still))
        found[f"plain_over_busy_chunks{end}"] = float(np.mean(plain))
        # Where all clips have equally many chunks the correlation is undefined and counts as 0.
        found[f"chunks_follow_detail{end}"] = float(np.mean([0.0 if math.isnan(f) else f for f in follows]))
    return found


def real_clips(videos: list[Path], size: Size) -> dict[str, Frames]:
    """The first frames of each video, fitted to a camera of that size, by the file's name."""
    return {v.stem: np.stack([fit(p, size) for p in video_source(v, FRAMES).frames()]) for v in videos}


def robot_clip(store: EpisodeStore, size: Size) -> Frames:
    """Whole windows of every episode, concatenated, so that no window spans two episodes."""
    parts = [
        np.stack([fit(picture, size) for picture in episode_source(store, e.index, len(e) // WINDOW * WINDOW).frames()])
        for e in store.episodes
    ]
    return np.concatenate(parts)


def controls(size: Size) -> dict[str, Frames]:
    """A uniform clip, and one of noise."""
    shape = (2 * WINDOW, *size, 3)
    random = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    return {PLAIN: np.full(shape, 128, np.uint8), NOISE: random}


def checkpoints(budgeted: Sequence[Path]) -> dict[str, Path]:
    """Checkpoints by their name in the result: the shipped ones, then those of ``budgeted``.

    Raises UserError when one of ``budgeted`` is no checkpoint, or was trained without a budget.
    """
    found = {name: zoo.path(name) for name in zoo.names()}
    for path in budgeted:
        if load_checkpoint(path).model.config.model.backbone.routing.tokens is None:
            raise UserError(f"{path} was trained without model.backbone.routing.tokens")
        found["/".join(path.parts[-3:])] = path
    return found


def main(words: Sequence[str]) -> None:
    """Count, write, print; ``words`` are the command's arguments. Raises UserError for a file that cannot be used."""
    parser = argparse.ArgumentParser(prog=COMMAND, description="Count the chunks of clips.")
    parser.add_argument("videos", type=Path, nargs="+", help="real clips of any size")
    parser.add_argument("--budgeted", type=Path, nargs="*", default=[], help="checkpoints trained with routing.tokens")
    options = parser.parse_args(words)
    torch.set_num_threads(1)
    rows: list[Row] = []
    models = checkpoints(options.budgeted)
    manifests = {name: read_manifest(path) for name, path in models.items()}
    tasks = sorted({manifest.phases[-1].data for manifest in manifests.values()})
    with tempfile.TemporaryDirectory() as folder:
        stores = {task: EpisodeStore(collect(task, EPISODES, SEED, Path(folder) / task, 1)) for task in tasks}
        for name, path in models.items():
            model = load_checkpoint(path).model
            size = (model.robot.camera.height, model.robot.camera.width)
            clips = real_clips(options.videos, size)
            clips |= {task: robot_clip(store, size) for task, store in stores.items()} | controls(size)
            rows += measure(name, path in options.budgeted, model.backbone, clips)
    found = metrics(rows, [video.stem for video in options.videos])
    settings = {
        "frames": FRAMES,
        "window": WINDOW,
        "episodes": EPISODES,
        "seed": SEED,
        "weights": {name: manifest.fingerprint for name, manifest in manifests.items()},
    }
    command = f"{COMMAND} {' '.join(video.name for video in options.videos)}"
    if options.budgeted:
        command += f" --budgeted {' '.join(name for name in models if models[name] in options.budgeted)}"
    print(merge_result("chunking", "counts", command, settings, found, rows=[asdict(row) for row in rows]))
    for row in rows:
        shown = f"{row.counts.least} to {row.counts.most}, median {row.counts.median:g}"
        print(f"{row.model:32}{row.clip:22}{row.detail:.3f}  {shown:28}{row.moving:5.1f} moving {row.held:5.1f} held")
    print(found)


def table(result: Result) -> Table:
    """Chunks per frame, every model on every clip."""
    part = result.parts["counts"]
    rows, last = [], ""
    for row in part["rows"]:
        found = row["counts"]
        name = f"`{row['model']}`" + (" (budget)" if row["budgeted"] else "")
        rows.append(
            [
                "" if name == last else name,
                row["clip"],
                f"{row['detail']:.3f}",
                f"{row['motion']:.3f}",
                f"{found['median']:g} ({found['least']}–{found['most']})",
                f"{row['moving']:.1f}",
                f"{row['held']:.1f}",
            ]
        )
        last = name
    window = part["settings"]["window"]
    note = (
        "Detail: mean absolute difference of neighbouring pixels; motion: of a pixel between frames; both from 0 to 1. "
        f"Chunks per frame: median, minimum and maximum. Then chunks of windows of {window} frames, original and "
        "held (first frame repeated)."
    )
    head = ["model", "clip", "detail", "motion", "chunks per frame", f"per {window} frames", "held"]
    return Table(head, rows, note, ("counts",))


def follows_table(result: Result) -> Table:
    """Whether the number of chunks follows content, with and without a budget."""
    budgeted = {row["budgeted"] for row in result.parts["counts"]["rows"]}
    metrics = {
        "chunks of held real clips, relative to those of the moving clips": "still_over_busy_chunks",
        "chunks of a uniform image, relative to those of the real clips": "plain_over_busy_chunks",
        "rank correlation of chunks with detail, over all clips": "chunks_follow_detail",
    }
    kinds = [(False, "every winner", ""), (True, "budget", "_budgeted")]
    shown = [(what, end) for kind, what, end in kinds if kind in budgeted]
    rows = [[what, *(f"{result.metrics[key + end]:.2f}" for _, end in shown)] for what, key in metrics.items()]
    return Table(["", *(what for what, _ in shown)], rows, "Means over the models of each kind.", ("counts",))
