"""Statistics against closed forms and against scipy."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from hnet_vjepa.errors import UserError
from sims.evaluation.statistics import (
    bootstrap_median,
    fisher_less,
    paired_difference,
    percentiles,
    ranks,
    spearman,
    wilson,
)


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


def test_fisher_against_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for trials, reference_trials in ((5, 7), (20, 300), (60, 40)):
        for successes in range(0, trials + 1, max(1, trials // 7)):
            for reference in range(0, reference_trials + 1, max(1, reference_trials // 9)):
                table = [[successes, trials - successes], [reference, reference_trials - reference]]
                expected = stats.fisher_exact(table, alternative="less").pvalue
                assert fisher_less(successes, trials, reference, reference_trials) == pytest.approx(expected, rel=1e-9)
    for wrong in ((3, 2, 1, 1), (0, 0, 1, 1), (1, 1, -1, 2), (1, 1, 3, 2)):
        with pytest.raises(UserError, match="needs at least 1 trial"):
            fisher_less(*wrong)


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


def test_the_p_value_against_all_ways_the_coins_could_have_fallen() -> None:
    for only_first, only_second in ((0, 1), (3, 1), (2, 2), (5, 4), (8, 1), (0, 9)):
        first = [True] * only_first + [False] * only_second + [True, False]
        second = [False] * only_first + [True] * only_second + [True, False]
        n = only_first + only_second
        uneven = [
            abs(2 * sum(coins) - n) >= abs(only_first - only_second) for coins in itertools.product((0, 1), repeat=n)
        ]
        assert paired_difference(first, second).p_value == pytest.approx(np.mean(uneven))


def test_the_interval_of_a_paired_difference_covers_the_truth() -> None:
    """Every outcome of 12 episodes with its probability: how often the interval holds the true difference."""
    n, intervals = 12, {}
    for both, one, other in itertools.product(range(n + 1), repeat=3):
        if (neither := n - both - one - other) >= 0:
            first = [True] * (both + one) + [False] * (other + neither)
            second = [True] * both + [False] * one + [True] * other + [False] * neither
            pair = paired_difference(first, second)
            assert -1 <= pair.low <= pair.difference <= pair.high <= 1
            mirror = paired_difference(second, first)
            assert (mirror.low, mirror.high) == pytest.approx((-pair.high, -pair.low))
            intervals[both, one, other, neither] = pair.low, pair.high
    covered = []
    for shares in ((0.25, 0.25, 0.25, 0.25), (0.7, 0.1, 0.1, 0.1), (0.4, 0.3, 0.05, 0.25), (0.85, 0.1, 0.02, 0.03)):
        total = 0.0
        for counts, (low, high) in intervals.items():
            ways = math.factorial(n) / math.prod(map(math.factorial, counts))
            chance = ways * math.prod(share**count for share, count in zip(shares, counts, strict=True))
            total += chance * (low <= shares[1] - shares[2] <= high)
        covered.append(total)
    assert min(covered) > 0.93 and np.mean(covered) > 0.95
    wide, narrow = (paired_difference([True] * k + [False] * k, [True] * k + [False] * k) for k in (10, 100))
    assert narrow.high - narrow.low < (wide.high - wide.low) / 2.5


def test_ranks_and_rank_correlation_by_hand() -> None:
    assert ranks([3.0, 1.0, 3.0, 2.0, 3.0]).tolist() == [4, 1, 4, 2, 4]
    assert spearman([1, 2, 3, 4], [10, 20, 40, 30]) == pytest.approx(0.8)  # 1 - 6 * 2 / (4 * 15)
    # Ranks 1, 2.5, 2.5, 4 and 1, 3, 2, 4: covariance 4.5, squares 4.5 and 5.
    assert spearman([0, 5, 5, 9], [1, 3, 2, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))
    assert spearman([1, 2, 3], [np.exp(x) for x in (1, 2, 3)]) == pytest.approx(1)
    assert spearman([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))


def test_rank_correlation_against_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    rng = np.random.default_rng(0)
    for n in (5, 60):
        a, b = rng.integers(0, 8, n).astype(float), rng.normal(size=n)
        assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic)


def test_a_median_with_its_interval() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(200):
        found = bootstrap_median(rng.normal(1.0, 1.0, 40).tolist(), draws=400)
        assert found is not None
        held += found.low <= 1.0 <= found.high
    assert 0.90 <= held / 200 <= 0.99
    found = bootstrap_median([1.0, math.nan, 3.0, 2.0])
    assert found is not None and (found.median, found.episodes) == (2.0, 3)
    assert found == bootstrap_median([1.0, math.nan, 3.0, 2.0])
    assert bootstrap_median([math.nan]) is None and bootstrap_median([]) is None


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
