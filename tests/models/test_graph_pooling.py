"""Graph pooling against loops over nodes and neighbours."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from hnet_vjepa.checkpoint import load_checkpoint
from hnet_vjepa.config import Config, parse_config
from hnet_vjepa.models.hnet.graph_pooling import GraphPooling, chunk_distances, match_anchors, nearest_neighbours
from hnet_vjepa.models.hnet.routing import Routing, SparseRouting
from hnet_vjepa.models.ops import anchor_grid, grid_positions
from hnet_vjepa.models.vjepa.vit import HNetViT
from hnet_vjepa.pipeline import run_pipeline
from tests import toy

DIM = 8


def routing(live: list[list[bool]], seed: int = 0) -> Routing:
    """Chunks at random places; dead ones hold rubbish that nobody may see."""
    random = torch.Generator().manual_seed(seed)
    mask = ~torch.tensor(live)
    batch, chunks = mask.shape
    assignment = torch.rand(batch, 11, chunks, generator=random)
    return Routing(
        chunks=torch.randn(batch, chunks, DIM, generator=random) + 50.0 * mask[..., None],
        assignment=assignment,
        centroids=torch.rand(batch, chunks, 3, generator=random) * 2 - 1,
        sizes=assignment.sum(1),
        mask=mask,
        gate=(~mask).float(),
    )


SOME = [[True, True, False, True, True, True, False], [False, True, True, False, False, False, False], [True] * 7]


def pooling(rows: int = 2, columns: int = 2, neighbours: int = 2) -> GraphPooling:
    torch.manual_seed(1)
    made = GraphPooling(DIM, rows, columns, neighbours)
    for parameter in made.parameters():  # biases too
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def neighbours_by_hand(distances: torch.Tensor, live: torch.Tensor, count: int) -> set[tuple[int, int, int]]:
    """(sample, neighbour, centre) of every edge."""
    edges, distances = set(), distances.detach()
    for b in range(len(live)):
        present = [k for k in range(live.shape[1]) if live[b, k]]
        for centre in present:
            others = sorted((float(distances[b, centre, k]), k) for k in present if k != centre)
            edges |= {(b, k, centre) for _, k in others[:count]}
    return edges


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.booleans(), min_size=6, max_size=6), min_size=1, max_size=4),
    st.integers(1, 8),
    st.integers(0, 99),
)
def test_the_graph_is_the_brute_force_one(live: list[list[bool]], count: int, seed: int) -> None:
    made = routing(live, seed)
    distances = chunk_distances(made.chunks, made.centroids[..., 1:], 4.0)
    for b, k, j in itertools.product(range(len(live)), range(6), range(6)):
        f, g = made.chunks[b, k], made.chunks[b, j]
        moved = made.centroids[b, k, 1:] - made.centroids[b, j, 1:]
        expected = 4 * moved.square().sum() + (f / f.norm() - g / g.norm()).square().sum()
        assert float(distances[b, k, j]) == pytest.approx(float(expected), abs=1e-4)
    nodes = [(b, k) for b, row in enumerate(live) for k, there in enumerate(row) if there]
    edges = nearest_neighbours(distances, ~made.mask, count)
    found = {(nodes[s][0], nodes[s][1], nodes[c][1]) for s, c in edges.T.tolist()}
    assert len(found) == edges.shape[1]
    assert all(nodes[s][0] == nodes[c][0] for s, c in edges.T.tolist())  # no edge between samples
    assert found == neighbours_by_hand(distances, ~made.mask, count)


def pool_by_hand(layer: GraphPooling, made: Routing, b: int) -> list[tuple[int, torch.Tensor, dict[int, float]]]:
    """The kept chunks of a sample: number, slot, attention on chunks. GATv2 and top-k as they are defined."""
    features = layer.norm(made.chunks)
    distances = chunk_distances(features, made.centroids[..., 1:], layer.place)
    edges = neighbours_by_hand(distances, ~made.mask, layer.neighbours)
    mixed, weights = {}, {}
    for centre in [k for k in range(made.mask.shape[1]) if not made.mask[b, k]]:
        sources = [centre, *(k for sample, k, c in edges if (sample, c) == (b, centre))]
        logits = []
        for k in sources:
            both = layer.mix.lin_l(features[b, k]) + layer.mix.lin_r(features[b, centre])
            logits.append((layer.mix.att.flatten() * F.leaky_relu(both, 0.2)).sum())
        shares = torch.stack(logits).softmax(0)
        mixed[centre] = sum(a * layer.mix.lin_l(features[b, k]) for a, k in zip(shares, sources, strict=True))
        mixed[centre] = mixed[centre] + layer.mix.bias
        weights[centre] = dict(zip(sources, shares.tolist(), strict=True))
    direction = layer.keep.select.weight.flatten()
    score = {k: torch.tanh(x @ direction / direction.norm()) for k, x in mixed.items()}
    best = sorted(score, key=lambda k: -score[k].item())[: len(layer.anchors)]
    return [(k, score[k] * mixed[k], weights[k]) for k in best]


@pytest.mark.parametrize("grid", [(1, 1), (2, 2), (3, 3)])
def test_slots_are_the_kept_chunks_after_one_round_of_messages(grid: tuple[int, int]) -> None:
    made, layer = routing(SOME), pooling(*grid)
    pooled = layer(made)
    for b in range(3):
        by_hand = pool_by_hand(layer, made, b)
        count = min(sum(SOME[b]), len(layer.anchors))
        assert len(by_hand) == int((~pooled.mask[b]).sum()) == count
        slots = [int(pooled.favourite[b, k]) for k, _, _ in by_hand]
        assert len(set(slots)) == count and not pooled.mask[b, slots].any()
        for slot, (_, expected, weights) in zip(slots, by_hand, strict=True):
            torch.testing.assert_close(pooled.slots[b, slot], expected, rtol=1e-4, atol=1e-5)
            row = torch.zeros(7)
            for k, weight in weights.items():
                row[k] = weight
            torch.testing.assert_close(pooled.attention[b, slot], row, rtol=1e-4, atol=1e-6)
            torch.testing.assert_close(pooled.centroids[b, slot], row @ made.centroids[b], rtol=1e-4, atol=1e-5)
    assert (pooled.slots[pooled.mask] == 0).all() and (pooled.sizes[pooled.mask] == 0).all()


def test_chunks_that_are_not_kept_count_for_the_most_alike_that_is() -> None:
    made, layer = routing(SOME), pooling()
    pooled = layer(made)
    distances = chunk_distances(layer.norm(made.chunks), made.centroids[..., 1:], layer.place).detach()
    for b in range(3):
        kept = [k for k, _, _ in pool_by_hand(layer, made, b)]
        sizes = torch.zeros(4)
        for k in range(7):
            host = k if k in kept else min(kept, key=lambda j: float(distances[b, k, j]))
            assert pooled.favourite[b, k] == pooled.favourite[b, host]
            sizes[pooled.favourite[b, k]] += made.sizes[b, k] * (not made.mask[b, k])
        torch.testing.assert_close(pooled.sizes[b], sizes)


@given(st.integers(1, 6), st.integers(0, 200))
def test_anchors_go_to_the_nearest_pair_that_is_still_open(chunks: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    places = torch.rand(2, chunks, 2, generator=random) * 2 - 1
    kept = torch.rand(2, chunks, generator=random) < 0.6
    anchors = anchor_grid(2, 3)
    matched = match_anchors(places, kept, anchors)
    for b in range(2):
        pairs = sorted(
            (math.dist(places[b, k], anchors[j]), k, j) for k in range(chunks) for j in range(6) if kept[b, k]
        )
        expected: dict[int, int] = {}
        for _, k, j in pairs:
            if k not in expected and j not in expected.values():
                expected[k] = j
        assert {k: int(matched[b, k]) for k in range(chunks) if kept[b, k]} == expected


def test_the_order_of_the_chunks_does_not_matter() -> None:
    made, layer = routing(SOME), pooling()
    order = torch.randperm(7, generator=torch.Generator().manual_seed(3))
    shuffled = Routing(
        made.chunks[:, order],
        made.assignment[..., order],
        made.centroids[:, order],
        made.sizes[:, order],
        made.mask[:, order],
        made.gate[:, order],
    )
    a, b = layer(made), layer(shuffled)
    for name in ("slots", "centroids", "sizes"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name), rtol=1e-4, atol=1e-5)
    assert torch.equal(a.mask, b.mask)
    assert torch.equal(a.favourite[:, order], b.favourite)
    torch.testing.assert_close(a.attention[..., order], b.attention)


def test_dead_chunks_and_other_samples_change_nothing() -> None:
    made, layer = routing(SOME), pooling()
    other = replace(
        made,
        chunks=torch.where(made.mask[..., None], torch.randn_like(made.chunks), made.chunks),
        centroids=torch.where(made.mask[..., None], torch.zeros(3), made.centroids),
    )
    alone = Routing(*(getattr(made, n)[1:2] for n in ("chunks", "assignment", "centroids", "sizes", "mask", "gate")))
    a, b, c = layer(made), layer(other), layer(alone)
    for name in ("slots", "centroids", "sizes", "mask"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name))
        torch.testing.assert_close(getattr(a, name)[1:2], getattr(c, name))
    assert (a.attention.sum(1) * made.mask == 0).all()


def test_a_chunk_that_stays_in_place_keeps_its_slot() -> None:
    """Order by place: when another chunk dies, the slots of those that stay kept do not move up."""
    made, layer = routing([[True] * 4]), pooling()
    made = replace(made, centroids=torch.cat([torch.zeros(4, 1), anchor_grid(2, 2)], 1)[None])
    whole = layer(made)
    assert whole.favourite[0].tolist() == [0, 1, 2, 3]
    mask = torch.tensor([[False, True, False, False]])
    fewer = layer(replace(made, mask=mask, gate=(~mask).float()))
    assert fewer.favourite[0, [0, 2, 3]].tolist() == [0, 2, 3]
    assert fewer.mask[0].tolist() == [False, True, False, False]


@pytest.mark.parametrize(
    "live", [[[False] * 7], [[False] * 7, [True] * 7], [[True] * 7, [False] * 7], [[True] + [False] * 6]]
)
def test_samples_with_few_or_no_chunks(live: list[list[bool]]) -> None:
    pooled = pooling()(routing(live))
    assert (~pooled.mask).sum(-1).tolist() == [min(4, sum(row)) for row in live]
    for name in ("slots", "centroids", "sizes", "attention"):
        assert torch.isfinite(getattr(pooled, name)).all()


def test_gradients_reach_every_parameter_every_live_chunk_and_the_losers_gate() -> None:
    made, layer = routing(SOME), pooling(3, 3)
    chunks, gate = made.chunks.clone().requires_grad_(), made.gate.clone().requires_grad_()
    sizes = made.sizes.clone().requires_grad_()
    pooled = layer(replace(made, chunks=chunks, gate=gate, sizes=sizes))
    loss = (pooled.slots * torch.randn_like(pooled.slots)).sum() + (pooled.sizes * torch.randn(9)).sum()
    loss.backward()
    for name, parameter in layer.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 1e-6, name
    assert chunks.grad is not None and (chunks.grad.abs().amax(-1)[~made.mask] > 0).all()
    assert (chunks.grad[made.mask] == 0).all()
    assert gate.grad is not None and (gate.grad[made.mask].abs() > 1e-6).all()
    assert sizes.grad is not None and (sizes.grad[~made.mask].abs() > 0).all()


def test_the_losers_gradient_is_what_letting_them_in_would_change() -> None:
    """Against the slot with the loser mixed in by a small weight, in the ratio of the sizes."""
    made, layer = routing([[True, True, False, True]]), pooling(2, 2)
    gate = made.gate.clone().requires_grad_()
    pooled = layer(replace(made, gate=gate))
    host = int(pooled.favourite[0, 2])
    (grad,) = torch.autograd.grad(pooled.slots[0, host].sum(), gate)
    with torch.no_grad():
        [score] = {
            float(slot[0] / x)
            for k, slot, w in pool_by_hand(layer, made, 0)
            if pooled.favourite[0, k] == host
            for x in [
                sum(a * layer.mix.lin_l(layer.norm(made.chunks))[0, j, 0] for j, a in w.items()) + layer.mix.bias[0]
            ]
        }
        value = score * (layer.mix.lin_l(layer.norm(made.chunks))[0, 2] + layer.mix.bias)
        weight, size = 1e-3 * float(made.sizes[0, 2]), float(pooled.sizes[0, host])
        mixed = (size * pooled.slots[0, host] + weight * value) / (size + weight)
    assert float(grad[0, 2]) == pytest.approx(float((mixed - pooled.slots[0, host]).sum()) / 1e-3, rel=0.02)


def graph_config() -> Config:
    values = toy.config().model_dump(mode="json")
    values["model"]["backbone"]["pooling"] |= {"kind": "graph", "neighbours": 3}
    return parse_config(values, "toy")


def test_it_takes_the_place_of_attention_pooling_in_the_encoder() -> None:
    torch.manual_seed(0)
    model = HNetViT(graph_config().model.backbone)
    assert isinstance(model.pooling, GraphPooling)
    video = torch.rand(2, 4, *toy.SHAPE) * 2 - 1
    for window in (1, 2):
        chunks = model(video, window=window, across=True)
        assert chunks.tokens.shape == (2, 4 // window, 4, 16)
        (chunks.tokens * torch.randn_like(chunks.tokens)).sum().backward()
        assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    model.eval()
    cache: dict[int, torch.Tensor] = {}
    with torch.no_grad():
        whole = model(video).tokens
        streamed = torch.cat([model(video[:, t : t + 1], cache=cache).tokens for t in range(4)], 1)
    torch.testing.assert_close(streamed, whole, rtol=1e-4, atol=1e-5)


def test_it_is_built_on_what_the_router_gives() -> None:
    torch.manual_seed(0)
    made = SparseRouting(DIM, 4, 4)(torch.randn(3, 64, DIM), grid_positions(1, 8, 8))
    pooled = pooling(3, 3, 4)(made)
    assert (~pooled.mask).sum(-1).tolist() == [min(9, int(count)) for count in made.count]
    torch.testing.assert_close(pooled.sizes.sum(-1), (made.sizes * ~made.mask).sum(-1))


def test_it_is_trained_saved_and_loaded_like_any_other(toy_store: Path, tmp_path: Path) -> None:
    last = run_pipeline(graph_config(), toy_store, tmp_path, ["pretrain", "action"], progress=False)
    model = load_checkpoint(last).model
    assert isinstance(model.backbone.pooling, GraphPooling) and model.backbone.pooling.neighbours == 3
    fresh = pooling()
    assert set(model.backbone.pooling.state_dict()) == set(fresh.state_dict())
