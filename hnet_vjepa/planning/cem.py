"""The cross-entropy method over action sequences (Rubinstein 1999; Pinneri et al. 2020 for kept elites and colour).

Searches run side by side for B queries. Actions live in -1..1 per dimension, the robot's bounds; they are clipped
inside the search, so that what is scored is what can be done.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.protocols import SearchSettings

Score = Callable[[Tensor], Tensor]
"""Action sequences B x N x H x A in -1..1 -> energies after every action, B x N x H."""


@dataclass(frozen=True)
class Found:
    """The best sequence of every query."""

    actions: Tensor  # B x H x A, in -1..1
    energies: Tensor  # B x H
    iterations: int


def check_search(search: SearchSettings) -> None:
    """Raise UserError when the settings make no sense, naming the field."""
    for name in ("candidates", "iterations", "horizon", "elites"):
        if getattr(search, name) < 1:
            raise UserError(f"search.{name} = {getattr(search, name)}; it must be at least 1")
    if search.elites > search.candidates:
        raise UserError(f"search.elites = {search.elites} exceeds search.candidates = {search.candidates}")


@lru_cache(maxsize=32)
def noise_shape(horizon: int, colour: float) -> Tensor:
    """H x H matrix that turns white noise over the horizon into noise of power spectrum 1 / f^colour, unit variance."""
    frequencies = np.fft.rfftfreq(2 * horizon)
    power = np.maximum(frequencies, frequencies[1]) ** -colour
    correlation = np.fft.irfft(power)[:horizon]
    correlation = correlation / correlation[0]
    lag = np.abs(np.subtract.outer(np.arange(horizon), np.arange(horizon)))
    covariance = correlation[lag] + 1e-9 * np.eye(horizon)
    return torch.from_numpy(np.linalg.cholesky(covariance)).float()


def search_actions(
    score: Score,
    start: Tensor,
    search: SearchSettings,
    seeds: Sequence[int],
    momentum: float,
    min_std: float,
    colour: float,
    deadline: float | None = None,
) -> Found:
    """Find action sequences of low summed energy.

    Args:
        start: B x H x A, the first mean (the previous plan moved on by one step, or holding still).
        seeds: one per query; a query's noise depends on its own seed alone.
        momentum: share of the old mean and deviation that each update keeps.
        min_std: floor of the deviation, so that the search never freezes.
        deadline: ``time.monotonic()`` after which no further iteration begins. The first always runs.
    """
    batch, horizon, dims = start.shape
    generators = [torch.Generator().manual_seed(seed) for seed in seeds]
    shape = noise_shape(horizon, colour)
    mean, std = start, torch.full_like(start, 0.7)
    rows = torch.arange(batch)[:, None]
    kept = kept_energies = None
    done, spent, begun = 0, 0.0, time.monotonic()
    for iteration in range(search.iterations):
        if iteration and deadline is not None and time.monotonic() + spent / iteration > deadline:
            break
        white = torch.stack([torch.randn(search.candidates - 1, horizon, dims, generator=g) for g in generators])
        noise = torch.einsum("hk,bnka->bnha", shape, white).to(start)  # B x (N - 1) x H x A
        candidates = torch.cat([mean[:, None], mean[:, None] + std[:, None] * noise], 1).clamp(-1, 1)
        energies = score(candidates)  # B x N x H
        if kept is not None and kept_energies is not None:
            candidates, energies = torch.cat([candidates, kept], 1), torch.cat([energies, kept_energies], 1)
        best = energies.sum(-1).nan_to_num(nan=torch.inf).topk(search.elites, 1, largest=False, sorted=True).indices
        kept, kept_energies = candidates[rows, best], energies[rows, best]  # B x E x H x (A), best first
        mean = momentum * mean + (1 - momentum) * kept.mean(1)
        spread = kept.std(1, unbiased=False) if search.elites > 1 else std * 0.5
        std = (momentum * std + (1 - momentum) * spread).clamp(min=min_std)
        done = iteration + 1
        spent = time.monotonic() - begun
    assert kept is not None and kept_energies is not None
    return Found(kept[:, 0], kept_energies[:, 0], done)
