"""Success probability of a plan: a calibrated logistic curve over the energies that the search reports.

Energies rank plans; whether one is low enough to succeed is fitted once on rollouts (``sims.evaluation.calibrate``) and
stored in the checkpoint's manifest.
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
    """A logistic curve over a plan's energies, and what it was fitted on.

    The probability is that of being within ``tolerance`` of the goal when as many actions as the plan has are done,
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
    """Features of a plan: log of the last energy, log of the present one, and the square of the first: F numbers."""
    now, end = np.log(max(float(energy_now), 1e-6)), np.log(max(float(energies[-1]), 1e-6))
    return np.array([end, now, end**2])


def fit(rows: Array, reached: NDArray[np.bool_], task: str, tolerance: float, unit: str, horizon: int) -> SuccessCurve:
    """The maximum-likelihood curve (Newton's method on the ridge-penalised likelihood). Features N x F, outcomes N.

    Raises UserError when all or no rollouts reached their goals: there is nothing to fit then.
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


def brier_skill(predicted: Array, reached: NDArray[np.bool_]) -> float:
    """Brier skill score against the base rate: 1 is perfect, 0 no better than always predicting the base rate."""
    rate = reached.mean()
    return float(1 - np.mean((predicted - reached) ** 2) / max(rate * (1 - rate), 1e-12))


def reliability(predicted: Array, reached: NDArray[np.bool_]) -> list[tuple[int, float, float]]:
    """By tenths of the predicted probability: count, mean prediction, and observed share of successes."""
    tenth = np.minimum((predicted * BINS).astype(int), BINS - 1)
    return [
        (int(inside.sum()), float(predicted[inside].mean()), float(reached[inside].mean()))
        for inside in (tenth == b for b in range(BINS))
        if inside.any()
    ]


def calibration_error(predicted: Array, reached: NDArray[np.bool_]) -> float:
    """Expected calibration error over tenths of the probability (Naeini et al. 2015)."""
    return sum(count * abs(mean - true) for count, mean, true in reliability(predicted, reached)) / len(predicted)


def _logistic(x: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(x, -50, 50)))
