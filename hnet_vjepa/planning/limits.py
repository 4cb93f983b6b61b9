"""Limits of actions: the box of the robot's bounds, an L1 ball around holding still, and rates of change.

The three are imposed inside the search, so that what is scored can be executed. Each is a convex set of single actions,
or a step along the straight line between two members of such sets, so no rule undoes another.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from hnet_vjepa.specs import ActionSpec


@dataclass(frozen=True)
class Limits:
    """A robot's limits, for actions in its active dimensions scaled to -1..1."""

    centre: Tensor  # A, robot units
    half: Tensor  # A, robot units
    moving: Tensor  # A, True = counts in the L1 ball: a change, not an absolute command
    l1: float | None  # radius of the ball, robot units
    rate: Tensor | None  # A, largest change from one action to the next, in units of ``half``

    def project(self, actions: Tensor, last: Tensor) -> Tensor:
        """The nearest actions that the robot may be commanded, one after another.

        ``actions``: B x N x H x A of any size; ``last``: B x A, the command before the first. Result: B x N x H x A.

        The L1 ball is reached by scaling, which keeps the direction (V-JEPA 2-AC, Assran et al. 2025, bounds the same
        norm). A change that is too fast is scaled to what the slowest dimension allows.
        """
        allowed = self._inside(actions)
        if self.rate is None:
            return allowed
        command = self._inside(last)[:, None].expand_as(allowed[:, :, 0])  # B x N x A
        steps = []
        for wanted in allowed.unbind(2):
            change = wanted - command
            share = (self.rate / change.abs().clamp(min=1e-9)).amin(-1, keepdim=True).clamp(max=1)  # B x N x 1
            command = command + share * change
            steps.append(command)
        return torch.stack(steps, 2)

    def _inside(self, actions: Tensor) -> Tensor:
        """Box and ball: ... x A -> ... x A."""
        actions = actions.clamp(-1, 1)
        if self.l1 is None:
            return actions
        command = self.centre + actions * self.half  # ... x A, robot units
        norm = (command.abs() * self.moving).sum(-1, keepdim=True)  # ... x 1
        scaled = command * torch.where(self.moving, (self.l1 / norm.clamp(min=1e-12)).clamp(max=1), 1.0)
        # A dimension of no width has no scale to go back by and is its centre anyway.
        return torch.where(self.half > 0, (scaled - self.centre) / self.half.clamp(min=1e-12), actions)


def limits_of(spec: ActionSpec) -> Limits:
    """The limits in a robot's action spec."""
    active = list(spec.active)
    low, high = torch.tensor(spec.low)[active], torch.tensor(spec.high)[active]
    half = (high - low) / 2
    return Limits(
        centre=(low + high) / 2,
        half=half,
        moving=torch.tensor([dimension not in spec.absolute for dimension in active]),
        l1=spec.l1,
        rate=None if spec.rate is None else torch.tensor(spec.rate)[active] / half.clamp(min=1e-12),
    )
