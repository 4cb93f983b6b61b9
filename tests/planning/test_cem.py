"""The cross-entropy method finds low energies, within bounds and deadlines, for each query by itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hnet_vjepa.config import PlanConfig
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.cem import Found, Score, SearchProblem, noise_shape, search_actions
from hnet_vjepa.planning.checks import check_search
from hnet_vjepa.planning.interface import SearchSettings

SEARCH = SearchSettings(candidates=64, iterations=12, horizon=3, elites=8)
WHITE = PlanConfig(momentum=0.1, min_std=0.02, noise_colour=0.0)
WIDE = torch.tensor([0.7])


def solve(
    score: Score, start: Tensor, search: SearchSettings, seeds: list[int], plan: PlanConfig, std: Tensor, **more
) -> Found:
    """The shipped search on a problem of these parts."""
    return search_actions(SearchProblem(score, start, std, seeds, search, plan, **more))


def quadratic(target: Tensor):
    """Energy (a_h - target_h)^2 after every step: B x N x H x A -> B x N x H."""
    return lambda actions: (actions - target[:, None]).square().sum(-1)


def find(score, batch: int = 1, search: SearchSettings = SEARCH, seeds: list[int] | None = None, **more) -> Found:
    start = torch.zeros(batch, search.horizon, 2)
    return solve(score, start, search, seeds or list(range(batch)), WHITE, torch.full((batch,), 0.7), **more)


def test_finds_the_minimum_of_a_quadratic() -> None:
    target = torch.rand(3, 3, 2) * 1.6 - 0.8
    found = find(quadratic(target), 3)
    assert (found.actions - target).abs().max() < 0.1
    torch.testing.assert_close(found.energies, (found.actions - target).square().sum(-1))


def test_what_cannot_be_done_is_never_proposed_and_the_bound_is_found() -> None:
    seen: list[Tensor] = []

    def score(actions: Tensor) -> Tensor:
        seen.append(actions)
        return (actions - 3.0).square().sum(-1)

    found = find(score)
    assert max(float(a.abs().max()) for a in seen) <= 1.0
    assert (found.actions > 0.97).all()


def test_the_plan_of_a_query_does_not_depend_on_its_neighbours() -> None:
    target = torch.rand(4, 3, 2) - 0.5
    together = find(quadratic(target), 4, seeds=[7, 8, 9, 10])
    alone = find(quadratic(target[2:3]), 1, seeds=[9])
    torch.testing.assert_close(together.actions[2:3], alone.actions)
    assert not torch.equal(alone.actions, find(quadratic(target[2:3]), 1, seeds=[11]).actions)


def test_the_mean_is_a_candidate_and_elites_are_kept() -> None:
    best: list[float] = []
    target = torch.rand(1, 3, 2) - 0.5
    first: list[Tensor] = []

    def score(actions: Tensor) -> Tensor:
        first.append(actions[:, 0])
        energies = quadratic(target)(actions)
        best.append(float(energies.sum(-1).min()))
        return energies

    start = torch.full((1, 3, 2), 0.3)
    found = solve(score, start, SEARCH, [0], PlanConfig(min_std=0.02), WIDE)
    assert torch.equal(first[0], start)
    assert float(found.energies.sum()) == pytest.approx(min(best))


@pytest.mark.parametrize("kept", [1, 3])
@pytest.mark.parametrize("seed", range(5))
def test_of_fewer_kept_than_elites_the_best_are_kept(kept: int, seed: int) -> None:
    """New candidates are far worse than the best of the first round, so the search has to keep it."""
    tried: list[Tensor] = []
    target = torch.full((1, 3, 2), 0.2)

    def score(actions: Tensor) -> Tensor:
        tried.append(quadratic(target)(actions).sum(-1))
        return quadratic(target)(actions)

    search = SearchSettings(candidates=8, iterations=6, horizon=3, elites=4)
    plan = PlanConfig(kept=kept, min_std=1.0, noise_colour=0.0)
    found = solve(score, torch.full((1, 3, 2), 0.25), search, [seed], plan, torch.tensor([1.0]))
    assert float(found.energies.sum()) == pytest.approx(min(float(energies.min()) for energies in tried))
    assert float(tried[-1].min()) > float(found.energies.sum())  # or this shows nothing


def test_a_good_start_is_never_made_worse() -> None:
    target = torch.rand(1, 3, 2) - 0.5
    search = SearchSettings(candidates=4, iterations=1, horizon=3, elites=2)
    found = solve(quadratic(target), target.clone(), search, [0], PlanConfig(), WIDE)
    assert float(found.energies.sum()) == pytest.approx(0.0, abs=1e-9)


class Clock:
    """In place of the module ``time`` of the search: it stands still but for what the test adds to ``now``."""

    def __init__(self) -> None:
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("hnet_vjepa.planning.cem.time", clock)
    return clock


def test_the_deadline_stops_the_search_and_the_best_so_far_is_given(clock: Clock) -> None:
    target = torch.zeros(1, 3, 2)
    tried: list[float] = []

    def slow(actions: Tensor) -> Tensor:
        clock.now += 0.02
        tried.append(float(quadratic(target)(actions).sum(-1).min()))
        return quadratic(target)(actions)

    search = SearchSettings(candidates=16, iterations=1000, horizon=3, elites=4)
    found = find(slow, 1, search, deadline=0.15)
    assert clock.now == pytest.approx(0.14)  # the next iteration of 0.02 s would end too late
    assert found.iterations == (7,)
    assert float(found.energies.sum()) == pytest.approx(min(tried))
    assert find(slow, 1, search, deadline=clock.now - 1).iterations == (1,)


def test_not_a_number_never_wins() -> None:
    def score(actions: Tensor) -> Tensor:
        energies = quadratic(torch.zeros(1, 3, 2))(actions)
        return torch.where(actions[..., 0] > 0, torch.nan, energies)

    found = find(score)
    assert torch.isfinite(found.energies).all()


@pytest.mark.parametrize("colour", [0.0, 0.5, 1.0, 2.0])
@pytest.mark.parametrize("horizon", [1, 2, 5, 12])
def test_coloured_noise_has_unit_variance_and_redder_noise_changes_less(colour: float, horizon: int) -> None:
    covariance = noise_shape(horizon, colour) @ noise_shape(horizon, colour).T
    np.testing.assert_allclose(np.diag(covariance.numpy()), 1.0, atol=1e-5)
    if horizon > 1:
        assert (covariance[0, 1] > 0.05) == (colour > 0)


@settings(max_examples=50, deadline=None)
@given(st.integers(-2, 70), st.integers(-1, 3), st.integers(-1, 4), st.integers(-1, 70))
def test_settings_are_refused_by_name_or_work(candidates: int, iterations: int, horizon: int, elites: int) -> None:
    search = SearchSettings(candidates, iterations, horizon, elites)
    if min(candidates, iterations, horizon, elites) < 1 or elites > candidates:
        with pytest.raises(UserError, match="search\\."):
            check_search(search)
    else:
        check_search(search)
        found = find(quadratic(torch.zeros(1, horizon, 2)), 1, search)
        assert torch.isfinite(found.actions).all()


def test_without_kept_elites_every_iteration_is_judged_by_itself() -> None:
    """The plain method forgets: its answer is the best of its last iteration, not the best that was ever tried."""
    tried: list[Tensor] = []
    target = torch.rand(1, 3, 2) - 0.5

    def score(actions: Tensor) -> Tensor:
        tried.append(quadratic(target)(actions).sum(-1))
        return quadratic(target)(actions)

    search = SearchSettings(candidates=16, iterations=4, horizon=3, elites=4)
    found = solve(score, torch.zeros(1, 3, 2), search, [0], PlanConfig(kept=0), WIDE)
    assert float(found.energies.sum()) == pytest.approx(float(tried[-1].min()))


def test_what_is_proposed_is_tried_first_and_kept_when_nothing_is_better() -> None:
    target = torch.rand(2, 3, 2) * 1.8 - 0.9
    sizes: list[int] = []

    def score(actions: Tensor) -> Tensor:
        sizes.append(actions.shape[1])
        return quadratic(target)(actions)

    def sample_prior(noise: Tensor) -> Tensor:
        return target[:, None] + 0 * noise

    plan = PlanConfig(prior_candidates=5, elites=4)
    search = SearchSettings(candidates=16, iterations=2, horizon=3, elites=4)
    start = torch.zeros(2, 3, 2)
    found = solve(score, start, search, [0, 1], plan, WIDE.expand(2), sample_prior=sample_prior)
    torch.testing.assert_close(found.actions, target)
    assert sizes == [16, 16]  # samples of the policy prior replace random candidates
    few = SearchSettings(candidates=2, iterations=1, horizon=3, elites=1)
    solve(score, start, few, [0, 1], plan, WIDE.expand(2), sample_prior=sample_prior)
    assert sizes[-1] == 2


def test_a_smaller_spread_stays_nearer_to_the_start() -> None:
    seen: list[float] = []

    def score(actions: Tensor) -> Tensor:
        seen.append(float(actions.std()))
        return actions.square().sum(-1)

    search = SearchSettings(candidates=64, iterations=1, horizon=3, elites=8)
    for std in (0.1, 0.5):
        solve(score, torch.zeros(1, 3, 2), search, [0], PlanConfig(), torch.tensor([std]))
    assert seen[0] == pytest.approx(0.1, rel=0.15) and seen[1] > 4 * seen[0]


def test_a_wide_search_looks_at_the_clock_within_its_first_iteration(clock: Clock) -> None:
    def slow(actions: Tensor) -> Tensor:
        clock.now += 1e-4 * actions.shape[1]
        return actions.square().sum(-1)

    search = SearchSettings(candidates=4096, iterations=3, horizon=3, elites=8)
    found = find(slow, 1, search, deadline=0.05)
    assert 0.045 <= clock.now <= 0.05  # all candidates would take 0.4 s
    assert found.iterations == (1,) and torch.isfinite(found.actions).all()


@pytest.mark.parametrize("each_ms", [0.02, 0.5, 2.0, 50.0])
def test_pieces_fit_into_the_time_that_is_left(clock: Clock, each_ms: float) -> None:
    """On a clock that a candidate moves by ``each_ms``: never late, but for the first piece, which is always scored."""
    sizes: list[int] = []

    def score(actions: Tensor) -> Tensor:
        sizes.append(actions.shape[1])
        clock.now += 1e-3 * each_ms * actions.shape[1]
        return actions.square().sum(-1)

    find(score, 1, SearchSettings(candidates=512, iterations=1, horizon=3, elites=8), deadline=0.1)
    assert sizes[0] == 16 and max(sizes) <= 64
    assert clock.now <= max(0.1, 1e-3 * each_ms * 16) + 1e-9
    assert sum(sizes) >= min(512, int(100 / each_ms) - 15)  # and the time is used


def test_a_search_that_has_settled_ends_and_its_neighbours_go_on() -> None:
    target = torch.stack([torch.full((3, 2), 0.13), torch.full((3, 2), 0.9)])
    plan = PlanConfig(settled=0.08, min_std=0.02)
    search = SearchSettings(candidates=64, iterations=30, horizon=3, elites=8)
    run = lambda rows: solve(  # noqa: E731
        quadratic(target[rows]), torch.zeros(len(rows), 3, 2), search, rows, plan, WIDE.expand(len(rows))
    )
    together, alone = run([0, 1]), [run([0]), run([1])]
    assert max(together.iterations) < 30
    for row, one in enumerate(alone):
        assert one.iterations == (together.iterations[row],)
        torch.testing.assert_close(together.actions[row], one.actions[0], rtol=0, atol=1e-6)
    assert together.iterations[0] != together.iterations[1]  # or this shows nothing
    thorough = solve(quadratic(target), torch.zeros(2, 3, 2), search, [0, 1], PlanConfig(), WIDE.expand(2))
    assert thorough.iterations == (30, 30)


@pytest.mark.parametrize(("colour", "low", "high"), [(0.0, -0.1, 0.1), (2.0, 0.5, 1.0)])
def test_candidates_have_the_colour_of_the_settings(colour: float, low: float, high: float) -> None:
    """Correlation of one action with the next, over the candidates of the first iteration."""
    seen: list[Tensor] = []

    def score(actions: Tensor) -> Tensor:
        seen.append(actions)
        return actions.square().sum(-1)

    plan = PlanConfig(noise_colour=colour, prior_candidates=0)
    search = SearchSettings(candidates=600, iterations=1, horizon=8, elites=8)
    solve(score, torch.zeros(1, 8, 2), search, [0], plan, torch.tensor([0.1]))
    noise = torch.cat(seen, 1)[0, 1:]  # the first is the mean itself: N x H x A
    correlation = float((noise[:, :-1] * noise[:, 1:]).mean() / noise.square().mean())
    assert low < correlation < high
