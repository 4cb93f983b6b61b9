"""Linear probes: how much of the recorded state a linear map finds in a representation (Alain and Bengio 2016)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from hnet_vjepa.data.batch import CLIPS, clip_batches
from hnet_vjepa.data.store import EpisodeStore, Split
from hnet_vjepa.models.model import HNetVJEPA

Array = NDArray[np.float64]
Halves = dict[str, Array]

STRENGTHS = (1e-3, 1e-2, 1e-1, 1.0, 10.0)  # of the ridge, per row


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
        for batch in clip_batches(store, model.robot.action, half, 1, model.device, limit):
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
class LinearProbe:
    """A linear map from features to recorded numbers, fitted on training episodes."""

    mean: Array
    std: Array
    weights: Array  # F x S
    centre: Array  # S

    def __call__(self, features: Array) -> Array:
        """N x F -> N x S."""
        return (features - self.mean) / self.std @ self.weights + self.centre


def fit_probe(features: Array, recorded: Array) -> LinearProbe:
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
    return LinearProbe(mean, std, solve(slice(None), min(error, key=lambda s: error[s])), centre)


def probe_error(features: Halves, states: Halves, names: tuple[str, ...]) -> dict[str, float]:
    """Held-out error of a linear probe of the recorded state, beside "always the mean".

    The numbers whose name ends in [m] are taken as one position: ``linear_probe_cm`` is the median Euclidean error.
    ``linear_probe_r2`` is the mean explained variance of all numbers.
    """
    fitted = fit_probe(features["train"], states["train"])
    error = fitted(features["held_out"]) - states["held_out"]
    baseline = fitted.centre - states["held_out"]
    metres = [i for i, name in enumerate(names) if name.endswith("[m]")]
    moving = states["held_out"].std(0) > 1e-9
    explained = 1 - (error**2).mean(0)[moving] / (baseline**2).mean(0)[moving]
    metrics = {"linear_probe_r2": float(explained.mean())} if moving.any() else {}
    if metres:
        metrics["linear_probe_cm"] = median_cm(error[:, metres])
        metrics["linear_probe_cm_mean_baseline"] = median_cm(baseline[:, metres])
    return metrics


def median_cm(errors: Array) -> float:
    """Median length of N x 3 (or fewer) differences in metres, in centimetres."""
    return 100 * float(np.median(np.linalg.norm(errors, axis=1)))
