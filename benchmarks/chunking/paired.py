"""Differences between chunks and the other tokenizers, paired by task, token count and seed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.chunking.small_models import CELLS, METHODS, TOKENS, TUBELETS
from hnet_vjepa.errors import UserError

OUTCOMES = ("object", "labels", "success")  # whose mean is a cell's score, all in points
CLOSE = 0.02  # largest relative difference between the mean numbers of tokens that counts as equal


@dataclass(frozen=True)
class Cell:
    """One model and its scores, in points (0 to 100)."""

    task: str
    tokens: int
    method: str
    seed: int
    live: float  # mean number of live tokens of a held-out frame ...
    live_std: float  # ... and its standard deviation over the frames
    object: float  # held-out frames in which a linear probe of the planning state finds the object within READ
    robot: float  # the same for what the robot moves
    labels: float  # balanced accuracy of the label head on held-out episodes, mean over the labels
    success: float  # dev pairs at whose end the robot is where the goal image shows it

    @property
    def score(self) -> float:
        """The mean of the outcomes, in points."""
        return float(np.mean([getattr(self, name) for name in OUTCOMES]))


@dataclass(frozen=True)
class Difference:
    """The mean of paired differences, and the lower bound of its two-sided 95 % interval (Student's t)."""

    mean: float
    low95: float
    pairs: int


def student_quantile(freedom: int, confidence: float = 0.95) -> float:
    """The t with ``P(|T| < t) = confidence`` for ``freedom`` degrees of freedom (Abramowitz and Stegun 26.7.3 and 4).

    Raises ValueError without at least one degree of freedom.
    """
    if freedom < 1:
        raise ValueError(f"freedom must be at least 1; got {freedom}")

    def inside(t: float) -> float:
        angle = math.atan(t / math.sqrt(freedom))
        sine, cosine = math.sin(angle), math.cos(angle)
        term = cosine if freedom % 2 else 1.0
        total = 0.0
        for k in range(freedom % 2 + 1, freedom, 2):  # cos, 2/3 cos^3, ... or 1, 1/2 cos^2, ...
            total += term
            term *= cosine**2 * k / (k + 1)
        return 2 / math.pi * (angle + sine * total) if freedom % 2 else sine * total

    low, high = 0.0, 1.0
    while inside(high) < confidence:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if inside(middle) < confidence else (low, middle)
    return (low + high) / 2


def paired(cells: Sequence[Cell], other: str, outcome: str) -> Difference:
    """Chunks minus another method, in points of ``outcome`` (a field of Cell, or "score").

    The unit is a pair of models that share task, token count and seed, hence data, order of the clips and dev pairs.
    Tubelets have one token count of their own and are compared with chunks of every count.
    Raises UserError when there are fewer than two such pairs.
    """
    scores = {(c.method, c.task, c.tokens, c.seed): float(getattr(c, outcome)) for c in cells}
    partners = {
        (task, tokens, seed): (other, task, CELLS if other == TUBELETS else tokens, seed)
        for method, task, tokens, seed in scores
        if method == "chunks"
    }
    differences = [scores["chunks", *cell] - scores[partner] for cell, partner in partners.items() if partner in scores]
    if len(differences) < 2:
        raise UserError(f"{len(differences)} pairs of chunks and {other}; an interval needs at least 2")
    mean, deviation = float(np.mean(differences)), float(np.std(differences, ddof=1))
    half = student_quantile(len(differences) - 1) * deviation / math.sqrt(len(differences))
    return Difference(mean, mean - half, len(differences))


def metrics(cells: Sequence[Cell]) -> dict[str, Any]:
    """Differences of the score and of every outcome, the largest difference of token counts, the number of seeds."""
    found: dict[str, Any] = {"seeds": len({c.seed for c in cells})}
    made = {c.method for c in cells}
    for other in [name for name in (*METHODS, TUBELETS) if name in made - {"chunks"}]:
        for outcome, kind in (("score", "points"), *((name, f"{name}_points") for name in OUTCOMES)):
            difference = paired(cells, other, outcome)
            found[f"chunks_minus_{other}_{kind}_mean"] = difference.mean
            found[f"chunks_minus_{other}_{kind}_low95"] = difference.low95
            found[f"chunks_minus_{other}_pairs"] = difference.pairs
    found["tokens_off_most"] = max(abs(mean / tokens - 1) for tokens, mean in mean_tokens(cells).items())
    found["tokens_equal"] = found["tokens_off_most"] <= CLOSE
    return found


def mean_tokens(cells: Sequence[Cell]) -> dict[int, float]:
    """The chunks' mean number of live tokens over tasks and seeds, by the number they are calibrated to."""
    chunks = [c for c in cells if c.method == "chunks"]
    return {tokens: float(np.mean([c.live for c in chunks if c.tokens == tokens])) for tokens in TOKENS}


def means(cells: Sequence[Cell]) -> list[dict[str, Any]]:
    """Means over the seeds, a row for every task, token count and method."""
    rows = []
    for task, tokens, method in dict.fromkeys((c.task, c.tokens, c.method) for c in cells):
        alike = [c for c in cells if (c.task, c.tokens, c.method) == (task, tokens, method)]
        numbers = ("live", "live_std", "object", "robot", "labels", "success", "score")
        mean = {name: float(np.mean([getattr(c, name) for c in alike])) for name in numbers}
        rows.append({"task": task, "tokens": tokens, "method": method, **mean})
    return rows
