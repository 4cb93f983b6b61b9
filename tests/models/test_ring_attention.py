"""Ring attention on several processes against full attention on one: output and every gradient."""

from __future__ import annotations

import datetime
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from hnet_vjepa.utils import ring_attention as ring
from hnet_vjepa.utils.ring_attention import ring_attention

B, HEADS, LOCAL, DIM = 3, 2, 5, 4


def _entry(rank: int, worker: Callable[[int, int], None], world: int, store: str) -> None:
    torch.set_num_threads(1)
    if sys.platform == "linux":
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    patience = datetime.timedelta(seconds=30)
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=world, timeout=patience)
    worker(rank, world)
    dist.barrier()  # nobody leaves while another still talks to it
    dist.destroy_process_group()
    # Skip the interpreter's shutdown: on a busy machine it was once aborted ("terminate called without an active
    # exception", after all had passed), presumably because one of gloo's threads was still letting go of a tensor.
    os._exit(0)


def run_ranks(worker: Callable[[int, int], None], world: int, deadline: float = 45.0) -> None:
    """Run ``worker(rank, world)`` in ``world`` gloo processes; fail with the first one's traceback, or when late."""
    with tempfile.TemporaryDirectory() as folder:
        context = mp.spawn(_entry, (worker, world, str(Path(folder) / "store")), nprocs=world, join=False)
        end = time.monotonic() + deadline
        try:
            while not context.join(timeout=1.0):
                assert time.monotonic() < end, f"the ranks did not finish within {deadline:.0f} s"
        finally:
            for process in context.processes:
                if process.is_alive():
                    process.kill()


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).norm() / b.norm().clamp(min=1e-300))


def full_attention(q: Tensor, k: Tensor, v: Tensor, padding: Tensor | None, bias: Tensor | None) -> Tensor:
    """The plain formula over the whole sequence; a sample without keys gives zeros."""
    scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
    if bias is not None:
        scores = scores + bias[:, None, None]
    if padding is None:
        return scores.softmax(-1) @ v
    empty = padding.all(-1)[:, None, None, None]
    hidden = padding[:, None, None] & ~empty
    return (scores.masked_fill(hidden, float("-inf")).softmax(-1) @ v).masked_fill(empty, 0.0)


def some_input(parts: int, dtype: torch.dtype) -> dict[str, Tensor]:
    """A whole sequence; the last part is only padding, and sample 1 is padding on all parts."""
    torch.manual_seed(0)
    length = LOCAL * parts
    names = ("q", "k", "v", "weight")
    data = {name: torch.randn(B, HEADS, length, DIM, dtype=torch.float64).mul(2).to(dtype) for name in names}
    data["bias"] = torch.randn(B, length, dtype=torch.float64).to(dtype)
    data["padding"] = torch.rand(B, length) < 0.3
    data["padding"][:, -LOCAL:] = True
    data["padding"][1] = True
    data["padding"][0, 0] = data["padding"][2, 0] = False
    return data


def results(
    attention: Callable[[Tensor, Tensor, Tensor, Tensor | None, Tensor | None], Tensor],
    data: dict[str, Tensor],
    with_bias: bool,
    with_padding: bool,
) -> dict[str, Tensor]:
    """Output and gradients of a random weighted loss."""
    names = ["q", "k", "v"] + (["bias"] if with_bias else [])
    leaves = {name: data[name].clone().requires_grad_() for name in names}
    padding = data["padding"] if with_padding else None
    out = attention(leaves["q"], leaves["k"], leaves["v"], padding, leaves.get("bias"))
    grads = torch.autograd.grad((out * data["weight"]).sum(), list(leaves.values()))
    for name, grad in zip(names, grads, strict=True):
        assert grad.shape == leaves[name].shape and grad.dtype == leaves[name].dtype, name
    return {"out": out.detach(), **{f"d{name}": grad for name, grad in zip(names, grads, strict=True)}}


def part(x: Tensor, rank: int) -> Tensor:
    """This rank's piece of a tensor whose sequence is axis 1 (B x L) or 2 (B x heads x L x d)."""
    return x.narrow(1 if x.ndim == 2 else 2, rank * LOCAL, LOCAL)


def gathered_error(ours: Tensor, whole: Tensor, world: int, rank: int, group: dist.ProcessGroup | None) -> float:
    """Relative error of a sharded tensor, measured over the whole: a part may be all zeros."""
    squares = torch.stack([(ours - part(whole, rank)).double().square().sum(), ours.double().square().sum()])
    dist.all_reduce(squares, group=group)
    return float((squares[0] / squares[1]).sqrt())


def compare(rank: int, world: int, group: dist.ProcessGroup | None, dtype: torch.dtype, bound: float) -> None:
    data = some_input(world, dtype)
    own = {name: part(x, rank) for name, x in data.items()}

    def ring(*inputs: Tensor | None) -> Tensor:
        return ring_attention(*inputs, group=group)

    def recomputed(*inputs: Tensor | None) -> Tensor:
        return checkpoint(ring, *inputs, use_reentrant=False)

    for with_bias, with_padding in ((False, False), (True, False), (False, True), (True, True)):
        exact = {k: v.double() if v.is_floating_point() else v for k, v in data.items()}
        expected = results(full_attention, exact, with_bias, with_padding)
        for attention in (ring, recomputed):
            for name, ours in results(attention, own, with_bias, with_padding).items():
                error = gathered_error(ours, expected[name], world, rank, group)
                assert error < bound, f"{name} {attention.__name__} {with_bias=} {with_padding=} {dtype}: {error:.1e}"


def some_padded(rank: int, world: int) -> None:
    """A rank without padding beside one with it: what is sent must not depend on what a rank was given."""
    data = some_input(world, torch.float64)
    data["padding"][:, :LOCAL] = False
    own = {name: part(x, rank) for name, x in data.items()}
    expected = results(full_attention, data, True, True)
    for name, ours in results(ring_attention, own, True, rank > 0).items():
        assert gathered_error(ours, expected[name], world, rank, None) < 1e-10, name


def ring_worker(rank: int, world: int) -> None:
    compare(rank, world, None, torch.float64, 1e-10)
    compare(rank, world, None, torch.float32, 1e-5)
    compare(rank, world, None, torch.bfloat16, 2e-2)
    some_padded(rank, world)
    ring.QUERIES = 2  # scores of two queries at a time; 5 of them are on each rank
    compare(rank, world, None, torch.float64, 1e-10)
    if world == 3:
        # Ranks 0 and 2 share a sequence: numbers inside the group are not those of the world.
        group = dist.new_group([0, 2])
        if rank != 1:
            compare(rank // 2, 2, group, torch.float64, 1e-10)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_ring_equals_full_attention(world: int) -> None:
    run_ranks(ring_worker, world)


@pytest.mark.parametrize("with_padding", [False, True])
@pytest.mark.parametrize("with_bias", [False, True])
def test_alone_it_is_local_attention(with_bias: bool, with_padding: bool) -> None:
    data = some_input(2, torch.float64)
    expected = results(full_attention, data, with_bias, with_padding)
    for name, ours in results(ring_attention, data, with_bias, with_padding).items():
        assert relative(ours, expected[name]) < 1e-10, name


def test_half_precision_alone() -> None:
    data = some_input(2, torch.bfloat16)
    out = ring_attention(data["q"], data["k"], data["v"], data["padding"], data["bias"])
    wide = {name: x.double() for name, x in data.items()}
    expected = full_attention(wide["q"], wide["k"], wide["v"], data["padding"], wide["bias"])
    assert out.dtype == torch.bfloat16
    assert relative(out.double(), expected) < 2e-2


def test_wrong_shapes_are_refused() -> None:
    x = torch.zeros(2, 1, 4, 3)
    with pytest.raises(ValueError, match="all alike"):
        ring_attention(x, x[:, :, :3], x)
    with pytest.raises(ValueError, match="key_padding must be"):
        ring_attention(x, x, x, torch.zeros(2, 3, dtype=torch.bool))
