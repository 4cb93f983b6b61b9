"""The loss of a temporal distance: apart as far as possible, one step at most between neighbours in time."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

FAR = 50.0  # steps at which pushing apart begins to fade
SOFTNESS = 0.1
TIGHTNESS = 100.0  # weight of a neighbour's distance beyond one step, relative to pushing apart


def temporal_distance_loss(embedded: Tensor) -> Tensor:
    """Loss of embedded clips B x T x E (Wang et al. 2023, equation 8, with a fixed multiplier).

    spread = mean over all pairs of softplus(0.1 (50 - d)) / 0.1
    step   = mean over neighbours in time of max(0, d - 1)^2
    loss   = (spread + 100 step) / 100
    """
    points = embedded.float().flatten(0, 1)  # N x E, N = B*T
    apart = F.pdist(points)  # N (N - 1) / 2, every pair once
    itself = F.softplus(points.new_tensor(SOFTNESS * FAR))  # N pairs of a state with itself, which nothing can move
    pushed = 2 * F.softplus(SOFTNESS * (FAR - apart)).sum() + len(points) * itself
    spread = pushed / SOFTNESS / len(points) ** 2
    step = torch.linalg.vector_norm(embedded.float().diff(dim=1), dim=-1)  # B x (T - 1)
    return (spread + TIGHTNESS * F.relu(step - 1).square().mean()) / TIGHTNESS
