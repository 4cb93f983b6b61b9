"""Whitening against numpy's covariance, and the folded layer against the two layers that it stands for."""

import numpy as np
import pytest
import torch

from hnet_vjepa.losses.temporal import temporal_distance_loss
from hnet_vjepa.models.policy_prior import PolicyPrior
from hnet_vjepa.models.temporal_distance import TemporalDistance
from hnet_vjepa.models.whitening import Whitening


def rows(count: int = 4000) -> torch.Tensor:
    """Numbers that hang together, and of which one varies a thousand times less than another."""
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(5, 5, generator=generator) * torch.tensor([10.0, 3.0, 1.0, 0.1, 0.01])
    return torch.randn(count, 5, generator=generator) @ mixing.T + torch.arange(5.0)


def test_what_was_shown_comes_out_white_but_for_the_ridge() -> None:
    whitening, given = Whitening(5, 0.05), rows()
    whitening.fit(given)
    out = whitening(given).double().numpy()
    spread = np.cov(given.double().numpy().T, bias=True)
    factor = np.linalg.inv(np.linalg.cholesky(spread + 0.05**2 * np.eye(5)))
    np.testing.assert_allclose(np.cov(out.T, bias=True), factor @ spread @ factor.T, atol=1e-3)
    np.testing.assert_allclose(out.mean(0), 0, atol=1e-3)
    assert np.linalg.cond(np.cov(given.numpy().T)) > 1e5
    assert np.diag(np.cov(out.T)).max() < 1.001


def test_before_it_is_fitted_nothing_changes() -> None:
    x = torch.randn(3, 2, 5)
    assert torch.equal(Whitening(5, 0.05)(x), x)


def test_directions_that_never_vary_stay_finite() -> None:
    whitening = Whitening(3, 0.05)
    whitening.fit(torch.tensor([[1.0, 2.0, 3.0]]).expand(10, 3))
    assert torch.isfinite(whitening(torch.randn(4, 3))).all()


@pytest.mark.parametrize("fitted", [True, False])
def test_a_folded_distance_is_the_same_distance(fitted: bool) -> None:
    torch.manual_seed(0)
    steps = TemporalDistance(5, 1)
    if fitted:
        steps.whitening.fit(rows())
    a, b = rows(20).view(2, 10, 1, 5)
    before = steps(a, b)
    steps.fold()
    torch.testing.assert_close(steps(a, b), before, rtol=1e-4, atol=1e-4)
    assert not steps.whitening.fitted
    steps.fold()  # once more does nothing
    torch.testing.assert_close(steps(a, b), before, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("fitted", [True, False])
def test_a_folded_policy_prior_gives_equal_outputs(fitted: bool) -> None:
    torch.manual_seed(0)
    policy_prior = PolicyPrior(5, 1, 2, 16)
    if fitted:
        policy_prior.whitening.fit(rows())
    state, before, goal = rows(30).view(3, 10, 1, 5)
    prev_action = torch.randn(10, 2)
    expected = policy_prior(state, before, prev_action, goal)
    policy_prior.fold()
    for found, wanted in zip(policy_prior(state, before, prev_action, goal), expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


def test_half_precision_around_it_does_not_reach_what_is_small() -> None:
    whitening, given = Whitening(5, 0.05), rows()
    whitening.fit(given)
    with torch.autocast("cpu", torch.bfloat16):
        found = whitening(given)
    torch.testing.assert_close(found, whitening(given))


def test_a_distance_is_learnt_along_what_hardly_shows() -> None:
    """A walk along a line that looks like a hairpin: its ends are 41 steps apart and differ in a thousandth."""

    def learnt(white: bool) -> float:
        torch.manual_seed(0)
        along = torch.linspace(0, 1, 41)
        looks = torch.stack([(along * torch.pi).sin() * 10, along * 0.05, torch.zeros(41)], -1)  # 41 x 3
        steps = TemporalDistance(3, 1, width=64)
        if white:
            steps.whitening.fit(looks)
        optimizer = torch.optim.Adam(steps.mlp.parameters(), lr=3e-3)
        for _ in range(400):
            start, way = torch.randint(0, 41, (32,)), torch.randint(0, 2, (32, 1)) * 2 - 1
            walk = (start[:, None] + way * torch.arange(6)).clamp(0, 40)
            loss = temporal_distance_loss(steps.embed(looks[walk][..., None, :]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            return float(steps(looks[0][None], looks[40][None]))

    assert learnt(white=True) > 3 * learnt(white=False)
    assert learnt(white=True) > 15
