"""NT-Xent (Chen et al. 2020) between two modalities, with more than one positive per row."""

from __future__ import annotations

from torch import Tensor


def nt_xent(x: Tensor, y: Tensor, temperature: float, positives: Tensor) -> Tensor:
    """Symmetric cross-entropy between unit vectors x (B x E) and y (B x E).

    ``positives`` (B x B bool, its diagonal True) says which y are true of which x: several clips can be "at
    the left", and none of them is a negative. The target is uniform over the positives P_i::

        L = - mean_i mean_{j in P_i} log softmax_j(x_i . y_j / temperature),  and the same with x and y exchanged
    """
    logits = x @ y.T / temperature
    forward = logits.log_softmax(1).masked_fill(~positives, 0.0).sum(1) / positives.sum(1)
    backward = logits.log_softmax(0).masked_fill(~positives, 0.0).sum(0) / positives.sum(0)
    return -(forward.mean() + backward.mean()) / 2
