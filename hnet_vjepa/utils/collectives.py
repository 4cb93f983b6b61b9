"""What the ranks of a run compute together. With one process every function does the same without communication."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

CHUNK = 2**20  # numbers that a digest looks at together

_alone = False  # see without_other_ranks


def several_ranks() -> bool:
    """Whether the process group has more than one rank."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1 and not _alone


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
        world, rank = dist.get_world_size(), dist.get_rank()
        count = torch.tensor([x.shape[0]], device=x.device)
        counts = [torch.empty_like(count) for _ in range(world)]
        dist.all_gather(counts, count)
        sizes = [int(c) for c in counts]
        ctx.start, ctx.rows = sum(sizes[:rank]), sizes[rank]
        # Collectives want equal shapes, so short ranks are filled up and cut again.
        filled = x.new_zeros(max(sizes), *x.shape[1:])
        filled[: x.shape[0]] = x
        parts = [torch.empty_like(filled) for _ in range(world)]
        dist.all_gather(parts, filled)
        return torch.cat([part[:size] for part, size in zip(parts, sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        total = grads[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total[ctx.start : ctx.start + ctx.rows]


def gather_rows(x: Tensor) -> Tensor:
    """All rows of all ranks, in the order of the ranks, with gradient: N_r x ... -> (sum of N_r) x ... .

    Ranks may have different numbers of rows, also none. Alone, ``x`` itself. Every rank must call it, and backward
    too. A loss of the gathered rows is the same on all ranks, and the gradient that arrives at a rank's own rows is
    that of the *sum* of the ranks' losses; the mean over ranks that DDP takes of parameter gradients then makes it
    exactly the gradient of a single process that holds all rows.
    """
    if not several_ranks():
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


def any_rank(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set on one rank at least."""
    return bool(mean_over_ranks(torch.tensor([float(flag)], device=device)) > 0)


def gather_values(value: Any, device: torch.device) -> list[Any]:
    """Every rank's JSON value, by rank. (torch's own gathering of objects would unpickle them.)"""
    if not several_ranks():
        return [value]
    data = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8, device=device)
    size = torch.tensor([len(data)], device=device)
    sizes = [torch.empty_like(size) for _ in range(dist.get_world_size())]
    dist.all_gather(sizes, size)
    filled = data.new_zeros(max(int(s) for s in sizes))
    filled[: len(data)] = data
    parts = [torch.empty_like(filled) for _ in sizes]
    dist.all_gather(parts, filled)
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
