"""Dechunker: plug-back, smoothing and gate against a loop over chunks and cells."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from hnet_vjepa.models.hnet.dechunker import Dechunker, straight_through_one

FLOAT = torch.float64


def some_input(cells: int = 7, slots: int = 4, dim: int = 3) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Chunks, a soft assignment, centroids and a mask: one dead slot in sample 0, all dead in sample 1, none in 2."""
    torch.manual_seed(0)
    chunks = torch.randn(3, slots, dim, dtype=FLOAT)
    assignment = torch.randn(3, cells, slots, dtype=FLOAT).softmax(-1)
    centroids = torch.randn(3, slots, 3, dtype=FLOAT)
    dead = torch.zeros(3, slots, dtype=torch.bool)
    dead[0, 1] = True
    dead[1] = True
    return chunks, assignment, centroids, dead


def test_one_hot_assignment_gives_every_cell_its_own_chunk() -> None:
    chunks, _, centroids, _ = some_input()
    owner = torch.tensor([[0, 0, 1, 2, 2, 3, 3]] * 3)
    assignment = torch.nn.functional.one_hot(owner, 4).to(FLOAT)
    alive = torch.zeros(3, 4, dtype=torch.bool)
    out = Dechunker(3, sigma=1e-6).to(FLOAT)(chunks, assignment, centroids, alive)
    assert torch.equal(out, chunks.gather(1, owner[..., None].expand(-1, -1, 3)))


def test_a_narrow_kernel_leaves_the_soft_plug_back() -> None:
    chunks, assignment, centroids, _ = some_input()
    alive = torch.zeros(3, 4, dtype=torch.bool)
    out = Dechunker(3, sigma=1e-6).to(FLOAT)(chunks, assignment, centroids, alive)
    assert torch.allclose(out, assignment @ chunks, rtol=1e-12, atol=1e-12)


def test_equals_a_loop() -> None:
    chunks, assignment, centroids, dead = some_input()
    sigma = 0.8
    out = Dechunker(3, sigma).to(FLOAT)(chunks, assignment, centroids, dead)
    expected = torch.zeros_like(out)
    for b in range(3):
        live = [k for k in range(4) if not dead[b, k]]
        if not live:
            continue
        p = assignment[b][:, live]
        p = p / p.sum(1, keepdim=True)
        confidence = [float((p[:, k] ** 2).sum() / p[:, k].sum()) for k in range(len(live))]
        smoothed = []
        for a, k in enumerate(live):
            weights = [
                confidence[c] * math.exp(-float((centroids[b, k] - centroids[b, j]).square().sum()) / (2 * sigma**2))
                for c, j in enumerate(live)
            ]
            mean = sum(w * chunks[b, j] for w, j in zip(weights, live, strict=True)) / sum(weights)
            smoothed.append(confidence[a] * chunks[b, k] + (1 - confidence[a]) * mean)
        for i in range(assignment.shape[1]):
            for a in range(len(live)):
                expected[b, i] += p[i, a] * smoothed[a]
    assert torch.allclose(out, expected, rtol=1e-12, atol=1e-12)
    assert not out[1].any()  # all chunks dead


def test_dead_slots_and_padded_cells_cannot_be_heard() -> None:
    chunks, assignment, centroids, dead = some_input()
    assignment[2, 3:] = 0.0
    module = Dechunker(3).to(FLOAT)
    clean = module(chunks, assignment, centroids, dead)
    assert not clean[2, 3:].any()
    leaves = [t.clone().masked_fill(dead[..., None], math.nan).requires_grad_() for t in (chunks, centroids)]
    dirty = module(leaves[0], assignment, leaves[1], dead)
    assert torch.equal(dirty, clean)
    for grad in torch.autograd.grad(dirty.square().sum(), leaves):
        assert torch.isfinite(grad).all()
        assert not grad[dead].any()


def test_straight_through_gate() -> None:
    confidence = torch.rand(1000, requires_grad=True)
    gate = straight_through_one(confidence)
    assert torch.equal(gate, torch.ones(1000))  # exactly, in single precision too
    gate.sum().backward()
    assert torch.equal(confidence.grad, torch.ones(1000))


def test_the_gate_teaches_the_assignment() -> None:
    """With equal chunks the plug-back does not depend on p: all gradient comes through the gate, to the winner."""
    _, assignment, centroids, _ = some_input()
    alive = torch.zeros(3, 4, dtype=torch.bool)
    chunks = torch.ones(3, 4, 3, dtype=FLOAT)
    assignment.requires_grad_()
    Dechunker(3).to(FLOAT)(chunks, assignment, centroids, alive).sum().backward()
    winner = torch.nn.functional.one_hot(assignment.argmax(-1), 4).to(FLOAT)
    assert torch.allclose(assignment.grad, 3 * winner, atol=1e-12)  # 3 features


def test_residual_starts_at_zero_and_learns() -> None:
    chunks, assignment, centroids, dead = some_input()
    module = Dechunker(3).to(FLOAT)
    cells = torch.randn(3, 7, 3, dtype=FLOAT)
    out = module(chunks, assignment, centroids, dead, cells)
    assert torch.equal(out, module(chunks, assignment, centroids, dead))
    out.square().sum().backward()
    assert module.residual.weight.grad.norm() > 0


def test_gradients_are_right() -> None:
    chunks, assignment, centroids, dead = some_input()
    module = Dechunker(3).to(FLOAT)
    torch.nn.init.normal_(module.residual.weight)
    # The gate's gradient is not that of its value, so give the check a loss where it vanishes: no assignment here.
    inputs = [t.requires_grad_() for t in (chunks, centroids, torch.randn(3, 7, 3, dtype=FLOAT))]
    assert torch.autograd.gradcheck(lambda z, r, x: module(z, assignment, r, dead, x), inputs)


def test_half_precision() -> None:
    chunks, assignment, centroids, dead = (t.float() if t.is_floating_point() else t for t in some_input())
    module = Dechunker(3)
    exact = module(chunks, assignment, centroids, dead)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(module(chunks, assignment, centroids, dead), exact)
    rough = module.bfloat16()(chunks.bfloat16(), assignment, centroids, dead, torch.zeros(3, 7, 3).bfloat16())
    assert torch.allclose(rough.float(), exact, atol=0.05)


def test_sigma_must_be_positive() -> None:
    with pytest.raises(ValueError, match="sigma"):
        Dechunker(3, sigma=0.0)
