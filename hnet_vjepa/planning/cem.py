"""The cross-entropy method over action sequences (Rubinstein 1999; Pinneri et al. 2020 for kept elites and colour).

Searches run side by side for B queries. Actions live in -1..1 per dimension, the robot's bounds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from hnet_vjepa.config import PlanConfig
from hnet_vjepa.planning.interface import SearchSettings

Score = Callable[[Tensor], Tensor]
"""Action sequences B x N x H x A in -1..1 -> energies after every action, B x N x H."""

Allow = Callable[[Tensor], Tensor]
"""Action sequences B x N x H x A -> their projections onto the robot's limits, in -1..1."""

SamplePrior = Callable[[Tensor], Tensor]
"""White noise B x P x H x A -> action sequences sampled from the policy prior, B x P x H x A."""


PIECES = (16, 64)  # fewest and most candidates that are scored between two checks of the deadline


@dataclass(frozen=True)
class Found:
    """The best sequence of every query."""

    actions: Tensor  # B x H x A, in -1..1
    energies: Tensor  # B x H
    iterations: tuple[int, ...]  # B; fewer than in the settings when time was up or the mean converged


def box(actions: Tensor) -> Tensor:
    """Clip to the bounds alone."""
    return actions.clamp(-1, 1)


@dataclass(frozen=True)
class SearchProblem:
    """B searches that run side by side for action sequences of low summed energy.

    Attributes:
        score: what is minimised.
        start: B x H x A, the first mean (the previous plan shifted by one action, or holding still).
        std: B, standard deviation of the first iteration.
        seeds: one per query; a query's noise depends on its own seed alone.
        settings: candidates, iterations and elites.
        plan: how the noise is shaped and how fast the search converges.
        deadline: ``time.monotonic()`` after which no further iteration begins. The first always runs.
        allow: projects candidates onto the robot's limits; the projected ones are scored.
        sample_prior: gives further candidates for the first iteration, from white noise.
    """

    score: Score
    start: Tensor
    std: Tensor
    seeds: Sequence[int]
    settings: SearchSettings
    plan: PlanConfig
    deadline: float | None = None
    allow: Allow = box
    sample_prior: SamplePrior | None = None


class Search(Protocol):
    """A search method: ``search_actions``, or one that it is compared with."""

    def __call__(self, problem: SearchProblem) -> Found:
        """The best sequences found within the problem's settings and deadline."""
        ...


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


def search_actions(problem: SearchProblem) -> Found:
    """Find action sequences of low summed energy by the cross-entropy method."""
    start, search, plan, deadline = problem.start, problem.settings, problem.plan, problem.deadline
    sample_prior = problem.sample_prior
    batch, horizon, dims = start.shape
    generators = [torch.Generator().manual_seed(seed) for seed in problem.seeds]
    draw = lambda count: torch.stack([torch.randn(count, horizon, dims, generator=g) for g in generators])  # noqa: E731
    shape = noise_shape(horizon, plan.noise_colour)
    mean, spread = start, problem.std[:, None, None].expand_as(start)
    rows, settled = torch.arange(batch)[:, None], torch.zeros(batch, dtype=torch.bool)
    kept = kept_energies = None
    iterations, spent, begun = torch.zeros(batch, dtype=torch.long), 0.0, time.monotonic()
    for iteration in range(search.iterations):
        if iteration and deadline is not None and time.monotonic() + spent / iteration > deadline:
            break
        sampled = min(plan.prior_candidates, search.candidates - 1) if sample_prior is not None and not iteration else 0
        candidates = [mean[:, None]]
        if sample_prior is not None and sampled:
            candidates.append(sample_prior(draw(sampled)))
        noise = (shape @ draw(search.candidates - 1 - sampled)).to(start)
        candidates.append(mean[:, None] + spread[:, None] * noise)
        allowed = problem.allow(torch.cat(candidates, 1))  # B x N x H x A
        energies = _in_time(problem.score, allowed, search.elites, deadline)  # B x N x H
        allowed = allowed[:, : energies.shape[1]]
        if kept is not None and kept_energies is not None:
            stay = min(plan.kept, search.elites)
            allowed = torch.cat([allowed, kept[:, :stay]], 1)
            energies = torch.cat([energies, kept_energies[:, :stay]], 1)
        best = energies.sum(-1).nan_to_num(nan=torch.inf).topk(search.elites, 1, largest=False, sorted=True).indices
        elites, their_energies = allowed[rows, best], energies[rows, best]  # B x E x H x (A), best first
        near = plan.momentum * mean + (1 - plan.momentum) * elites.mean(1)
        spread_now = elites.std(1, unbiased=False) if search.elites > 1 else spread * 0.5
        close = (plan.momentum * spread + (1 - plan.momentum) * spread_now).clamp(min=plan.min_std)
        # A converged search is frozen, so that no query's plan depends on the others in the batch.
        moved = (near - mean).abs().amax((1, 2))  # B
        still = settled[:, None, None]
        mean, spread = torch.where(still, mean, near), torch.where(still, spread, close)
        kept = elites if kept is None else torch.where(still[..., None], kept, elites)
        kept_energies = their_energies if kept_energies is None else torch.where(still, kept_energies, their_energies)
        iterations = iterations + ~settled
        settled = settled | (moved < plan.settled)
        spent = time.monotonic() - begun
        if settled.all():
            break
    assert kept is not None and kept_energies is not None
    return Found(kept[:, 0], kept_energies[:, 0], tuple(iterations.tolist()))


def _in_time(score: Score, candidates: Tensor, least: int, deadline: float | None) -> Tensor:
    """Energies of the candidates B x N x H x A, or of as many as there is time for, at least ``least``."""
    if deadline is None:
        return score(candidates)
    begun = time.monotonic()
    done = max(PIECES[0], least)
    energies = [score(candidates[:, :done])]
    while done < candidates.shape[1]:
        now = time.monotonic()
        fit = int((deadline - now) * done / max(now - begun, 1e-9))  # as many as are likely to fit
        if fit < PIECES[0]:
            break
        piece = candidates[:, done : done + min(fit, PIECES[1])]
        energies.append(score(piece))
        done += piece.shape[1]
    return torch.cat(energies, 1)
