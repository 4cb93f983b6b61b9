"""Collective operations of the ranks of a run. With one process they need no communication."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from hnet_vjepa.errors import UserError

CHUNK = 2**20  # numbers that a digest looks at together

_alone = False  # see without_other_ranks


@dataclass(frozen=True)
class Layout:
    """Which ranks hold the same clips (``context``) and which hold different ones (``data``); None is all ranks."""

    context: dist.ProcessGroup | None = None
    data: dist.ProcessGroup | None = None
    context_ranks: int = 1


_layout = Layout()


def lay_out(context_ranks: int) -> None:
    """Let every ``context_ranks`` ranks in a row share their clips and shard the sequence of the transformer.

    All ranks call it, once the process group exists. Raises UserError when the number does not divide the ranks.
    """
    global _layout
    world = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
    check_context(context_ranks, world)
    if context_ranks == 1:
        _layout = Layout()
        return
    rank, copies = dist.get_rank(), world // context_ranks
    contexts = [[first * context_ranks + i for i in range(context_ranks)] for first in range(copies)]
    datas = [[first * context_ranks + i for first in range(copies)] for i in range(context_ranks)]
    made = [[dist.new_group(ranks) for ranks in groups] for groups in (contexts, datas)]  # every rank makes all
    _layout = Layout(made[0][rank // context_ranks], made[1][rank % context_ranks], context_ranks)


def check_context(context_ranks: int, ranks: int) -> None:
    """Raise UserError when ranks can not be put into groups of this size."""
    if context_ranks < 1 or ranks % context_ranks:
        raise UserError(f"--context-parallel {context_ranks} does not divide the {ranks} ranks of this run")


def context_ranks() -> int:
    """Over how many ranks the transformer's sequence is sharded."""
    return 1 if _alone else _layout.context_ranks


def context_group() -> dist.ProcessGroup | None:
    """The ranks that share this rank's clips."""
    return _layout.context


def data_rank() -> tuple[int, int]:
    """Which part of the global batch this rank holds, of how many."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0, 1
    return dist.get_rank() // _layout.context_ranks, dist.get_world_size() // _layout.context_ranks


def several_ranks(group: dist.ProcessGroup | None = None) -> bool:
    """Whether a group, by default all ranks, has more than one rank."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1 and not _alone


def shard_sequence(x: Tensor, axis: int) -> Tensor:
    """This rank's part of a tensor that all ranks of the context hold, cut along an axis that they divide.

    The gradient of the rest is 0 here; the other ranks have it.
    """
    length = x.shape[axis] // context_ranks()
    return x.narrow(axis, dist.get_rank(_layout.context) * length, length)


class _GatherSequence(torch.autograd.Function):
    """Forward: join the context's parts along axis 1. Backward: the gradient of one's own part, times the ranks."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        parts = [torch.empty_like(x) for _ in range(_layout.context_ranks)]
        dist.all_gather(parts, x.contiguous(), group=_layout.context)
        ctx.length, ctx.start = x.shape[1], dist.get_rank(_layout.context) * x.shape[1]
        return torch.cat(parts, 1)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].narrow(1, ctx.start, ctx.length) * _layout.context_ranks


def gather_sequence(x: Tensor) -> Tensor:
    """The whole sequence from the context's parts, B x L x D -> B x (L * ranks) x D, with gradient.

    What follows is computed by every rank of the context, so its parameters have the same gradient on all of them and
    the mean over ranks is right. What came before is computed in parts, so its gradient is the sum over the context;
    the factor in the backward pass lets the mean over ranks be that sum.
    """
    joined: Tensor = _GatherSequence.apply(x)  # type: ignore[no-untyped-call]
    return joined


@contextlib.contextmanager
def without_other_ranks() -> Iterator[None]:
    """In the block, this rank computes as if it were the only one."""
    global _alone
    before, _alone = _alone, True
    try:
        yield
    finally:
        _alone = before


class _GatherRows(torch.autograd.Function):
    """Forward: concatenate the ranks' rows. Backward: add up the ranks' gradients of each row, keep one's own."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        group = _layout.data
        world, rank = dist.get_world_size(group), dist.get_rank(group)
        count = torch.tensor([x.shape[0]], device=x.device)
        counts = [torch.empty_like(count) for _ in range(world)]
        dist.all_gather(counts, count, group=group)
        sizes = [int(c) for c in counts]
        ctx.start, ctx.rows = sum(sizes[:rank]), sizes[rank]
        # Collectives want equal shapes, so short ranks are filled up and cut again.
        filled = x.new_zeros(max(sizes), *x.shape[1:])
        filled[: x.shape[0]] = x
        parts = [torch.empty_like(filled) for _ in range(world)]
        dist.all_gather(parts, filled, group=group)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=_layout.data)
        return total[ctx.start : ctx.start + ctx.rows]


def gather_rows(x: Tensor) -> Tensor:
    """All rows of all ranks, in the order of the ranks, with gradient: N_r x ... -> (sum of N_r) x ... .

    Of ranks that hold the same clips (see lay_out) each row is taken once.

    Ranks may have different numbers of rows, also none. Alone, ``x`` itself. Every rank must call it, and backward
    too. A loss of the gathered rows is the same on all ranks, and the gradient that arrives at a rank's own rows is
    that of the *sum* of the ranks' losses; the mean over ranks that DDP takes of parameter gradients then makes it
    exactly the gradient of a single process that holds all rows.
    """
    if not several_ranks(_layout.data):
        return x
    gathered: Tensor = _GatherRows.apply(x)  # type: ignore[no-untyped-call]
    return gathered


def gather_mean(x: Tensor) -> Tensor:
    """The mean over ranks of a scalar, with gradient as in ``gather_rows``."""
    return gather_rows(x[None]).mean(0)


def mean_over_ranks(values: Tensor) -> Tensor:
    """The mean over ranks, without gradient, in place."""
    if several_ranks():
        dist.all_reduce(values)
        values /= dist.get_world_size()
    return values


def max_over_ranks(values: Tensor) -> Tensor:
    """The largest over ranks, element by element, in place."""
    if several_ranks():
        dist.all_reduce(values, dist.ReduceOp.MAX)
    return values


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on one rank at least."""
    return bool(mean_over_ranks(torch.tensor([float(flag)], device=device)) > 0)


def gather_values(value: Any, device: torch.device) -> list[Any]:
    """The JSON value of every rank with other clips, by rank. (torch's gathering of objects would unpickle them.)"""
    if not several_ranks(_layout.data):
        return [value]
    data = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8, device=device)
    size = torch.tensor([len(data)], device=device)
    sizes = [torch.empty_like(size) for _ in range(dist.get_world_size(_layout.data))]
    dist.all_gather(sizes, size, group=_layout.data)
    filled = data.new_zeros(max(int(s) for s in sizes))
    filled[: len(data)] = data
    parts = [torch.empty_like(filled) for _ in sizes]
    dist.all_gather(parts, filled, group=_layout.data)
    return [json.loads(bytes(part[: int(s)].tolist())) for part, s in zip(parts, sizes, strict=True)]


def broadcast_from_first(module: nn.Module) -> None:
    """Give all ranks the first rank's parameters and buffers."""
    if several_ranks():
        for tensor in module.state_dict().values():
            dist.broadcast(tensor, 0)


def digest(module: nn.Module) -> int:
    """A number of 63 bits that differs, but for chance, when one bit of a parameter or buffer does."""
    total = 0
    for place, tensor in enumerate(module.state_dict().values(), start=1):
        data = tensor.detach().contiguous().view(-1).view(torch.uint8)
        words = data.view(torch.int32) if len(data) % 4 == 0 else data
        for part, chunk in enumerate(words.split(CHUNK), start=1):
            weights = torch.arange(1, len(chunk) + 1, device=chunk.device)
            total += place * part * int((chunk.long() * weights).sum())  # wraps around, alike everywhere
    return total % (2**63 - 1)


def differing_ranks(module: nn.Module, device: torch.device) -> list[int]:
    """Ranks whose parameters or buffers are not the first rank's, bit by bit; on all ranks the same answer."""
    if not several_ranks():
        return []
    mine = torch.tensor([digest(module)], dtype=torch.int64, device=device)
    all_of_them = [torch.empty_like(mine) for _ in range(dist.get_world_size())]
    dist.all_gather(all_of_them, mine)
    return [rank for rank, other in enumerate(all_of_them) if int(other) != int(all_of_them[0])]
