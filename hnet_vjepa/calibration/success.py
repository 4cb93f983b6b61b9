"""How likely a plan is to reach its goal: a calibrated probability, from the energies that the search reports.

Energies say which of two plans is better, not whether the better one is good enough. What they are worth is measured
once, on rollouts (``sims.evaluation.calibrate``), and kept in the checkpoint's manifest.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from hnet_vjepa.errors import UserError

Array = NDArray[np.float64]
RIDGE = 1e-3  # per rollout: keeps the weights finite where a feature separates all outcomes
BINS = 10


class SuccessCurve(BaseModel):
    """A logistic curve over what a plan reports, and what it was measured on.

    The probability is that of standing within ``tolerance`` of the goal when as many actions as the plan has are done,
    one after another, with a new plan before each.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    task: str
    tolerance: float
    unit: str
    horizon: int = Field(description="actions of the plans that it was measured on; it holds for no others")
    rollouts: int
    mean: tuple[float, ...]
    scale: tuple[float, ...]
    weights: tuple[float, ...] = Field(description="the constant first, then one for each feature")

    def probability(self, energy_now: float, energies: NDArray[np.floating]) -> float | None:
        """Of the plan with these energies; None for a plan of another length."""
        if len(energies) != self.horizon:
            return None
        row = (features(energy_now, energies) - self.mean) / self.scale
        return float(_logistic(self.weights[0] + row @ np.array(self.weights[1:])))


def features(energy_now: float, energies: NDArray[np.floating]) -> Array:
    """What is known of a plan: how near it ends, how near it begins, and the square of the first: F numbers."""
    now, end = np.log(max(float(energy_now), 1e-6)), np.log(max(float(energies[-1]), 1e-6))
    return np.array([end, now, end**2])


def fit(rows: Array, reached: NDArray[np.bool_], task: str, tolerance: float, unit: str, horizon: int) -> SuccessCurve:
    """The most likely curve (Newton's method on the ridge-penalised likelihood). Features N x F, outcomes N.

    Raises UserError when all or no rollouts reached their goals: there is nothing to tell apart then.
    """
    if reached.all() or not reached.any():
        raise UserError(
            f"{task}: {int(reached.sum())} of {len(reached)} rollouts reached the goal; a probability needs both kinds "
            "(take another tolerance)"
        )
    mean, scale = rows.mean(0), rows.std(0) + 1e-9
    x = np.column_stack([np.ones(len(rows)), (rows - mean) / scale])  # N x (1 + F)
    penalty = RIDGE * len(rows) * np.diag([0.0, *[1.0] * rows.shape[1]])
    weights = np.zeros(x.shape[1])
    for _ in range(50):
        p = _logistic(x @ weights)
        gradient = x.T @ (p - reached) + penalty @ weights
        curvature = (x * (p * (1 - p))[:, None]).T @ x + penalty + 1e-9 * np.eye(x.shape[1])
        step = np.linalg.solve(curvature, gradient)
        weights -= step / max(1.0, float(np.abs(step).max()))  # damped: Newton overshoots where the curve is flat
        if np.abs(step).max() < 1e-8:
            break
    return SuccessCurve(
        task=task,
        tolerance=tolerance,
        unit=unit,
        horizon=horizon,
        rollouts=len(rows),
        mean=tuple(mean.tolist()),
        scale=tuple(scale.tolist()),
        weights=tuple(weights.tolist()),
    )


def brier_skill(said: Array, reached: NDArray[np.bool_]) -> float:
    """1 - Brier score / Brier score of always saying how often goals are reached. 1 is perfect, 0 worthless."""
    rate = reached.mean()
    return float(1 - np.mean((said - reached) ** 2) / max(rate * (1 - rate), 1e-12))


def reliability(said: Array, reached: NDArray[np.bool_]) -> list[tuple[int, float, float]]:
    """By tenths of the probability said: how many, their mean probability, and how many of them came true."""
    tenth = np.minimum((said * BINS).astype(int), BINS - 1)
    return [
        (int(inside.sum()), float(said[inside].mean()), float(reached[inside].mean()))
        for inside in (tenth == b for b in range(BINS))
        if inside.any()
    ]


def calibration_error(said: Array, reached: NDArray[np.bool_]) -> float:
    """Expected calibration error over tenths of the probability (Naeini et al. 2015)."""
    return sum(count * abs(mean - true) for count, mean, true in reliability(said, reached)) / len(said)


def _logistic(x: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(x, -50, 50)))
