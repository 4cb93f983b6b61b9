"""The loss of the policy prior."""

from __future__ import annotations

from torch import Tensor

from hnet_vjepa.models.policy_prior import PolicyPrior


def policy_prior_loss(policy_prior: PolicyPrior, states: Tensor, actions: Tensor, hindsight_goal: Tensor) -> Tensor:
    """Negative log likelihood of recorded actions given hindsight goals, weighted by the predicted variance.

    ``mean(sg(std^2) ((action - mean)^2 / (2 std^2) + log std))``: beta-NLL with beta 1 (Seitzer et al. 2022), sg stops
    the gradient. The mean is then learnt as by least squares. Under the plain likelihood a robot at rest, whose action
    is certain, can weigh hundreds of times as much as one on its way to the goal, where the mean matters.

    States of clips B x T x S x d; normalised actions between them B x (T - 1) x A; hindsight goals B x S x d, states of
    each clip's episode at the clip's end or later. The first frame has no past, so its action is not predicted.
    """
    now = states[:, 1:-1]  # B x (T - 2) x S x d
    mean, log_std = policy_prior(now, states[:, :-2], actions[:, :-1], hindsight_goal[:, None].expand_as(now))
    unlikely = 0.5 * ((actions[:, 1:] - mean) * (-log_std).exp()).square() + log_std
    return (unlikely * (2 * log_std.detach()).exp()).mean()
