"""Native sparse attention: two paths and a token-by-token loop must agree, in outputs and in every gradient."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hnet_vjepa.models.hnet import sparse_attention
from hnet_vjepa.models.hnet.sparse_attention import NativeSparseAttention, tile, untile

DIM, HEADS, FLOAT = 8, 2, torch.float64
GRIDS = [(1, 8, 8), (5, 6, 7), (3, 4, 9), (2, 3, 2), (3, 13, 18)]
Triple = tuple[int, int, int]


def triples(least: int, most: int) -> st.SearchStrategy[Triple]:
    """Three whole numbers."""
    one = st.integers(least, most)
    return st.tuples(one, one, one)


def build(selected: int = 3, radius: tuple[int, int, int] = (1, 1, 1)) -> NativeSparseAttention:
    torch.manual_seed(0)
    module = NativeSparseAttention(DIM, HEADS, selected=selected, radius=radius).to(FLOAT)
    with torch.no_grad():
        # Larger than the initial values, so that a mistake in any of them shows.
        module.cell_position.normal_()
        module.pool_query.normal_()
        module.gate_bias.normal_()
        module.project.weight.mul_(2)
    return module


def some_padding(shape: tuple[int, ...]) -> Tensor:
    """Random padding; the second sample is padding altogether, the third has a padded corner wider than a cube."""
    padding = torch.rand(shape) < 0.3
    padding[1] = True
    padding[2, :, :, -5:] = True
    padding[2, 0, 0, 0] = False
    return padding


def run(module: NativeSparseAttention, x: Tensor, padding: Tensor | None, dense: bool) -> dict[str, Tensor]:
    """Output and all gradients of a random weighted loss."""
    module.dense_below = 10**9 if dense else 0
    x = x.clone().requires_grad_()
    out = module(x, padding)
    weight = torch.randn(out.shape, dtype=out.dtype, generator=torch.Generator().manual_seed(1))
    inputs = {"x": x, **dict(module.named_parameters())}
    grads = torch.autograd.grad((out * weight).sum(), list(inputs.values()))
    return {"out": out.detach(), **dict(zip(inputs, grads, strict=True))}


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).detach().norm() / b.detach().norm().clamp(min=1e-300))


def only_branch(module: NativeSparseAttention, branch: int) -> None:
    """Open one gate and close the others, whatever the token says."""
    with torch.no_grad():
        module.gate_bias.fill_(-1e9)
        module.gate_bias[branch] = 1e9


def full_attention(module: NativeSparseAttention, x: Tensor, branch: int, padding: Tensor | None = None) -> Tensor:
    """Attention of every token over every live token with the keys and values of ``branch``."""
    projected = F.linear(x, module.project.weight[: 7 * DIM]).flatten(1, 3)
    projected = torch.unflatten(projected, -1, (7, HEADS, -1))
    q, k, v = (projected[:, :, i].transpose(1, 2) for i in (0, 1 + 2 * branch, 2 + 2 * branch))
    mask = None if padding is None else ~padding.flatten(1)[:, None, None]
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)
    return torch.unflatten(module.out(out), 1, x.shape[1:4])


def loop_oracle(module: NativeSparseAttention, x: Tensor, padding: Tensor) -> Tensor:
    """The class's equations, token by token, for one sample: T x H x W x D."""
    grid = x.shape[:3]
    cells = [c for c in itertools.product(*map(range, grid)) if not padding[c]]
    cube_of = {c: tuple(i // e for i, e in zip(c, module.cube, strict=True)) for c in cells}
    members: dict[tuple[int, ...], list[tuple[int, ...]]] = {}
    for c in cells:
        members.setdefault(cube_of[c], []).append(c)
    projected = {c: module.project.weight @ x[c] for c in cells}

    def part(c: tuple[int, ...], which: int, head: int) -> Tensor:
        start = which * DIM + head * module.head_dim
        return projected[c][start : start + module.head_dim]

    def attend(query: Tensor, keys: list[Tensor], values: list[Tensor]) -> tuple[Tensor, Tensor]:
        p = (torch.stack(keys) @ query / math.sqrt(module.head_dim)).softmax(0)
        return p @ torch.stack(values), p

    importance = {m: dict.fromkeys(members, 0.0) for m in members}
    compressed = {}
    for head in range(HEADS):
        keys, values = [], []
        for inside in members.values():
            k = []
            for c in inside:
                offset = tuple(i % e for i, e in zip(c, module.cube, strict=True))
                k.append(part(c, 1, head) + module.cell_position[offset][head])
            weights = torch.stack([module.pool_query[head] @ one for one in k]).softmax(0)
            keys.append(weights @ torch.stack(k))
            values.append(weights @ torch.stack([part(c, 2, head) for c in inside]))
        for c in cells:
            compressed[c, head], p = attend(part(c, 0, head), keys, values)
            for m, share in zip(members, p.tolist(), strict=True):
                importance[cube_of[c]][m] += share
    out = torch.zeros_like(x)
    for c in cells:
        own = cube_of[c]
        ranked = sorted(members, key=lambda m: (m != own, -importance[own][m]))[: module.selected]
        near = [m for m in members if all(abs(a - b) <= r for a, b, r in zip(m, own, module.radius, strict=True))]
        heads = []
        for head in range(HEADS):
            branches = [compressed[c, head]]
            for which, cubes in ((3, ranked), (5, near)):
                seen = [s for m in cubes for s in members[m]]
                branches.append(
                    attend(
                        part(c, 0, head), [part(s, which, head) for s in seen], [part(s, which + 1, head) for s in seen]
                    )[0]
                )
            gates = [
                torch.sigmoid(projected[c][7 * DIM + b * HEADS + head] + module.gate_bias[b, head]) for b in range(3)
            ]
            heads.append(torch.stack([g * b for g, b in zip(gates, branches, strict=True)]).sum(0))
        out[c] = module.out(torch.cat(heads))
    return out


@pytest.mark.parametrize("grid", GRIDS)
def test_untile_undoes_tile(grid: tuple[int, int, int]) -> None:
    x = torch.randn(2, *grid, 3)
    assert torch.equal(untile(tile(x, (2, 4, 4)), grid, (2, 4, 4)), x)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("selected", [1, 3, 99])
@pytest.mark.parametrize("grid", GRIDS)
def test_gathered_equals_dense(grid: tuple[int, int, int], selected: int, padded: bool) -> None:
    module = build(selected, radius=(1, 0, 1))
    x = torch.randn(3, *grid, DIM, dtype=FLOAT)
    padding = some_padding((3, *grid)) if padded else None
    dense, gathered = run(module, x, padding, True), run(module, x, padding, False)
    cubes = math.prod(math.ceil(size / edge) for size, edge in zip(grid, module.cube, strict=True))
    for name, value in dense.items():
        # With a single cube the compressed branch attends to one thing, and nothing can change its keys' weight.
        assert cubes == 1 or float(value.norm()) > 0, f"{name} gets no gradient"
        assert relative(gathered[name], value) < 1e-12, name


@settings(max_examples=40, deadline=None)
@given(triples(1, 11), triples(1, 4), triples(0, 2), st.integers(1, 6), st.booleans())
def test_gathered_equals_dense_whatever_the_sizes(
    grid: Triple, cube: Triple, radius: Triple, selected: int, padded: bool
) -> None:
    torch.manual_seed(0)
    module = NativeSparseAttention(DIM, HEADS, cube, selected, radius).to(FLOAT)
    x = torch.randn(2, *grid, DIM, dtype=FLOAT)
    padding = torch.rand(2, *grid) < 0.4 if padded else None
    with torch.no_grad():
        module.dense_below = 10**9
        dense = module(x, padding)
        module.dense_below = 0
        assert relative(module(x, padding), dense) < 1e-12


def test_pieces_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without gradients the work is done piece by piece, here as small as they come."""
    module = build(selected=2)
    module.dense_below = 0
    x, padding = torch.randn(3, 5, 9, 6, DIM, dtype=FLOAT), some_padding((3, 5, 9, 6))
    whole = module(x, padding).detach()
    monkeypatch.setattr(sparse_attention, "PIECE", 1)
    with torch.no_grad():
        assert relative(module(x, padding), whole) < 1e-14


def test_the_pairs_looked_at_grow_with_the_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every further frame costs selected and window branch the same; the compressed one sees one key per cube."""
    looked: list[int] = []

    def counted(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        looked.append(q.shape[0] * q.shape[-2] * k.shape[-2])
        return q

    monkeypatch.setattr(sparse_attention, "attention", counted)
    module = NativeSparseAttention(DIM, HEADS, dense_below=0)
    pairs = {}
    for frames in (8, 16, 24):
        looked.clear()
        with torch.no_grad():
            module(torch.randn(1, frames, 16, 16, DIM))
        compressed, *others = looked
        assert compressed == (frames * 256) * (frames * 256 // 32)
        pairs[frames] = sum(others)
    assert pairs[24] - pairs[16] == pairs[16] - pairs[8]
    assert pairs[24] < 0.25 * 2 * (24 * 256) ** 2


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dense", [False, True])
def test_both_paths_equal_a_loop_over_tokens(dense: bool, padded: bool) -> None:
    module = build(selected=2, radius=(0, 1, 0))
    module.dense_below = 10**9 if dense else 0
    x = torch.randn(1, 3, 6, 9, DIM, dtype=FLOAT)
    padding = torch.rand(1, 3, 6, 9) < 0.3 if padded else torch.zeros(1, 3, 6, 9, dtype=torch.bool)
    with torch.no_grad():
        got = module(x, padding if padded else None)
        assert relative(got[0], loop_oracle(module, x[0], padding[0])) < 1e-12


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("branch", [1, 2])
def test_a_branch_that_sees_everything_is_full_attention(branch: int, dense: bool, padded: bool) -> None:
    module = build(selected=99, radius=(9, 9, 9))
    module.dense_below = 10**9 if dense else 0
    only_branch(module, branch)
    x = torch.randn(2, 5, 6, 7, DIM, dtype=FLOAT)
    padding = torch.rand(2, 5, 6, 7) < 0.3 if padded else None
    expected = full_attention(module, x, branch, padding)
    if padding is not None:
        expected = expected.masked_fill(padding[..., None], 0.0)
    assert relative(module(x, padding), expected) < 1e-12


@pytest.mark.parametrize("dense", [False, True])
def test_padding_is_unseen_and_gives_zeros(dense: bool) -> None:
    module = build(selected=2)
    grid = (3, 8, 9)
    x = torch.randn(3, *grid, DIM, dtype=FLOAT)
    padding = some_padding((3, *grid))
    poisoned = x.masked_fill(padding[..., None], math.nan)
    clean, dirty = run(module, x, padding, dense), run(module, poisoned, padding, dense)
    for name, value in clean.items():
        assert torch.isfinite(dirty[name]).all(), name
        assert torch.equal(dirty[name], value), name
    assert not clean["out"][padding].any()
    assert not clean["x"][padding].any()


def test_half_precision_and_cache_across_modes() -> None:
    module = build().float()
    x = torch.randn(2, 2, 8, 8, DIM)
    with torch.inference_mode():
        module(x)  # fills the cache of layouts; a tensor made here must still serve training
    for dense in (False, True):
        module.dense_below = 10**9 if dense else 0
        exact = module(x)
        with torch.autocast("cpu", torch.bfloat16):
            rough = module(x)
        assert rough.dtype == torch.bfloat16
        assert relative(rough.float(), exact) < 0.1  # rounding may also change which cubes are selected
        rough.float().square().mean().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in module.parameters())


def test_wrong_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of heads"):
        NativeSparseAttention(10, 3)
    with pytest.raises(ValueError, match="start at 1"):
        NativeSparseAttention(8, 2, selected=0)
    module = NativeSparseAttention(8, 2)
    with pytest.raises(ValueError, match="x must be"):
        module(torch.zeros(2, 5, 8))
    with pytest.raises(ValueError, match="padding must be"):
        module(torch.zeros(2, 1, 4, 4, 8), torch.zeros(2, 16, dtype=torch.bool))
