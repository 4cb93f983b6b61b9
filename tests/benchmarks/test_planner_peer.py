"""The stand-in for a peer's planner: its published sizes, and the work that its cost stands for."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from benchmarks.planner.peer import (
    CANDIDATES,
    HORIZON,
    IMAGE,
    Peer,
    PeerSize,
    PlainSearch,
    make_peer,
    plain_cem,
)

TINY = PeerSize(patch=112, width=8, encoder_depth=1, encoder_heads=2, depth=2, heads=2, head_width=4, hidden=16)


@pytest.fixture(scope="module")
def tiny() -> Peer:
    torch.manual_seed(0)
    return Peer(10, TINY).eval()


def parameters(module: nn.Module) -> float:
    """In millions."""
    return sum(p.numel() for p in module.parameters()) / 1e6


def test_every_module_has_its_published_size() -> None:
    """Published: encoder 5.50, predictor 10.79, actions 0.16, two projectors of 0.79; 18.03 million in all."""
    peer = make_peer(10)
    assert parameters(peer) == pytest.approx(18.03, abs=0.01)
    assert parameters(peer.encoder) == pytest.approx(5.50, abs=0.01)
    assert parameters(peer.blocks) == pytest.approx(10.79, abs=0.01)
    assert parameters(peer.smooth) + parameters(peer.embed) == pytest.approx(0.16, abs=0.01)
    assert parameters(peer.projector) == parameters(peer.predicted) == pytest.approx(0.79, abs=0.01)


def test_its_weights_are_fixed_and_the_caller_s_random_state_is_kept() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    first, second = make_peer(10), make_peer(10)
    assert torch.equal(torch.rand(3), expected)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))


def test_shapes(tiny: Peer) -> None:
    with torch.inference_mode():
        assert tiny.encode(torch.randn(2, *IMAGE)).shape == (2, 8)
        assert tiny.predict(torch.randn(4, 3, 8), torch.randn(4, 3, 8)).shape == (4, 3, 8)
        assert tiny.rollout(torch.randn(4, 8), torch.randn(4, 5, 10)).shape == (4, 5, 8)
    assert tiny.plan(*torch.randn(2, *IMAGE), 4, PlainSearch(8, 2, 3), 0).shape == (4, 10)


def test_attention_is_causal(tiny: Peer) -> None:
    states, actions = torch.randn(2, 3, 8), torch.randn(2, 3, 8)
    changed, other = states.clone(), actions.clone()
    changed[:, 2] += 1
    other[:, 2] -= 1
    with torch.inference_mode():
        before, after = tiny.predict(states, actions), tiny.predict(changed, other)
    torch.testing.assert_close(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2])


def test_a_rollout_equals_one_pass_over_the_finished_sequence(tiny: Peer) -> None:
    start, actions = torch.randn(4, 8), torch.randn(4, 3, 10)
    with torch.inference_mode():
        states = tiny.rollout(start, actions)
        embedded = tiny.embed(tiny.smooth(actions.transpose(1, 2)).transpose(1, 2))
        whole = tiny.predict(torch.cat([start[:, None], states[:, :-1]], 1), embedded)
    torch.testing.assert_close(states, whole)


def test_plain_cem_finds_the_minimum_of_a_quadratic() -> None:
    target = torch.tensor([[0.5, -1.2], [2.0, 0.0], [-0.3, 0.9]])

    def cost(actions: Tensor) -> Tensor:
        return (actions - target).square().sum((1, 2))

    found = plain_cem(cost, 3, 2, PlainSearch(), seed=0)
    torch.testing.assert_close(found, target, atol=0.05, rtol=0)
    assert torch.equal(found, plain_cem(cost, 3, 2, PlainSearch(), seed=0))
    assert not torch.equal(found, plain_cem(cost, 3, 2, PlainSearch(), seed=1))


@pytest.mark.parametrize("iterations", [1, 10])
def test_a_plan_makes_all_predictions_of_the_published_search(tiny: Peer, iterations: int) -> None:
    """300 candidates x iterations x 5 predictions; over 1, 2, 3, 3 and 3 steps; and two images."""
    predictions: list[tuple[int, int]] = []
    images: list[int] = []
    hooks = [
        tiny.blocks[0].register_forward_hook(lambda _, x, y: predictions.append((len(y), y.shape[1]))),
        tiny.encoder.register_forward_hook(lambda _, x, y: images.append(len(y))),
    ]
    try:
        tiny.plan(*torch.randn(2, *IMAGE), HORIZON, PlainSearch(iterations=iterations), 0)
    finally:
        for hook in hooks:
            hook.remove()
    assert sum(rows for rows, _ in predictions) == CANDIDATES * iterations * HORIZON
    assert sum(rows * steps for rows, steps in predictions) == CANDIDATES * iterations * (1 + 2 + 3 + 3 + 3)
    assert sum(images) == 2


def test_the_plan_is_better_than_none(tiny: Peer) -> None:
    image, goal = torch.randn(2, *IMAGE)
    plan = tiny.plan(image, goal, HORIZON, PlainSearch(iterations=5), 0)
    with torch.inference_mode():
        start, there = tiny.encode(torch.stack([image, goal]))
        ends = tiny.rollout(start.expand(2, -1), torch.stack([plan, torch.zeros_like(plan)]))[:, -1]
    planned, none = (ends - there).square().sum(-1)
    assert planned < none
