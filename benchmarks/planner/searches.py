"""Other search algorithms behind the protocol of the shipped one (``planning.cem.Search``).

Each scores as many candidates as the shipped search, ``search.candidates`` times ``search.iterations``; the mean and
samples of the policy prior are among the first of them. A backward pass counts as two forward passes. None observes a
deadline. Actions are in -1..1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from hnet_vjepa.planning.cem import Found, SearchProblem, noise_shape

TEMPERATURE = 0.5  # of MPPI's weights, in deviations of the candidates' costs
COLOUR, DECAY, STAY = 2.0, 1.25, 0.3  # iCEM: exponent of the noise; each population by so much smaller; elites kept
REFINED, RATE, BACKWARD = 2, 0.1, 3  # gradients: refined sequences; Adam's step; forward + backward


class Draws:
    """Candidates around a mean, for B queries, each from the noise of its own seed."""

    def __init__(self, problem: SearchProblem, colour: float | None = None) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in problem.seeds]
        self._steps, self._dims = problem.start.shape[1:]
        self._noise = noise_shape(self._steps, problem.plan.noise_colour if colour is None else colour)
        self._problem = problem

    def around(self, mean: Tensor, spread: Tensor, count: int) -> Tensor:
        """B x count x H x A, for mean and spread B x H x A."""
        noise = torch.einsum("hk,bnka->bnha", self._noise, self._white(count))
        return self._problem.allow(mean[:, None] + spread[:, None] * noise)

    def first(self, mean: Tensor, spread: Tensor, count: int, prior: bool = True) -> Tensor:
        """The first candidates: the mean, samples of the policy prior, and others around the mean."""
        sample = self._problem.sample_prior if prior else None
        sampled = 0 if sample is None else min(self._problem.plan.prior_candidates, count - 1)
        made = [self._problem.allow(mean[:, None])]
        if sample is not None and sampled:
            made.append(self._problem.allow(sample(self._white(sampled))))
        return torch.cat([*made, self.around(mean, spread, count - 1 - sampled)], 1)

    def _white(self, count: int) -> Tensor:
        return torch.stack([torch.randn(count, self._steps, self._dims, generator=g) for g in self._generators])


def costs(energies: Tensor) -> Tensor:
    """The ranking of candidates: the sum of their energies B x N x H over the steps, B x N; NaN ranks last."""
    return energies.sum(-1).nan_to_num(nan=torch.inf)


def chosen(candidates: Tensor, energies: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best ``count`` of the candidates B x N x H x A with their energies, in ascending order of cost."""
    best = costs(energies).topk(count, 1, largest=False, sorted=True).indices
    rows = torch.arange(len(best))[:, None]
    return candidates[rows, best], energies[rows, best]


def first_spread(problem: SearchProblem) -> Tensor:
    """Standard deviation of the first iteration: B x H x A."""
    return problem.std[:, None, None].expand_as(problem.start)


def found(candidates: Tensor, energies: Tensor, iterations: int) -> Found:
    """The best of the candidates as the answer."""
    actions, their = chosen(candidates, energies, 1)
    return Found(actions[:, 0], their[:, 0], (iterations,) * len(actions))


def random_shooting(problem: SearchProblem) -> Found:
    """All candidates in one iteration; returns the best of them."""
    draws = Draws(problem)
    tried = draws.first(problem.start, first_spread(problem), problem.settings.candidates * problem.settings.iterations)
    return found(tried, problem.score(tried), 1)


def icem(problem: SearchProblem) -> Found:
    """iCEM with its authors' settings (Pinneri et al. 2020): coloured noise, shrinking populations, a few kept elites.

    The mean is a candidate of the first and of the last iteration. The deviation has no minimum.
    """
    draws = Draws(problem, COLOUR)
    mean, spread = problem.start, first_spread(problem)
    kept: tuple[Tensor, Tensor] | None = None
    sizes = shrinking(problem.settings.candidates * problem.settings.iterations, problem.settings.iterations)
    for i, size in enumerate(sizes):
        if not i:
            tried = draws.first(mean, spread, size)
        elif i == len(sizes) - 1:
            tried = draws.first(mean, spread, size, prior=False)
        else:
            tried = draws.around(mean, spread, size)
        energies = problem.score(tried)
        if kept is not None:
            stay = max(1, int(STAY * problem.settings.elites))
            tried, energies = torch.cat([tried, kept[0][:, :stay]], 1), torch.cat([energies, kept[1][:, :stay]], 1)
        kept = chosen(tried, energies, min(problem.settings.elites, tried.shape[1]))
        mean = problem.plan.momentum * mean + (1 - problem.plan.momentum) * kept[0].mean(1)
        spread = problem.plan.momentum * spread + (1 - problem.plan.momentum) * kept[0].std(1, unbiased=False)
    assert kept is not None
    return found(*kept, len(sizes))


def shrinking(total: int, rounds: int) -> list[int]:
    """Population sizes that shrink by DECAY from iteration to iteration and sum to ``total``."""
    shares = [DECAY**-i for i in range(rounds)]
    sizes = [max(1, int(total * share / sum(shares))) for share in shares]
    sizes[0] += total - sum(sizes)
    return sizes


def mppi(problem: SearchProblem) -> Found:
    """Model predictive path integral: a mean of all candidates, weighted by a softmax of costs (Williams et al. 2017).

    The deviation is weighted too, with the configuration's minimum (as in TD-MPC, Hansen et al. 2022). The answer is
    the last mean; scoring it replaces one candidate.
    """
    draws = Draws(problem)
    mean, spread = problem.start, first_spread(problem)
    for i in range(problem.settings.iterations):
        count = max(1, problem.settings.candidates - (i == problem.settings.iterations - 1))
        tried = draws.first(mean, spread, count, prior=not i)
        cost = costs(problem.score(tried))  # B x N
        finite = torch.where(cost.isfinite(), cost, cost.nan_to_num(posinf=0.0))
        scale = TEMPERATURE * finite.std(1, unbiased=False, keepdim=True).clamp(min=1e-6)
        weights = (-(cost - cost.amin(1, keepdim=True)) / scale).softmax(1)[..., None, None]  # B x N x 1 x 1
        mean = (weights * tried).sum(1)
        spread = (weights * (tried - mean[:, None]).square()).sum(1).sqrt().clamp(min=problem.plan.min_std)
    last = problem.allow(mean[:, None])
    return found(last, problem.score(last), problem.settings.iterations)


def gradients(problem: SearchProblem) -> Found:
    """Random candidates for half of the budget, then Adam on the best of them through the rollout for the other half.

    Returns the best sequence that was scored. Needs a differentiable score.
    """
    draws = Draws(problem)
    budget = problem.settings.candidates * problem.settings.iterations
    steps = budget // 2 // (BACKWARD * REFINED)
    tried = draws.first(problem.start, first_spread(problem), budget - steps * BACKWARD * REFINED)
    best = chosen(tried, problem.score(tried), min(REFINED, tried.shape[1]))
    actions, energies = (x.clone() for x in best)
    moving = actions.clone().requires_grad_()
    adam = torch.optim.Adam([moving], lr=RATE)
    for _ in range(steps):
        with torch.enable_grad():
            reached = problem.score(moving)
            (moving.grad,) = torch.autograd.grad(reached.sum(), [moving])
        better = (costs(reached.detach()) < costs(energies))[..., None]
        energies = torch.where(better, reached.detach(), energies)
        actions = torch.where(better[..., None], moving.detach(), actions)
        adam.step()
        with torch.no_grad():
            moving.copy_(problem.allow(moving))
    return found(actions, energies, steps)
