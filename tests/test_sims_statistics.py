"""Statistics against closed forms and against scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hnet_vjepa.errors import UserError
from sims.statistics import paired_difference, percentiles, wilson


def test_wilson_against_the_closed_form() -> None:
    z = 1.959963984540054
    for successes, trials in ((0, 10), (3, 10), (97, 100), (50, 50), (1, 1)):
        rate = wilson(successes, trials)
        p = successes / trials
        # The interval's ends are the rates that lie exactly z standard errors from what was seen.
        for end in (rate.low, rate.high):
            if 0 < end < 1:
                assert abs(p - end) == pytest.approx(z * math.sqrt(end * (1 - end) / trials), rel=1e-9)
        assert rate.low <= p <= rate.high
    assert wilson(0, 10).low == 0
    assert wilson(10, 10).high == 1
    assert wilson(0, 10).high == pytest.approx(z * z / (10 + z * z))


def test_wilson_against_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for successes, trials in ((0, 7), (7, 7), (13, 100), (88, 100), (450, 1000)):
        expected = stats.binomtest(successes, trials).proportion_ci(0.95, method="wilson")
        rate = wilson(successes, trials)
        assert (rate.low, rate.high) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_paired_difference_against_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for n in (5, 40, 1500):
        first, second = (rng.random(n) < 0.8).tolist(), (rng.random(n) < 0.6).tolist()
        result = paired_difference(first, second)
        expected = stats.binomtest(result.only_first, result.only_first + result.only_second).pvalue
        assert result.p_value == pytest.approx(expected, rel=1e-9)
        assert result.difference == pytest.approx((sum(first) - sum(second)) / n)


def test_paired_difference_of_equals() -> None:
    assert paired_difference([True, False], [True, False]).p_value == 1
    assert paired_difference([True] * 6, [False] * 6).p_value == 2 / 2**6


def test_percentiles() -> None:
    assert percentiles([1, 2, 3, 4, 5], (0, 50, 75)) == (1, 3, 4)
    assert all(math.isnan(p) for p in percentiles([], (50, 95)))


def test_impossible_counts_are_refused() -> None:
    with pytest.raises(UserError):
        wilson(3, 2)
    with pytest.raises(UserError):
        wilson(0, 0)
    with pytest.raises(UserError, match="1 and 2 episodes"):
        paired_difference([True], [True, False])
