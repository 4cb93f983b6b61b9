"""What the phases are judged by, on held-out episodes and each beside its baseline."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hnet_vjepa.data.batch import Batch, ClipSampler
from hnet_vjepa.data.store import EpisodeStore, Split
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.models.world_model import rollout

Array = NDArray[np.float64]
Halves = dict[str, Array]

CLIPS = 1500  # per split; enough for a read-out of a few hundred dimensions
HORIZON = 10
STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the ridge, per row


def clip_batches(
    model: HNetVJEPA, store: EpisodeStore, split: Split, frames: int, limit: int = CLIPS
) -> Iterator[Batch]:
    """Evenly spread clips of a split, in batches, on the model's device."""
    sampler = ClipSampler(store, model.robot.action, split, frames, seed=0)
    numbers = np.unique(np.linspace(0, len(sampler) - 1, min(limit, len(sampler))).astype(int))
    device = next(model.parameters()).device
    for start in range(0, len(numbers), 100):
        yield sampler.clips(numbers[start : start + 100].tolist()).to(device)


@torch.no_grad()
def sampled_states(model: HNetVJEPA, store: EpisodeStore, chunks: bool, limit: int = CLIPS) -> tuple[Halves, Halves]:
    """Features (N x F) and recorded states (N x S) of sampled single frames, by half ('train', 'held_out').

    At most ``limit`` frames of each half.

    ``chunks`` takes the backbone's tokens, otherwise the planning state.
    """
    features: Halves = {}
    recorded: Halves = {}
    halves: tuple[Split, ...] = ("train", "held_out")
    for half in halves:
        rows, states = [], []
        for batch in clip_batches(model, store, half, 1, limit):
            made = model.backbone(batch.video).tokens if chunks else model.states(batch.video)[0]
            rows.append(made.flatten(1).double())
            states.append(batch.states[:, 0].double())
        features[half] = torch.cat(rows).cpu().numpy()
        recorded[half] = torch.cat(states).cpu().numpy()
    return features, recorded


def effective_rank(features: NDArray[np.float64]) -> float:
    """Exponential of the entropy of the normalised singular values of N x F (Roy and Vetterli 2007)."""
    spectrum = np.linalg.svd(features - features.mean(0), compute_uv=False)
    shares = spectrum / max(spectrum.sum(), 1e-12)
    return float(np.exp(-(shares * np.log(np.maximum(shares, 1e-12))).sum()))


@dataclass(frozen=True)
class Readout:
    """A linear map from features to recorded numbers, fitted on training episodes."""

    mean: Array
    std: Array
    weights: Array  # F x S
    centre: Array  # S

    def __call__(self, features: Array) -> Array:
        """N x F -> N x S."""
        return (features - self.mean) / self.std @ self.weights + self.centre


def fit_readout(features: Array, recorded: Array) -> Readout:
    """Ridge regression of recorded numbers (N x S) on features (N x F).

    The strength is the one that does best on the last fifth of the rows (other episodes) when fitted on the rest.
    """
    mean, std, centre = features.mean(0), features.std(0) + 1e-6, recorded.mean(0)
    x, y = (features - mean) / std, recorded - centre

    def solve(rows: slice, strength: float) -> Array:
        gram = x[rows].T @ x[rows] + strength * len(x[rows]) * np.eye(x.shape[1])
        return np.asarray(np.linalg.solve(gram, x[rows].T @ y[rows]))

    cut = max(1, len(x) * 4 // 5)
    error = {s: ((x[cut:] @ solve(slice(cut), s) - y[cut:]) ** 2).sum() for s in STRENGTHS}
    return Readout(mean, std, solve(slice(None), min(error, key=lambda s: error[s])), centre)


def linear_readout(features: Halves, states: Halves, names: tuple[str, ...]) -> dict[str, float]:
    """Held-out error of a linear read-out of the recorded state, beside "always the mean".

    The numbers whose name ends in [m] are read as one position: ``readout_cm`` is the median Euclidean error.
    ``readout_r2`` is the mean explained variance of all numbers.
    """
    fitted = fit_readout(features["train"], states["train"])
    error = fitted(features["held_out"]) - states["held_out"]
    baseline = fitted.centre - states["held_out"]
    metres = [i for i, name in enumerate(names) if name.endswith("[m]")]
    moving = states["held_out"].std(0) > 1e-9
    explained = 1 - (error**2).mean(0)[moving] / (baseline**2).mean(0)[moving]
    metrics = {"readout_r2": float(explained.mean())} if moving.any() else {}
    if metres:
        metrics["readout_cm"] = _median_cm(error[:, metres])
        metrics["readout_cm_mean_baseline"] = _median_cm(baseline[:, metres])
    return metrics


def _median_cm(errors: Array) -> float:
    """Median length of N x 3 (or fewer) differences in metres, in centimetres."""
    return 100 * float(np.median(np.linalg.norm(errors, axis=1)))


@torch.no_grad()
def caption_retrieval(model: HNetVJEPA, store: EpisodeStore) -> dict[str, float]:
    """How often the nearest of all held-out captions is true of the clip, beside chance and the best constant answer.

    A caption is true of a clip when it was recorded with it, or when all labels hold that hold wherever that caption
    was recorded: "go to the left" is no wrong answer only because this clip's caption says "move to the left".

    ``left_right_accuracy``: of a true caption with 'left' or 'right' and its mirror image, how often the true one is
    nearer (chance 0.5).
    """
    frames = model.config.language.clip_frames
    videos, labels = [], []
    captions: list[tuple[str, ...]] = []
    for batch in clip_batches(model, store, "held_out", frames):
        videos.append(model.projector(model.read(model.states(batch.video)[0])))
        captions += batch.captions
        labels.append(batch.labels.cpu().numpy() > 0)
    video = torch.cat(videos)
    texts = sorted({text for true in captions for text in true})
    if not texts:
        return {}
    similarity = video @ model.text.encode(texts).T  # N x texts
    true_of = np.array([[text in true for text in texts] for true in captions])
    if store.info.labels:
        implied = _implied_labels(store, texts)  # texts x L
        true_of |= ~(implied[None] & ~np.concatenate(labels)[:, None]).any(-1)
    truth = torch.from_numpy(true_of).to(video.device)
    found = truth.gather(1, similarity.argmax(1, keepdim=True)).float().mean()
    metrics = {
        "retrieval_accuracy": float(found),
        "retrieval_chance": float(truth.float().mean()),
        "retrieval_constant": float(truth.float().mean(0).max()),
        "captions": float(len(texts)),
        "clips": float(len(captions)),
    }
    numbers = {text: i for i, text in enumerate(texts)}
    pairs = [
        (row, text, mirrored(text)) for row, true in enumerate(captions) for text in true if mirrored(text) != text
    ]
    if pairs:
        others = sorted({other for _, _, other in pairs})
        mirror = video @ model.text.encode(others).T
        place = {text: i for i, text in enumerate(others)}
        right = [bool(similarity[row, numbers[text]] > mirror[row, place[other]]) for row, text, other in pairs]
        metrics |= {"left_right_accuracy": float(np.mean(right)), "left_right_pairs": float(len(right))}
    return metrics


def _implied_labels(store: EpisodeStore, texts: list[str]) -> NDArray[np.bool_]:
    """Which labels hold at every frame that a caption was recorded with: texts x L. A rare caption implies much."""
    place = {text: i for i, text in enumerate(texts)}
    implied = np.ones((len(texts), len(store.info.labels)), bool)
    for episode in store.episodes:
        assert episode.labels is not None
        for recorded, holds in zip(episode.captions, episode.labels > 0, strict=True):
            for text in recorded:
                if text in place:
                    implied[place[text]] &= holds
    return implied


def mirrored(text: str) -> str:
    """The sentence with left and right exchanged."""
    return re.sub(r"\b(left|right)\b", lambda m: "right" if m[0] == "left" else "left", text)


@torch.no_grad()
def label_precision(model: HNetVJEPA, store: EpisodeStore) -> dict[str, float]:
    """Average precision of every label, beside how often it holds (which is what guessing gives)."""
    frames = model.config.probe.clip_frames
    scores, truth = [], []
    for batch in clip_batches(model, store, "held_out", frames):
        scores.append(model.probe(model.read(model.states(batch.video)[0])).double().cpu())
        truth.append(batch.labels.cpu())
    logits, labels = torch.cat(scores).numpy(), torch.cat(truth).numpy()
    metrics = {}
    for i, name in enumerate(store.info.labels):
        if 0 < labels[:, i].sum() < len(labels):
            metrics[f"ap/{name}"] = average_precision(logits[:, i], labels[:, i] > 0)
            metrics[f"frequency/{name}"] = float(labels[:, i].mean())
    if metrics:
        metrics["mean_ap"] = float(np.mean([v for k, v in metrics.items() if k.startswith("ap/")]))
        metrics["mean_frequency"] = float(np.mean([v for k, v in metrics.items() if k.startswith("frequency/")]))
    return metrics


def average_precision(scores: NDArray[np.floating], truth: NDArray[np.bool_]) -> float:
    """Mean over the positives of the precision at their rank: area under the precision-recall steps."""
    order = np.argsort(-scores, kind="stable")
    hits = truth[order]
    precision = np.cumsum(hits) / np.arange(1, len(hits) + 1)
    return float(precision[hits].mean())


@torch.no_grad()
def open_loop_error(model: HNetVJEPA, store: EpisodeStore) -> dict[str, float]:
    """Mean absolute error of the imagined planning state after 1..10 steps, beside "nothing moves".

    Where the data records positions in metres, the same error read out linearly in centimetres.
    """
    longest = max(len(e) for e in store.split("held_out")) if store.split("held_out") else 0
    frames = min(HORIZON + 2, longest)  # two to start from
    errors, still, positions, starts = [], [], [], []
    for batch in clip_batches(model, store, "held_out", frames, limit=400):
        states = model.states(batch.video)[0]
        imagined = rollout(
            model.world_model.dynamics, states[:, 1], states[:, 0], batch.actions[:, 0], batch.actions[:, 1:]
        )
        errors.append((imagined - states[:, 2:]).abs().mean((2, 3)))
        still.append((states[:, 1:2] - states[:, 2:]).abs().mean((2, 3)))
        starts.append(batch.states[:, 1].double().cpu().numpy())
        positions.append((imagined.flatten(2).double().cpu().numpy(), batch.states[:, 2:].double().cpu().numpy()))
    error, baseline = torch.cat(errors).mean(0), torch.cat(still).mean(0)
    metrics = {f"open_loop/{h + 1}": float(error[h]) for h in range(frames - 2)}
    metrics |= {f"nothing_moves/{h + 1}": float(baseline[h]) for h in range(frames - 2)}
    metrics["open_loop_ratio"] = float((error / baseline.clamp(min=1e-9)).mean())
    metres = [i for i, name in enumerate(store.info.states) if name.endswith("[m]")]
    if metres:
        features, recorded = sampled_states(model, store, chunks=False)
        metrics |= {f"state_{k}": v for k, v in linear_readout(features, recorded, store.info.states).items()}
        read, start = fit_readout(features["train"], recorded["train"]), np.concatenate(starts)
        for h in range(frames - 2):
            imagined_there = np.concatenate([read(imagined[:, h]) for imagined, _ in positions])
            there = np.concatenate([recorded_there[:, h] for _, recorded_there in positions])
            metrics[f"open_loop_cm/{h + 1}"] = _median_cm((imagined_there - there)[:, metres])
            metrics[f"nothing_moves_cm/{h + 1}"] = _median_cm((start - there)[:, metres])
    return metrics


@torch.no_grad()
def policy_prior_error(model: HNetVJEPA, store: EpisodeStore) -> dict[str, float]:
    """Mean squared error of the proposed actions of held-out clips, whose last frame is the goal, in normal actions.

    ``proposal_mse``, beside ``proposal_mean_mse``: always the mean of the training.
    """
    frames, errors, spreads = model.config.heads.clip_frames, [], []
    for batch in clip_batches(model, store, "held_out", frames):
        states, done = model.states_of(batch.video), batch.actions[:, 1:]
        goal = states[:, -1:].expand_as(states[:, 1:-1])
        mean, _ = model.world_model.policy_prior(states[:, 1:-1], states[:, :-2], batch.actions[:, :-1], goal)
        errors.append((mean - done).square().mean((1, 2)))
        spreads.append(done.square().mean((1, 2)))
    return {
        "proposal_mse": float(torch.cat(errors).mean()),
        "proposal_mean_mse": float(torch.cat(spreads).mean()),
    }
