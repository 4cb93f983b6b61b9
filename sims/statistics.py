"""The few statistics that a success rate needs to be believed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

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


def wilson(successes: int, trials: int, confidence: float = 0.95) -> Rate:
    """Return a rate with Wilson's score interval, which is right also near 0 and 1 and for few trials.

    Raises UserError unless 0 <= successes <= trials and trials > 0.
    """
    if trials < 1 or not 0 <= successes <= trials:
        raise UserError(f"{successes} successes of {trials} trials; needs at least 1 trial and no more successes")
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


@dataclass(frozen=True)
class PairedDifference:
    """How two methods differ on the same episodes.

    ``p_value``: probability of so uneven a split of the episodes that only one of them solved, if both were equally
    good (exact McNemar test, which is a two-sided sign test).
    """

    difference: float
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
    return PairedDifference((sum(first) - sum(second)) / len(first), only_first, only_second, min(1.0, 2 * tail))


def percentiles(values: Sequence[float], wanted: Sequence[float]) -> tuple[float, ...]:
    """Return percentiles (0 to 100, interpolated linearly) of values; NaN for each when there are no values."""
    if not values:
        return tuple(math.nan for _ in wanted)
    return tuple(float(p) for p in np.percentile(np.asarray(values, np.float64), list(wanted)))
