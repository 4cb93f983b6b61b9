"""Confidence intervals and exact tests for success rates, rank correlation, bootstrap medians."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.errors import UserError


@dataclass(frozen=True)
class Rate:
    """A success rate with its confidence interval."""

    successes: int
    trials: int
    low: float
    high: float

    @property
    def value(self) -> float:
        """Successes per trial."""
        return self.successes / self.trials


def _check(successes: int, trials: int) -> None:
    if trials < 1 or not 0 <= successes <= trials:
        raise UserError(f"{successes} successes of {trials} trials; needs at least 1 trial and no more successes")


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Rate:
    """Return a rate with Wilson's score interval, which is right also near 0 and 1 and for few trials.

    Raises UserError unless 0 <= successes <= trials and trials > 0.
    """
    _check(successes, trials)
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    rate = successes / trials
    middle = (rate + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(rate * (1 - rate) / trials + z * z / (4 * trials * trials))
    return Rate(
        successes,
        trials,
        0.0 if successes == 0 else max(0.0, middle - half),
        1.0 if successes == trials else min(1.0, middle + half),
    )


def fisher_less(successes: int, trials: int, reference: int, reference_trials: int) -> float:
    """P-value of 'the success rate is not lower than in the reference': Fisher's exact test, one-sided.

    The probability of ``successes`` or fewer among ``trials`` if both samples have one common rate, given all successes
    of both together (Fisher 1935, The logic of inductive inference; the hypergeometric lower tail). The uncertainty of
    the reference is thereby taken into account. Raises UserError unless 0 <= successes <= trials > 0 in both samples.
    """
    _check(successes, trials)
    _check(reference, reference_trials)
    everything = math.comb(trials + reference_trials, successes + reference)
    tail = sum(
        math.comb(trials, k) * math.comb(reference_trials, successes + reference - k) for k in range(successes + 1)
    )
    return tail / everything


@dataclass(frozen=True)
class PairedDifference:
    """How two methods differ on the same episodes.

    ``low`` and ``high``: 95 % interval of the difference (Newcombe 1998, method 10: Wilson's intervals of both rates,
    combined with the correlation of the two methods' successes).
    ``p_value``: exact McNemar test, which is a two-sided sign test on the episodes that only one of them solved.
    """

    difference: float
    low: float
    high: float
    only_first: int
    only_second: int
    p_value: float


def paired_difference(first: Sequence[bool], second: Sequence[bool]) -> PairedDifference:
    """Compare two methods' successes, episode by episode. Raises UserError when the lengths differ or are zero."""
    if len(first) != len(second) or not first:
        raise UserError(f"{len(first)} and {len(second)} episodes cannot be compared; both need the same ones")
    only_first = sum(a and not b for a, b in zip(first, second, strict=True))
    only_second = sum(b and not a for a, b in zip(first, second, strict=True))
    n, k = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(n, i) for i in range(k + 1)) / 2**n
    difference = (sum(first) - sum(second)) / len(first)
    low, high = _newcombe(first, second, only_first, only_second)
    return PairedDifference(difference, low, high, only_first, only_second, min(1.0, 2 * tail))


def _newcombe(first: Sequence[bool], second: Sequence[bool], only_first: int, only_second: int) -> tuple[float, float]:
    trials = len(first)
    one, other = wilson(sum(first), trials), wilson(sum(second), trials)
    both = one.successes - only_first
    neither = trials - both - only_first - only_second
    cross: float = both * neither - only_first * only_second
    if cross > 0:
        cross = max(cross - trials / 2, 0.0)  # a continuity correction
    spread = math.sqrt(
        one.successes * (trials - one.successes) * other.successes * (trials - other.successes)
    )  # 0 when one of them solved all or none
    together = cross / spread if spread else 0.0
    middle = one.value - other.value
    down, up = one.value - one.low, other.high - other.value
    low = middle - math.sqrt(max(0.0, down**2 - 2 * together * down * up + up**2))
    down, up = other.value - other.low, one.high - one.value
    high = middle + math.sqrt(max(0.0, down**2 - 2 * together * down * up + up**2))
    return max(-1.0, low), min(1.0, high)


def ranks(values: Sequence[float] | NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the rank of each value, from 1; equal values share the mean of their ranks."""
    _, place, count = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    last = np.cumsum(count)
    mean: NDArray[np.float64] = (last - (count - 1) / 2)[place]
    return mean


def spearman(first: Sequence[float] | NDArray[np.float64], second: Sequence[float] | NDArray[np.float64]) -> float:
    """Return Spearman's rank correlation, -1 to 1; NaN when one side is constant. Both need the same length."""
    a, b = ranks(first), ranks(second)
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / scale if scale else math.nan


@dataclass(frozen=True)
class Estimate:
    """A median over episodes with its 95 % interval."""

    median: float
    low: float
    high: float
    episodes: int


def bootstrap_median(values: Sequence[float], draws: int = 2000) -> Estimate | None:
    """Return the median of values with its 95 % percentile bootstrap interval, always the same for the same values.

    NaN (an episode in which nothing could be ranked) does not count; None when nothing is left.
    """
    finite = np.asarray([v for v in values if math.isfinite(v)], np.float64)
    if not len(finite):
        return None
    drawn = np.random.default_rng(0).integers(len(finite), size=(draws, len(finite)))
    low, high = np.percentile(np.median(finite[drawn], axis=1), [2.5, 97.5])
    return Estimate(float(np.median(finite)), float(low), float(high), len(finite))


def percentiles(values: Sequence[float], wanted: Sequence[float]) -> tuple[float, ...]:
    """Return percentiles (0 to 100, interpolated linearly) of values; NaN for each when there are no values."""
    if not values:
        return tuple(math.nan for _ in wanted)
    return tuple(float(p) for p in np.percentile(np.asarray(values, np.float64), list(wanted)))
