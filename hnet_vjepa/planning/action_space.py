"""The robot's actions as the search sees them: active dimensions, scaled to -1..1 by the robot's bounds."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hnet_vjepa.planning.interface import PlanQuery
from hnet_vjepa.planning.limits import limits_of
from hnet_vjepa.specs import ActionSpec


class ActionSpace:
    """Conversions between three units of an action, and what follows from a query's previous plan.

    *Robot*: full vectors of ``dim`` numbers in the robot's units. *Unit*: the A active dimensions in -1..1. *Model*:
    the active dimensions normalised by the mean and standard deviation of the training data.

    Attributes: ``limits``, what the robot may be commanded (bounds, L1 ball, rates), in unit actions.
    """

    def __init__(self, spec: ActionSpec) -> None:
        active = list(spec.active)
        low, high = torch.tensor(spec.low)[active], torch.tensor(spec.high)[active]
        self.spec, self.limits = spec, limits_of(spec)
        self._centre, self._half = (low + high) / 2, (high - low) / 2
        self._mean, self._std = torch.tensor(spec.mean), torch.tensor(spec.std)

    def from_robot(self, actions: NDArray[np.float32]) -> Tensor:
        """Robot ... x dim -> unit ... x A."""
        return self._to_unit(torch.from_numpy(actions[..., list(self.spec.active)]))

    def to_robot(self, unit: Tensor) -> NDArray[np.float32]:
        """Unit H x A -> robot H x dim, inside the bounds in 32-bit precision."""
        full = np.zeros((len(unit), self.spec.dim), np.float32)
        full[:, list(self.spec.active)] = (self._centre + unit * self._half).numpy()
        return np.clip(full, *self.spec.inner_bounds())

    def from_model(self, normal: Tensor) -> Tensor:
        """Model ... x A -> unit ... x A, clipped."""
        return self._to_unit(normal * self._std + self._mean)

    def to_model(self, unit: Tensor) -> Tensor:
        """Unit ... x A -> model ... x A."""
        return (self._centre + unit * self._half - self._mean) / self._std

    def hold(self, query: PlanQuery) -> Tensor:
        """The action that holds the robot still, A: changes are zero, absolute commands (a gripper's) stay."""
        action, last = self.spec.hold(), query.previous_actions
        if last is not None and len(last):
            absolute = list(self.spec.absolute)
            action[absolute] = last[0, absolute]
        return self.from_robot(action)

    def prev_action(self, query: PlanQuery) -> Tensor:
        """The action that led to the last frame, A. Without a plan that began with it: holding still."""
        last = query.previous_actions
        if last is None or not len(last) or len(query.frames) < 2:
            return self.hold(query)
        return self.from_robot(last[0])

    def first_mean(self, query: PlanQuery, horizon: int) -> Tensor:
        """The first mean of the search, H x A: the previous plan shifted by one action, padded with holding still."""
        mean = self.hold(query).repeat(horizon, 1)
        if query.previous_actions is not None:
            old = self.from_robot(query.previous_actions[1 : horizon + 1])
            mean[: len(old)] = old
        return mean

    def _to_unit(self, actions: Tensor) -> Tensor:
        """Robot units of the active dimensions to -1..1; a dimension of no width is 0."""
        return ((actions - self._centre) / self._half.clamp(min=1e-12)).clamp(-1, 1) * (self._half > 0)
