"""Other ways to search for actions, behind the protocol of the one that ships (``planning.cem.Search``).

Each scores as many candidates as that one does, ``search.candidates`` times ``search.iterations``, the mean and what
the learnt proposal gives among the first of them. A backward pass counts as two forward passes. None looks at the
clock. Actions live in -1..1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from hnet_vjepa.config import PlanConfig
from hnet_vjepa.planning.cem import Allow, Found, SamplePrior, Score, box, noise_shape
from hnet_vjepa.planning.interface import SearchSettings

TEMPERATURE = 0.5  # of MPPI's weights, in deviations of the candidates' costs
COLOUR, DECAY, STAY = 2.0, 1.25, 0.3  # iCEM: exponent of the noise; each population by so much smaller; elites kept
REFINED, RATE, BACKWARD = 2, 0.1, 3  # gradients: sequences that are refined; step of Adam; forward and backward passes


class Draws:
    """Candidates around a mean, for B queries, each from the noise of its own seed."""

    def __init__(self, seeds: Sequence[int], shape: torch.Size, colour: float, allow: Allow) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._steps, self._dims = shape[1:]
        self._noise, self._allow = noise_shape(self._steps, colour), allow

    def around(self, mean: Tensor, spread: Tensor, count: int) -> Tensor:
        """B x count x H x A, for mean and spread B x H x A."""
        noise = torch.einsum("hk,bnka->bnha", self._noise, self._white(count))
        return self._allow(mean[:, None] + spread[:, None] * noise)

    def first(
        self, mean: Tensor, spread: Tensor, count: int, prior_candidates: int, sample_prior: SamplePrior | None
    ) -> Tensor:
        """The first candidates: the mean, what is proposed, and others around the mean."""
        proposed = 0 if sample_prior is None else min(prior_candidates, count - 1)
        made = [self._allow(mean[:, None])]
        if sample_prior is not None and proposed:
            made.append(self._allow(sample_prior(self._white(proposed))))
        return torch.cat([*made, self.around(mean, spread, count - 1 - proposed)], 1)

    def _white(self, count: int) -> Tensor:
        return torch.stack([torch.randn(count, self._steps, self._dims, generator=g) for g in self._generators])


def costs(energies: Tensor) -> Tensor:
    """What candidates are ranked by, B x N, of energies B x N x H; what is not a number comes last."""
    return energies.sum(-1).nan_to_num(nan=torch.inf)


def chosen(candidates: Tensor, energies: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The best ``count`` of the candidates B x N x H x A with their energies, best first."""
    best = costs(energies).topk(count, 1, largest=False, sorted=True).indices
    rows = torch.arange(len(best))[:, None]
    return candidates[rows, best], energies[rows, best]


def found(candidates: Tensor, energies: Tensor, iterations: int) -> Found:
    """The best of the candidates as the answer."""
    actions, their = chosen(candidates, energies, 1)
    return Found(actions[:, 0], their[:, 0], (iterations,) * len(actions))


def random_shooting(
    score: Score,
    start: Tensor,
    search: SearchSettings,
    seeds: Sequence[int],
    plan: PlanConfig,
    std: Tensor,
    deadline: float | None = None,
    allow: Allow = box,
    sample_prior: SamplePrior | None = None,
) -> Found:
    """All candidates at once, and the best of them."""
    draws = Draws(seeds, start.shape, plan.noise_colour, allow)
    spread = std[:, None, None].expand_as(start)
    tried = draws.first(start, spread, search.candidates * search.iterations, plan.prior_candidates, sample_prior)
    return found(tried, score(tried), 1)


def icem(
    score: Score,
    start: Tensor,
    search: SearchSettings,
    seeds: Sequence[int],
    plan: PlanConfig,
    std: Tensor,
    deadline: float | None = None,
    allow: Allow = box,
    sample_prior: SamplePrior | None = None,
) -> Found:
    """iCEM with its authors' settings (Pinneri et al. 2020): redder noise, populations that shrink, a few elites kept.

    The mean is a candidate of the first and of the last round. The spread has no floor.
    """
    draws = Draws(seeds, start.shape, COLOUR, allow)
    mean, spread = start, std[:, None, None].expand_as(start)
    kept: tuple[Tensor, Tensor] | None = None
    sizes = shrinking(search.candidates * search.iterations, search.iterations)
    for i, size in enumerate(sizes):
        if not i:
            tried = draws.first(mean, spread, size, plan.prior_candidates, sample_prior)
        elif i == len(sizes) - 1:
            tried = draws.first(mean, spread, size, 0, None)
        else:
            tried = draws.around(mean, spread, size)
        energies = score(tried)
        if kept is not None:
            stay = max(1, int(STAY * search.elites))
            tried, energies = torch.cat([tried, kept[0][:, :stay]], 1), torch.cat([energies, kept[1][:, :stay]], 1)
        kept = chosen(tried, energies, min(search.elites, tried.shape[1]))
        mean = plan.momentum * mean + (1 - plan.momentum) * kept[0].mean(1)
        spread = plan.momentum * spread + (1 - plan.momentum) * kept[0].std(1, unbiased=False)
    assert kept is not None
    return found(*kept, len(sizes))


def shrinking(total: int, rounds: int) -> list[int]:
    """Sizes of populations that shrink by DECAY from round to round and are ``total`` together."""
    shares = [DECAY**-i for i in range(rounds)]
    sizes = [max(1, int(total * share / sum(shares))) for share in shares]
    sizes[0] += total - sum(sizes)
    return sizes


def mppi(
    score: Score,
    start: Tensor,
    search: SearchSettings,
    seeds: Sequence[int],
    plan: PlanConfig,
    std: Tensor,
    deadline: float | None = None,
    allow: Allow = box,
    sample_prior: SamplePrior | None = None,
) -> Found:
    """Model predictive path integral: all candidates count, by a softmax of their costs (Williams et al. 2017).

    The spread follows them too, with the configuration's floor (as in TD-MPC, Hansen et al. 2022). The answer is the
    last mean, of which the score takes one candidate's place.
    """
    draws = Draws(seeds, start.shape, plan.noise_colour, allow)
    mean, spread = start, std[:, None, None].expand_as(start)
    for i in range(search.iterations):
        count = max(1, search.candidates - (i == search.iterations - 1))
        tried = draws.first(mean, spread, count, 0 if i else plan.prior_candidates, None if i else sample_prior)
        cost = costs(score(tried))  # B x N
        finite = torch.where(cost.isfinite(), cost, cost.nan_to_num(posinf=0.0))
        scale = TEMPERATURE * finite.std(1, unbiased=False, keepdim=True).clamp(min=1e-6)
        weights = (-(cost - cost.amin(1, keepdim=True)) / scale).softmax(1)[..., None, None]  # B x N x 1 x 1
        mean = (weights * tried).sum(1)
        spread = (weights * (tried - mean[:, None]).square()).sum(1).sqrt().clamp(min=plan.min_std)
    last = allow(mean[:, None])
    return found(last, score(last), search.iterations)


def gradients(
    score: Score,
    start: Tensor,
    search: SearchSettings,
    seeds: Sequence[int],
    plan: PlanConfig,
    std: Tensor,
    deadline: float | None = None,
    allow: Allow = box,
    sample_prior: SamplePrior | None = None,
) -> Found:
    """Random candidates for half of the budget, and Adam on the best of them through the rollout for the other half.

    The best sequence that was scored on the way is the answer. Needs a score that can be differentiated.
    """
    draws = Draws(seeds, start.shape, plan.noise_colour, allow)
    budget = search.candidates * search.iterations
    steps = budget // 2 // (BACKWARD * REFINED)
    tried = draws.first(
        start,
        std[:, None, None].expand_as(start),
        budget - steps * BACKWARD * REFINED,
        plan.prior_candidates,
        sample_prior,
    )
    best = chosen(tried, score(tried), min(REFINED, tried.shape[1]))
    actions, energies = (x.clone() for x in best)
    moving = actions.clone().requires_grad_()
    adam = torch.optim.Adam([moving], lr=RATE)
    for _ in range(steps):
        with torch.enable_grad():
            reached = score(moving)
            (moving.grad,) = torch.autograd.grad(reached.sum(), [moving])
        better = (costs(reached.detach()) < costs(energies))[..., None]
        energies = torch.where(better, reached.detach(), energies)
        actions = torch.where(better[..., None], moving.detach(), actions)
        adam.step()
        with torch.no_grad():
            moving.copy_(allow(moving))
    return found(actions, energies, steps)
