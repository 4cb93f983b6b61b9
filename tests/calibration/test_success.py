"""The probability of reaching a goal: fitted to outcomes whose true probability is known, and judged by definition."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hnet_vjepa.calibration.success import brier_skill, calibration_error, features, fit, reliability
from hnet_vjepa.errors import UserError


def outcomes(count: int, seed: int) -> tuple[np.ndarray, list[tuple[float, np.ndarray]], np.ndarray]:
    """Plans whose goals are reached with probability 1 / (1 + (energy at the end / 0.3)^3)."""
    random = np.random.default_rng(seed)
    reports = [(float(e * 3), np.array([e * 2, e])) for e in np.exp(random.normal(-1.2, 0.8, count))]
    true = np.array([1 / (1 + (energies[-1] / 0.3) ** 3) for _, energies in reports])
    return true, reports, random.random(count) < true


def test_the_curve_finds_the_true_probability() -> None:
    true, reports, reached = outcomes(4000, 0)
    curve = fit(np.stack([features(*r) for r in reports]), reached, "x", 0.05, "m", 2)
    said = np.array([curve.probability(*r) for r in reports])
    assert np.abs(said - true).mean() < 0.02
    fresh_true, fresh, fresh_reached = outcomes(4000, 1)
    said = np.array([curve.probability(*r) for r in fresh])
    assert calibration_error(said, fresh_reached) < 0.03
    assert brier_skill(said, fresh_reached) == pytest.approx(brier_skill(fresh_true, fresh_reached), abs=0.01)


def test_a_plan_of_another_length_gets_no_probability() -> None:
    _, reports, reached = outcomes(50, 0)
    curve = fit(np.stack([features(*r) for r in reports]), reached, "x", 0.05, "m", 2)
    assert curve.probability(1.0, np.ones(3)) is None


def test_outcomes_that_one_feature_separates_give_a_finite_curve() -> None:
    rows = np.linspace(-1, 1, 40)[:, None] * np.ones(3)
    curve = fit(rows, rows[:, 0] > 0, "x", 0.05, "m", 2)
    assert np.isfinite(curve.weights).all()


@pytest.mark.parametrize("reached", [np.ones(5, bool), np.zeros(5, bool)])
def test_outcomes_of_one_kind_are_refused(reached: np.ndarray) -> None:
    with pytest.raises(UserError, match="a probability needs both kinds"):
        fit(np.random.default_rng(0).normal(size=(5, 3)), reached, "fetch-reach", 0.05, "m", 2)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=2, max_size=60))
def test_calibration_error_and_reliability_by_hand(rows: list[tuple[float, bool]]) -> None:
    said, reached = np.array([p for p, _ in rows]), np.array([r for _, r in rows])
    total = 0.0
    for b in range(10):
        inside = [(p, r) for p, r in rows if b / 10 <= p < (b + 1) / 10 or (b == 9 and p == 1)]
        if inside:
            total += len(inside) * abs(np.mean([p for p, _ in inside]) - np.mean([r for _, r in inside]))
    # A probability such as 0.3 x 10 may round into either of two tenths.
    if all(abs(p * 10 - round(p * 10)) > 1e-9 or p in (0, 1) for p, _ in rows):
        assert calibration_error(said, reached) == pytest.approx(total / len(rows), abs=1e-9)
    assert sum(count for count, _, _ in reliability(said, reached)) == len(rows)


def test_saying_the_base_rate_has_no_skill_and_the_truth_all() -> None:
    reached = np.random.default_rng(0).random(200) < 0.4
    assert brier_skill(np.full(200, reached.mean()), reached) == pytest.approx(0, abs=1e-9)
    assert brier_skill(reached.astype(float), reached) == pytest.approx(1)
