import copy
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from hnet_vjepa.config import RoutingConfig
from hnet_vjepa.models.hnet.routing import Routing, SparseRouting
from hnet_vjepa.models.hnet.tokenizers import (
    BudgetedChunks,
    RandomTokens,
    TokenMerging,
    UniformGrid,
    make_tokenizer,
    means,
    merge_chunks,
    merged,
    ward_merges,
)
from hnet_vjepa.models.ops import grid_positions
from hnet_vjepa.models.vjepa.vit import HNetViT
from tests import toy

DIM = 16
CONFIGS = {
    "grid": RoutingConfig(tokenizer="grid", grid=(2, 4)),
    "random": RoutingConfig(tokenizer="random", grid=(2, 4)),
    "merge": RoutingConfig(tokenizer="merge", grid=(2, 4)),
    "chunks": RoutingConfig(grid=(3, 4), tokens=8),
}
every = pytest.mark.parametrize("name", CONFIGS)


def make(name: str) -> nn.Module:
    torch.manual_seed(0)
    return make_tokenizer(DIM, CONFIGS[name]).eval()


def some_cells(batch: int = 3, grid: tuple[int, int, int] = (1, 8, 8), seed: int = 1) -> tuple[Tensor, Tensor]:
    positions = grid_positions(*grid)
    return torch.randn(batch, len(positions), DIM, generator=torch.Generator().manual_seed(seed)), positions


def values_of(tokenizer: nn.Module, cells: Tensor) -> Tensor:
    return tokenizer.values.value(tokenizer.values.norm(cells))


def naive_merging(features: Tensor, count: int, share: int) -> list[list[int]]:
    """The cells of every token of one sample, by loops over a list of groups."""
    groups = [[i] for i in range(len(features))]
    while len(groups) > count:
        vectors = [sum(features[i] for i in group) / len(group) for group in groups]
        edges = []
        for a in range(0, len(groups), 2):
            found = [(float(F.cosine_similarity(vectors[a], vectors[b], 0)), b) for b in range(1, len(groups), 2)]
            best = max(similarity for similarity, _ in found)
            edges.append((best, a, next(b for similarity, b in found if similarity == best)))
        edges.sort(key=lambda edge: -edge[0])
        gone = min(len(groups) // 2, max(1, len(groups) // share), len(groups) - count)
        for _, a, b in edges[:gone]:
            groups[b] = groups[b] + groups[a]
        taken = {a for _, a, _ in edges[:gone]}
        groups = [group for i, group in enumerate(groups) if i not in taken]
    return [sorted(group) for group in groups]


@settings(max_examples=25, deadline=None)
@given(cells=st.integers(1, 40), count=st.integers(1, 12), seed=st.integers(0, 1000))
def test_merging_equals_a_naive_loop(cells: int, count: int, seed: int) -> None:
    features = torch.randn(2, cells, 5, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    owner = merged(features, count, None)
    for b in range(2):
        groups = naive_merging(features[b], count, TokenMerging.SHARE)
        assert len(groups) == min(count, cells)
        for number, group in enumerate(groups):
            assert torch.nonzero(owner[b] == number).flatten().tolist() == group


def test_equal_cells_are_merged_first() -> None:
    """Sixteen pictures' worth of noise in the first half, one flat colour in the second: the noise stays apart."""
    features = torch.randn(1, 32, 8, generator=torch.Generator().manual_seed(0))
    features[:, 16:] = 1.0
    owner = merged(features, 18, None)[0]
    assert owner[16:].unique().numel() <= 4
    assert owner[:16].unique().numel() >= 14


@pytest.mark.parametrize("frames", [1, 3])
def test_the_grid_equals_adaptive_average_pooling(frames: int) -> None:
    tokenizer = make("grid")
    cells, positions = some_cells(grid=(frames, 8, 8))
    out = tokenizer(cells, positions)
    pictures = values_of(tokenizer, cells).unflatten(1, (frames, 8, 8)).mean(1).permute(0, 3, 1, 2)
    pooled = F.adaptive_avg_pool2d(pictures, (2, 4)).flatten(2).transpose(1, 2)
    torch.testing.assert_close(out.chunks, pooled)
    centres = grid_positions(1, 2, 4)[:, 1:].expand(3, -1, -1)
    torch.testing.assert_close(out.centroids[..., 1:], centres)
    assert (out.sizes == frames * 8).all()


@pytest.mark.parametrize("size", [(5, 7), (2, 3), (1, 1)])
def test_a_grid_that_does_not_divide_the_picture_puts_every_cell_where_its_centre_lies(size: tuple[int, int]) -> None:
    tokenizer = UniformGrid(DIM, 3, 4)
    cells, positions = some_cells(grid=(1, *size))
    out = tokenizer(cells, positions)
    for i, (_, y, x) in enumerate(positions.tolist()):
        row, column = math.floor((y + 1) / 2 * 3 + 1e-6), math.floor((x + 1) / 2 * 4 + 1e-6)
        assert out.assignment[0, i].argmax() == row * 4 + column
    assert (out.mask == (out.sizes == 0)).all() and torch.isfinite(out.chunks).all()


@every
def test_sizes_sum_to_the_cells_and_tokens_are_means_of_theirs(name: str) -> None:
    tokenizer = make(name)
    cells, positions = some_cells(grid=(2, 6, 5))
    out: Routing = tokenizer(cells, positions)
    torch.testing.assert_close(out.assignment.sum(-1), torch.ones(3, 60))
    live = ~out.mask
    torch.testing.assert_close((out.sizes * live).sum(-1), torch.full((3,), 60.0))
    torch.testing.assert_close(out.gate.detach(), live.float())
    if name == "random":
        return
    routing = tokenizer.routing if name == "chunks" else None
    values = routing.value(routing.norm(cells)) if routing else values_of(tokenizer, cells)
    for b, k in torch.nonzero(live).tolist():
        weights = out.assignment[b, :, k, None]
        torch.testing.assert_close(out.chunks[b, k], (weights * values[b]).sum(0) / weights.sum())
        torch.testing.assert_close(out.centroids[b, k], (weights * positions).sum(0) / weights.sum())


@every
def test_fixed_methods_give_exactly_as_many_tokens_as_asked(name: str) -> None:
    cells, positions = some_cells()
    out = make(name)(cells, positions)
    assert out.chunks.shape[:2] == (3, 12 if name == "chunks" else 8)
    if name != "chunks":
        assert out.count.tolist() == [8, 8, 8]


@every
def test_padding_takes_no_part(name: str) -> None:
    tokenizer = make(name)
    cells, positions = some_cells(grid=(2, 8, 8))
    padding = torch.zeros(3, 128, dtype=torch.bool)
    padding[:2, 64:] = True  # the second frame
    changed = cells.clone()
    changed[:2, 64:] = 100.0
    a, b = tokenizer(cells, positions, padding), tokenizer(changed, positions, padding)
    for field in ("chunks", "assignment", "centroids", "sizes", "mask"):
        torch.testing.assert_close(getattr(a, field), getattr(b, field))
    assert (a.assignment[:2, 64:] == 0).all()
    torch.testing.assert_close((a.sizes * ~a.mask).sum(-1), torch.tensor([64.0, 64.0, 128.0]))
    alone = tokenizer(cells[2:], positions)
    torch.testing.assert_close(a.chunks[2:], alone.chunks)
    nothing = tokenizer(cells, positions, torch.ones_like(padding))
    assert nothing.count.sum() == 0 and nothing.assignment.sum() == 0
    assert torch.isfinite(nothing.chunks).all() and torch.isfinite(nothing.centroids).all()


def test_merging_fills_every_token_where_enough_cells_are_there() -> None:
    """No token is wasted on cells that are not there, however many of them lie between the others."""
    tokenizer = make("merge")
    cells, positions = some_cells(grid=(2, 8, 8))
    for padding in (torch.arange(128) >= 64, torch.arange(128) % 2 == 0, torch.arange(128) % 2 == 1):
        out = tokenizer(cells, positions, padding.expand(3, -1))
        assert (out.count == 8).all() and (out.sizes.sum(-1) == 64).all()


@every
def test_samples_do_not_see_each_other(name: str) -> None:
    tokenizer = make(name)
    cells, positions = some_cells(batch=4)
    order = torch.tensor([2, 0, 3, 1])
    a, b = tokenizer(cells, positions), tokenizer(cells[order], positions)
    for field in ("chunks", "assignment", "centroids", "sizes", "mask", "gate"):
        torch.testing.assert_close(getattr(a, field)[order], getattr(b, field))


@pytest.mark.parametrize("name", ["grid", "chunks"])
def test_the_order_of_the_cells_does_not_matter_where_places_decide(name: str) -> None:
    tokenizer = make(name)
    cells, positions = some_cells()
    order = torch.randperm(64, generator=torch.Generator().manual_seed(3))
    a, b = tokenizer(cells, positions), tokenizer(cells[:, order], positions[order])
    torch.testing.assert_close(a.chunks, b.chunks)
    torch.testing.assert_close(a.assignment[:, order], b.assignment)


@every
def test_gradients_reach_cells_and_weights(name: str) -> None:
    tokenizer = make(name)
    cells, positions = some_cells()
    cells.requires_grad_(True)
    out = tokenizer(cells, positions)
    (out.chunks * torch.randn_like(out.chunks) * out.gate[..., None]).sum().backward()
    reached = (cells.grad.abs().sum(-1) > 0).sum(-1)
    assert (reached == (8 if name == "random" else 64)).all()  # what was dropped is lost
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in tokenizer.parameters())


def test_random_tokens_are_the_kept_cells_and_the_dropped_ones_count_for_the_nearest() -> None:
    tokenizer = make("random")
    cells, positions = some_cells()
    out = tokenizer(cells, positions)
    values = values_of(tokenizer, cells)
    for k in range(8):
        [kept] = torch.nonzero((positions == out.centroids[0, k]).all(-1)).flatten().tolist()
        torch.testing.assert_close(out.chunks[:, k], values[:, kept])
    distance = (positions[:, None] - out.centroids[0]).norm(dim=-1)  # N x K
    own = distance.gather(1, out.assignment[0].argmax(-1, keepdim=True)).squeeze(1)
    torch.testing.assert_close(own, distance.min(-1).values)


def test_random_tokens_are_the_same_in_evaluation_and_anew_in_training() -> None:
    tokenizer = make("random")
    cells, positions = some_cells()
    torch.testing.assert_close(tokenizer(cells, positions).chunks, tokenizer(cells, positions).chunks)
    tokenizer.train()
    first = tokenizer(cells, positions).centroids
    later = copy.deepcopy(tokenizer)
    second = tokenizer(cells, positions).centroids
    assert not torch.equal(first, second)
    torch.testing.assert_close(later(cells, positions).centroids, second)  # what is saved goes on with the same draws
    fresh = RandomTokens(DIM, 8)
    fresh.load_state_dict(tokenizer.state_dict())
    torch.testing.assert_close(fresh.train()(cells, positions).centroids, tokenizer(cells, positions).centroids)
    torch.manual_seed(1)
    assert not torch.equal(RandomTokens(DIM, 8).eval()(cells, positions).centroids, first)


def test_random_draws_are_even() -> None:
    tokenizer = RandomTokens(DIM, 8).train()
    cells, positions = some_cells(batch=1)
    kept = torch.zeros(64)
    for _ in range(800):
        out = tokenizer(cells, positions)
        kept += (positions[:, None] == out.centroids[0]).all(-1).any(-1)
    assert kept.sum() == 6400 and (kept - 100).abs().max() < 45  # 4.7 deviations of the binomial


def naive_joining(values: Tensor, assignment: Tensor, threshold: float) -> list[list[int]]:
    """Which chunks of one sample become one, by loops over all pairs of groups and the sums of squares themselves."""
    groups = [[k] for k in range(assignment.shape[1])]

    def squares(group: list[int]) -> float:
        """Weighted sum of squared distances of the group's chunks from their mean."""
        weights = assignment[:, group].sum(0)  # of every chunk
        means = (assignment[:, group].T @ values) / weights[:, None]
        centre = (weights[:, None] * means).sum(0) / weights.sum()
        return float((weights[:, None] * (means - centre).square()).detach().sum())

    while len(groups) > 1:
        pairs = [(a, b) for b in range(len(groups)) for a in range(b)]
        rise = [squares(groups[a] + groups[b]) - squares(groups[a]) - squares(groups[b]) for a, b in pairs]
        if min(rise) >= threshold:
            break
        a, b = pairs[rise.index(min(rise))]
        groups[a] = groups[a] + groups.pop(b)
    return [sorted(group) for group in groups]


@settings(max_examples=25, deadline=None)
@given(threshold=st.floats(0.01, 30), seed=st.integers(0, 1000))
def test_alike_chunks_become_one_as_in_a_naive_loop(threshold: float, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    values = torch.randn(3, 64, 5, generator=random, dtype=torch.float64)
    assignment = (2 * torch.randn(3, 64, 9, generator=random, dtype=torch.float64)).softmax(-1)
    positions = grid_positions(1, 8, 8).double()
    mask, gate = torch.zeros(3, 9, dtype=torch.bool), torch.ones(3, 9, dtype=torch.float64)
    chunks, centroids, sizes = means(assignment, values, positions)
    partner, loss = ward_merges(chunks, sizes)
    out = merge_chunks(Routing(chunks, assignment, centroids, sizes, mask, gate), partner, loss >= threshold)
    for b in range(3):
        groups = naive_joining(values[b], assignment[b], threshold)
        assert torch.nonzero(~out.mask[b]).flatten().tolist() == sorted(group[0] for group in groups)
        for group in groups:
            weights = assignment[b][:, group].sum(-1, keepdim=True)  # N x 1
            torch.testing.assert_close(out.assignment[b, :, group[0], None], weights)
            torch.testing.assert_close(out.chunks[b, group[0]], (weights * values[b]).sum(0) / weights.sum())
            torch.testing.assert_close(out.centroids[b, group[0]], (weights * positions).sum(0) / weights.sum())


def test_the_chunks_of_frames_are_joined_over_time_as_in_a_naive_loop() -> None:
    """Within each frame first, then what is left of all frames, whatever frame it is of."""
    tokenizer = make("chunks")
    frames, threshold = 3, 2.0
    cells, _ = some_cells(2)
    cells = torch.cat([cells, 0.9 * cells, cells.flip(0)], 1)  # B x 3N x D
    positions = grid_positions(frames, 8, 8)
    tokenizer.usual = torch.randn_like(tokenizer.usual) * 0.1
    tokenizer.threshold.fill_(threshold)
    out = tokenizer(cells, positions)
    alone = [tokenizer.routing(part, where) for part, where in zip(cells.chunk(3, 1), positions.chunk(3), strict=True)]
    for b in range(2):
        shares = [routing.assignment[b].double() for routing in alone]  # N x K
        unlike = [(routing.chunks[b] - tokenizer.usual).double() for routing in alone]  # K x D
        # A chunk is what all its cells have in common, so each may stand for its size's worth of cells.
        within = [naive_joining(z, torch.diag(p.sum(0)), threshold) for z, p in zip(unlike, shares, strict=True)]
        groups = [[12 * t + k for k in group] for t, found in enumerate(within) for group in found]
        sizes, z = torch.cat([p.sum(0) for p in shares]), torch.cat(unlike)
        weights = torch.stack([sizes[group].sum() for group in groups])
        means = torch.stack([(sizes[group, None] * z[group]).sum(0) / sizes[group].sum() for group in groups])
        over_time = naive_joining(means, torch.diag(weights), threshold)
        assert 1 < len(over_time) < len(groups) < 36
        members = [sorted(k for i in found for k in groups[i]) for found in over_time]
        assert int(out.count[b]) == len(members)
        live = out.assignment[b][:, ~out.mask[b]].double()  # 3N x M
        torch.testing.assert_close(live.sum(-1), torch.ones(192).double(), rtol=0, atol=1e-5)
        assignment = torch.block_diag(*shares)  # 3N x 3K
        for found in members:
            share = assignment[:, found].sum(-1)
            own = int((live - share[:, None]).abs().amax(0).argmin())
            torch.testing.assert_close(live[:, own], share, rtol=1e-4, atol=1e-6)
            middle = (share[:, None] * positions).sum(0) / share.sum()
            torch.testing.assert_close(out.centroids[b, ~out.mask[b]][own].double(), middle, rtol=1e-4, atol=1e-5)


def test_a_window_that_stands_still_has_fewer_chunks_than_one_that_moves() -> None:
    tokenizer = make("chunks")
    tokenizer.threshold.fill_(1.0)
    moving = torch.cat([some_cells(1, seed=seed)[0] for seed in range(8)], 1)  # 1 x 8N x D
    still = moving[:, :64].repeat(1, 8, 1)
    one, few, many = (
        int(tokenizer(cells, grid_positions(cells.shape[1] // 64, 8, 8)).count)
        for cells in (moving[:, :64], still, moving)
    )
    assert one == few and many > 3 * few


def test_frames_that_are_not_there_make_no_chunks() -> None:
    tokenizer = make("chunks")
    tokenizer.threshold.fill_(1.0)
    cells, positions = some_cells(1)
    padding = torch.zeros(1, 192, dtype=torch.bool)
    padding[:, 64:] = True
    out = tokenizer(cells.repeat(1, 3, 1), grid_positions(3, 8, 8), padding)
    whole = tokenizer(cells, positions)
    assert torch.equal(out.count, whole.count)
    torch.testing.assert_close(out.assignment[:, :64, :12], whole.assignment)
    assert not out.assignment[:, 64:].any()


def test_nothing_joins_before_training_and_everything_when_anything_is_alike() -> None:
    tokenizer = make("chunks")
    cells, positions = some_cells()
    whole, out = tokenizer.routing(cells, positions), tokenizer(cells, positions)
    torch.testing.assert_close(out.chunks, whole.chunks)
    torch.testing.assert_close(out.assignment, whole.assignment)
    assert (out.count == 12).all()
    tokenizer.threshold.fill_(1e6)
    one = tokenizer(cells, positions)
    assert one.count.tolist() == [1, 1, 1] and (one.assignment[..., 0] - 1).abs().max() < 1e-5


def test_a_plain_picture_has_few_chunks_and_a_busy_one_many() -> None:
    tokenizer = make("chunks")
    cells, positions = some_cells()
    cells[0] = 0.05 * cells[0] + torch.linspace(-1, 1, DIM)
    tokenizer.threshold.fill_(1.0)
    plain, *busy = tokenizer(cells, positions).count.tolist()
    assert plain == 1 and min(busy) > 6


def test_what_is_usual_is_one_chunk_and_what_moves_is_another() -> None:
    """Sixteen places that never change but all differ, and one thing that is now here, now there."""
    dim, count = 8, 16
    tokenizer = BudgetedChunks(SparseRouting(dim, 4, 4, prior_strength=1000.0), 2.0).train()
    scene, thing = torch.randn(count, dim, generator=torch.Generator().manual_seed(0)), torch.full((dim,), 4.0)
    positions = grid_positions(1, 4, 4)
    frames = scene.expand(count, -1, -1).clone()
    places = torch.arange(count)
    frames[places, places] = thing.roll(1) * torch.linspace(-1, 1, dim)
    for _ in range(60):
        out = tokenizer(frames, positions)
    assert (out.count == 2).all()
    owner = out.assignment.argmax(-1)  # B x N
    alone = owner == owner[places, places][:, None]
    assert torch.equal(alone, torch.eye(count, dtype=torch.bool))
    torch.testing.assert_close(tokenizer.usual, tokenizer.routing(frames, positions).chunks.mean(0))


def test_padding_is_not_usual() -> None:
    tokenizer = make("chunks").train()
    cells, positions = some_cells()
    padding = torch.zeros(3, 64, dtype=torch.bool)
    padding[0] = True
    other = copy.deepcopy(tokenizer)
    tokenizer(cells, positions, padding)
    other(cells[1:], positions)
    torch.testing.assert_close(tokenizer.usual, other.usual)


def test_the_mean_number_of_chunks_comes_to_the_budget() -> None:
    tokenizer = make("chunks").train()
    positions = grid_positions(1, 8, 8)
    frames = lambda seed: some_cells(64, seed=seed)[0] * torch.linspace(0.1, 4, DIM)  # noqa: E731
    for seed in range(60):
        tokenizer(frames(seed), positions)
    tokenizer.eval()
    before = tokenizer.threshold.clone()
    counts = torch.cat([tokenizer(frames(seed), positions).count for seed in range(1000, 1020)]).float()
    assert abs(counts.mean() / 8 - 1) < 0.02
    assert counts.std() > 0.3  # some have more, others fewer
    assert torch.equal(tokenizer.threshold, before)  # looking changes nothing


def test_windows_of_padding_do_not_move_the_threshold() -> None:
    tokenizer = make("chunks").train()
    cells, positions = some_cells()
    tokenizer(cells, positions, torch.ones(3, 64, dtype=torch.bool))
    assert tokenizer.threshold == 0
    other = copy.deepcopy(tokenizer)
    padding = torch.zeros(3, 64, dtype=torch.bool)
    padding[0] = True
    tokenizer(cells, positions, padding)
    other(cells[1:], positions)
    torch.testing.assert_close(tokenizer.threshold, other.threshold)


@every
def test_the_whole_encoder_takes_every_tokenizer(name: str) -> None:
    torch.manual_seed(0)
    backbone = toy.config().model.backbone.model_copy(update={"routing": CONFIGS[name]})
    model = HNetViT(backbone)
    out = model(torch.randn(2, 4, 32, 32, 3), window=2, across=True)
    assert out.tokens.shape == (2, 2, 4, 16) and out.cell_slots().shape == (2, 2, 32)
    (out.tokens * torch.randn_like(out.tokens)).sum().backward()
    without = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert without == []
    again = HNetViT(backbone)
    again.load_state_dict(model.state_dict())
    video = torch.randn(2, 4, 32, 32, 3)
    torch.testing.assert_close(model.eval()(video).tokens, again.eval()(video).tokens)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.isfinite(model.train()(video).tokens).all()


def test_without_a_budget_chunks_are_the_plain_routing() -> None:
    assert isinstance(make_tokenizer(DIM, RoutingConfig()), SparseRouting)
    assert isinstance(make_tokenizer(DIM, RoutingConfig(tokens=9)), BudgetedChunks)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tokenizer": "grid", "tokens": 8}, "tokens = 8: is for tokenizer = chunks"),
        ({"grid": (2, 3), "tokens": 8}, "tokens = 8: must be at most grid's 6 prototypes"),
    ],
)
def test_settings_that_do_not_fit_are_refused(fields: dict[str, object], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RoutingConfig(**fields)
