"""Ring attention: exact attention over a sequence whose parts lie on different ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

Group = dist.ProcessGroup | None
# Keys travel in both directions, by turns: hops +1, -1, +2, -2 ... from home. Both directions of every link are used.
DIRECTIONS = (1, -1)
QUERIES = 512  # whose scores are in memory together: B x heads x QUERIES x L


def ring_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    key_padding: Tensor | None = None,
    key_bias: Tensor | None = None,
    group: Group = None,
) -> Tensor:
    """``softmax(q k^T / sqrt(d) + bias) v`` over the keys of all ranks, non-causal; the queries stay where they are.

    Every rank's keys visit every other rank. A visit gives a partial result, and partial results are merged exactly
    by their log-sum-exp (never averaged):

    ``s = q k_b^T / sqrt(d) + bias_b``, ``l_b = logsumexp(s)``, ``o_b = exp(s - l_b) v_b``,
    ``l' = log(e^l + e^{l_b})``, ``o' = e^{l - l'} o + e^{l_b - l'} o_b``.

    Backward repeats the journey and recomputes the scores, so that memory does not grow with the number of ranks
    (Liu et al., arXiv 2310.01889; the alternating direction is ours). All sums are in single precision at least.

    Args:
        q, k, v: B x heads x L x d, this rank's part; L is the same on all ranks (fill up with ``key_padding``).
        key_padding: B x L, True = a key that is not there. A query without any key on any rank gives 0.
        key_bias: B x L, added to the logits of a key, for instance ``log(size)``. It gets gradient.
        group: the ranks that share the sequence; None is all of them. All of them must call, and run backward.

    Without a process group, or alone in it, this is local attention. Returns B x heads x L x d in q's type. Raises
    ValueError when shapes do not fit each other on this rank.
    """
    if q.ndim != 4 or k.shape != q.shape or v.shape != q.shape:
        raise ValueError(
            f"q, k and v must be B x heads x L x d, all alike; got {tuple(q.shape)}, {tuple(k.shape)}, {tuple(v.shape)}"
        )
    rows = (q.shape[0], q.shape[2])
    for name, given in (("key_padding", key_padding), ("key_bias", key_bias)):
        if given is not None and given.shape != rows:
            raise ValueError(f"{name} must be B x L = {rows}; got {tuple(given.shape)}")
    wide = torch.promote_types(q.dtype, torch.float32)
    # There is always a bias, also without padding: whether a rank sends one must not depend on what it was given.
    bias = torch.zeros(rows, dtype=wide, device=q.device) if key_bias is None else key_bias.to(wide)
    if key_padding is not None:
        bias = bias.masked_fill(key_padding, -math.inf)
    if dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1:
        out: Tensor = _RingAttention.apply(q, k, v, bias, group)  # type: ignore[no-untyped-call]
        return out
    return _local_attention(q, k, v, bias)


def _local_attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
    """Attention over this rank's keys only; bias is B x L."""
    empty = bias.isneginf().all(-1)[:, None]  # B x 1
    # Backends disagree about a row without keys: let it see all of them, and throw the result away.
    mask = bias.masked_fill(empty, 0.0)[:, None, None].to(q.dtype)  # B x 1 x 1 x L
    with torch.autocast(q.device.type, enabled=False):
        out = F.scaled_dot_product_attention(q, k.to(q.dtype), v.to(q.dtype), attn_mask=mask)
    return out.masked_fill(empty[..., None, None], 0.0)


def _finite(logsum: Tensor) -> Tensor:
    """Replace the -inf of a sum over nothing by 0, so that it can be subtracted: exp(-inf - 0) is 0, as it should."""
    return logsum.masked_fill(logsum.isneginf(), 0.0)


def _scores(q: Tensor, k: Tensor, bias: Tensor) -> Tensor:
    """B x heads x Q x d, B x heads x L x d and B x L: B x heads x Q x L."""
    return q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + bias[:, None, None]


def _visit(q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Partial result over one block of keys: o_b, B x heads x L x d, and l_b, B x heads x L x 1."""
    found = []
    for some in q.split(QUERIES, 2):
        scores = _scores(some, k, bias)
        logsum = scores.logsumexp(-1, keepdim=True)
        found.append((scores.sub_(_finite(logsum)).exp_() @ v, logsum))
    outs, logsums = zip(*found, strict=True)
    return torch.cat(outs, 2), torch.cat(logsums, 2)


def _visit_backward(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor, grad: Tensor, delta: Tensor, base: Tensor, dq: Tensor
) -> list[Tensor]:
    """Gradients of one block of keys: dk_b, dv_b and dbias_b; that of the queries is added to ``dq``."""
    scale = 1 / math.sqrt(q.shape[-1])
    dk, dv, dbias = torch.zeros_like(k), torch.zeros_like(v), torch.zeros_like(bias)
    for start in range(0, q.shape[2], QUERIES):
        rows = slice(start, start + QUERIES)
        p = _scores(q[:, :, rows], k, bias).sub_(base[:, :, rows]).exp_()  # B x heads x Q x L
        dv += p.transpose(-1, -2) @ grad[:, :, rows]
        ds = p.mul_(grad[:, :, rows] @ v.transpose(-1, -2) - delta[:, :, rows])
        dq[:, :, rows] += ds @ k * scale
        dk += ds.transpose(-1, -2) @ q[:, :, rows] * scale
        dbias += ds.sum((1, 2))
    return [dk, dv, dbias]


def _merge(out: Tensor, logsum: Tensor, out_b: Tensor, logsum_b: Tensor) -> tuple[Tensor, Tensor]:
    """Merge two partial results. With both empty, the sum stays empty and the result 0."""
    merged = torch.logaddexp(logsum, logsum_b)
    base = _finite(merged)
    return (logsum - base).exp() * out + (logsum_b - base).exp() * out_b, merged


class _Shift:
    """Tensors on their way to the rank ``step`` ahead; ``wait`` gives those from ``step`` behind."""

    def __init__(self, tensors: list[Tensor], step: int, group: Group) -> None:
        world, rank = dist.get_world_size(group), dist.get_rank(group)
        ahead, behind = (rank + step) % world, (rank - step) % world
        if group is not None:
            ahead, behind = dist.get_global_rank(group, ahead), dist.get_global_rank(group, behind)
        self.sent = [tensor.contiguous() for tensor in tensors]  # kept until they have arrived
        self.received = [torch.empty_like(tensor) for tensor in self.sent]
        operations = []
        for out, into in zip(self.sent, self.received, strict=True):
            operations.append(dist.P2POp(dist.isend, out, ahead, group))
            operations.append(dist.P2POp(dist.irecv, into, behind, group))
        self.requests = dist.batch_isend_irecv(operations)

    def wait(self) -> list[Tensor]:
        for request in self.requests:
            request.wait()
        return self.received


def _circulate(tensors: list[Tensor], group: Group) -> Iterator[list[Tensor]]:
    """Yield every rank's ``tensors``, one's own first. The next ones travel while the caller works on the present."""
    world = dist.get_world_size(group)
    trains = [tensors, tensors]
    for hop in range(world):
        turn = hop % 2
        coming = _Shift(trains[turn], DIRECTIONS[turn], group) if hop + 1 < world else None
        yield tensors
        if coming is not None:
            tensors = trains[turn] = coming.wait()


class _RingAttention(torch.autograd.Function):
    """Forward and backward of ``ring_attention``; bias B x L is -inf for padding."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, bias: Tensor, group: Group) -> Tensor:
        with torch.autocast(q.device.type, enabled=False):
            queries = q.to(bias.dtype)
            out, logsum = torch.zeros_like(queries), torch.full_like(queries[..., :1], -math.inf)
            for k_b, v_b, bias_b in _circulate([k, v, bias], group):
                partial = _visit(queries, k_b.to(bias.dtype), v_b.to(bias.dtype), bias_b)
                out, logsum = _merge(out, logsum, *partial)
        ctx.save_for_backward(q, k, v, bias, out, logsum)
        ctx.group = group
        return out.to(q.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, None]:
        """With the probabilities ``p = exp(s - l)`` of a block under the *global* l,

        ``dv_b = p^T do``, ``ds = p (do v_b^T - sum_d do o)``, ``dq += ds k_b / sqrt(d)``, ``dk_b = ds^T q / sqrt(d)``,
        ``dbias_b = sum over heads and queries of ds``.

        The gradients of a block follow it from rank to rank, add up, and at the end take one long hop home.
        """
        q, k, v, bias, out, logsum = ctx.saved_tensors
        group: Group = ctx.group
        world = dist.get_world_size(group)
        trains: list[list[Tensor] | None] = [None, None]
        home: list[Tensor] = []
        with torch.autocast(q.device.type, enabled=False):
            queries, grad = q.to(bias.dtype), grad.to(bias.dtype)
            dq = torch.zeros_like(queries)
            delta = (grad * out).sum(-1, keepdim=True)  # B x heads x L x 1
            base = _finite(logsum)
            for hop, (k_b, v_b, bias_b) in enumerate(_circulate([k, v, bias], group)):
                keys, values = k_b.to(bias.dtype), v_b.to(bias.dtype)
                block = _visit_backward(queries, keys, values, bias_b, grad, delta, base, dq)
                if hop == 0:
                    home = block
                    continue
                turn = (hop - 1) % 2
                so_far = trains[turn]
                if so_far is not None:
                    arrived = _Shift(so_far, DIRECTIONS[turn], group).wait()
                    block = [ours + theirs for ours, theirs in zip(block, arrived, strict=True)]
                trains[turn] = block
            for turn, train in enumerate(trains):
                if train is not None:
                    hops = (world - turn) // 2  # of world - 1 hops, those of this direction
                    arrived = _Shift(train, -DIRECTIONS[turn] * hops, group).wait()
                    home = [ours + theirs for ours, theirs in zip(home, arrived, strict=True)]
        dk, dv, dbias = home
        return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), dbias, None
