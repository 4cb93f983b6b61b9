"""The loss of the learnt proposal."""

from __future__ import annotations

import torch
from torch import Tensor

from hnet_vjepa.models.proposal import Proposal


def proposal_loss(proposal: Proposal, states: Tensor, actions: Tensor, later: Tensor, pick: Tensor) -> Tensor:
    """Negative log likelihood of what was done, given what was reached by it, each weighted by its own variance.

    ``mean(sg(std^2) ((action - mean)^2 / (2 std^2) + log std))``: beta-NLL with beta 1 (Seitzer et al. 2022), sg stops
    the gradient. The mean is then learnt as by least squares. By the likelihood alone a robot that rests, whose action
    is certain, can count hundreds of times as much as one that has to find its way, which is when the mean matters.

    States of clips B x T x S x d, actions between them B x (T - 1) x A, a later state of each clip's episode B x S x d.
    ``pick``: B integers in 0 .. T - 1; the goal of all steps before that frame of the clip is that frame, of the others
    the later one.
    """
    frames = states.shape[1]
    times = torch.arange(1, frames - 1, device=states.device)  # the first frame has no past
    own = states[torch.arange(len(states), device=states.device), pick]  # B x S x d
    soon = (times < pick[:, None])[..., None, None]  # B x (T - 2) x 1 x 1
    goal = torch.where(soon, own[:, None], later[:, None])  # B x (T - 2) x S x d
    mean, log_std = proposal(states[:, 1:-1], states[:, :-2], actions[:, :-1], goal)
    unlikely = 0.5 * ((actions[:, 1:] - mean) * (-log_std).exp()).square() + log_std
    return (unlikely * (2 * log_std.detach()).exp()).mean()
