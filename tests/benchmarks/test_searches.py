"""The searches that the shipped one is compared with: each finds a known minimum within bounds and budget."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmarks.planner.searches import BACKWARD, DECAY, gradients, icem, mppi, random_shooting, shrinking
from hnet_vjepa.config import PlanConfig
from hnet_vjepa.planning.cem import Found, Search, SearchProblem
from hnet_vjepa.planning.interface import SearchSettings

SEARCH = SearchSettings(candidates=128, iterations=8, horizon=3, elites=8)
PLAN = PlanConfig(min_std=0.02)
SEARCHES: dict[str, Search] = {"icem": icem, "mppi": mppi, "gradients": gradients, "random": random_shooting}
ALL = pytest.mark.parametrize("name", SEARCHES)


class Bowl:
    """Energies (a_h - target_h)^2 after every step; records the candidates and counts their cost."""

    def __init__(self, target: Tensor) -> None:
        self.target, self.seen, self.paid = target, list[Tensor](), 0

    def __call__(self, actions: Tensor) -> Tensor:
        """See Score."""
        self.seen.append(actions.detach().clone())
        self.paid += actions.shape[1] * (BACKWARD if actions.requires_grad else 1)
        return (actions - self.target[:, None]).square().sum(-1)


def find(name: str, bowl: Bowl, seeds: list[int] | None = None, search: SearchSettings = SEARCH, **more: Any) -> Found:
    batch = len(bowl.target)
    start = torch.zeros(batch, search.horizon, 2)
    std = torch.full((batch,), 0.7)
    return SEARCHES[name](SearchProblem(bowl, start, std, seeds or list(range(batch)), search, PLAN, **more))


def targets(batch: int = 3) -> Tensor:
    return torch.rand(batch, 3, 2, generator=torch.Generator().manual_seed(0)) * 1.6 - 0.8


@pytest.mark.parametrize(("name", "near"), [("icem", 0.05), ("mppi", 0.1), ("gradients", 0.05), ("random", 0.8)])
def test_a_known_minimum_is_found(name: str, near: float) -> None:
    bowl = Bowl(targets())
    found = find(name, bowl)
    assert (found.actions - bowl.target).abs().max() < near
    torch.testing.assert_close(found.energies, (found.actions - bowl.target).square().sum(-1))
    assert not found.actions.requires_grad and not found.energies.requires_grad


@ALL
@pytest.mark.parametrize("shape", [(128, 8), (16, 2), (7, 3), (2, 1)])
def test_the_budget_is_that_of_the_shipped_search(name: str, shape: tuple[int, int]) -> None:
    search = SearchSettings(*shape, horizon=3, elites=1)
    bowl = Bowl(targets(1))
    find(name, bowl, search=search)
    assert bowl.paid == shape[0] * shape[1]


@ALL
def test_candidates_stay_within_the_bounds_and_the_bound_is_found(name: str) -> None:
    bowl = Bowl(torch.full((1, 3, 2), 3.0))
    found = find(name, bowl)
    assert max(float(seen.abs().max()) for seen in bowl.seen) <= 1
    assert (found.actions.mean() > 0.5) if name == "random" else (found.actions > 0.9).all()


@ALL
def test_a_query_s_answer_depends_only_on_its_own_seed(name: str) -> None:
    target = targets(4)
    together = find(name, Bowl(target), [7, 8, 9, 10])
    torch.testing.assert_close(together.actions[2:3], find(name, Bowl(target[2:3]), [9]).actions)
    assert not torch.equal(together.actions[2:3], find(name, Bowl(target[2:3]), [11]).actions)


@ALL
def test_the_mean_and_samples_of_the_prior_are_among_the_first_candidates(name: str) -> None:
    bowl = Bowl(targets(1))
    found = find(name, bowl, sample_prior=lambda noise: bowl.target[:, None] + 0 * noise)
    assert torch.equal(bowl.seen[0][:, 0], torch.zeros(1, 3, 2))
    torch.testing.assert_close(bowl.seen[0][:, 1 : 1 + PLAN.prior_candidates], bowl.target[:, None].expand(1, 8, 3, 2))
    if name != "mppi":  # whose answer is a mean
        torch.testing.assert_close(found.actions, bowl.target)


@ALL
def test_nan_never_wins(name: str) -> None:
    bowl = Bowl(torch.full((1, 3, 2), -0.5))
    holed = lambda actions: torch.where(actions[..., 0] > 0.2, torch.nan, bowl(actions))  # noqa: E731
    start = torch.zeros(1, 3, 2)
    found = SEARCHES[name](SearchProblem(holed, start, torch.tensor([0.7]), [0], SEARCH, PLAN))
    assert torch.isfinite(found.energies).all() and torch.isfinite(found.actions).all()


def test_gradients_improve_on_the_candidates_drawn() -> None:
    """With the same candidates first, the answer is nearer than the best of them, and never worse."""
    bowl = Bowl(targets())
    found = find("gradients", bowl)
    drawn = (bowl.seen[0] - bowl.target[:, None]).square().sum((-1, -2)).amin(1)
    assert (found.energies.sum(-1) < 0.1 * drawn).all()


def test_populations_shrink_and_add_up() -> None:
    sizes = shrinking(1000, 5)
    assert sum(sizes) == 1000
    for larger, smaller in itertools.pairwise(sizes):
        assert larger / smaller == pytest.approx(DECAY, rel=0.03)
