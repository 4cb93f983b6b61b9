import numpy as np
import pytest
import torch

from hnet_vjepa.data.batch import normalise_frames
from hnet_vjepa.losses.auxiliaries import ratio_loss
from hnet_vjepa.models.hnet.downsampler import LearnedAttentionPooling
from hnet_vjepa.models.hnet.pos_enc import AdaptivePositionalEncoding
from hnet_vjepa.models.hnet.routing import Routing, SparseRouting
from hnet_vjepa.models.ops import grid_positions
from hnet_vjepa.models.vjepa.vit import HNetViT
from tests import toy


def route(rows: int = 4, columns: int = 4, grid: tuple[int, int, int] = (1, 8, 8), dim: int = 16):
    torch.manual_seed(0)
    routing = SparseRouting(dim, rows, columns)
    positions = grid_positions(*grid)
    tokens = torch.randn(2, len(positions), dim)
    return routing, tokens, positions


def test_assignment_sums_to_one_and_chunks_are_weighted_means() -> None:
    routing, tokens, positions = route()
    out = routing(tokens, positions)
    torch.testing.assert_close(out.assignment.sum(-1), torch.ones(2, 64))
    values = routing.value(routing.norm(tokens))
    for b in range(2):
        for k in range(16):
            weights = out.assignment[b, :, k]
            mean = sum(weights[i] * values[b, i] for i in range(64)) / weights.sum()
            torch.testing.assert_close(out.chunks[b, k], mean, rtol=1e-4, atol=1e-5)
            centre = sum(weights[i] * positions[i] for i in range(64)) / weights.sum()
            torch.testing.assert_close(out.centroids[b, k], centre, rtol=1e-4, atol=1e-5)


def test_the_first_assignment_is_a_soft_grid() -> None:
    routing, tokens, positions = route()
    owners = routing(tokens, positions).assignment.argmax(-1)  # B x N
    nearest = (positions[:, None, 1:] - routing.anchors).square().sum(-1).argmin(-1)
    # Cells in the middle of a prototype's own square are its own; content may move the borders.
    distance = (positions[:, None, 1:] - routing.anchors).square().sum(-1).sqrt()
    inner = distance.min(-1).values < 0.2
    assert (owners[:, inner] == nearest[inner]).float().mean() > 0.8
    # A random start without the prior would hand most tokens to few prototypes; here all of them own some.
    assert routing(tokens, positions).count.min() >= 12


def test_m_is_the_number_of_prototypes_that_win() -> None:
    routing, tokens, positions = route()
    out = routing(tokens, positions)
    for b in range(2):
        winners = set(out.assignment[b].argmax(-1).tolist())
        assert set(torch.nonzero(~out.mask[b]).flatten().tolist()) == winners
        assert int(out.count[b]) == len(winners)


def test_losers_count_for_nothing_and_still_get_gradient() -> None:
    routing, tokens, positions = route()
    pooling = LearnedAttentionPooling(16, 2, 2)
    with torch.no_grad():
        routing.prototypes[5] = 0
        routing.anchors[5] = 1.6  # outside the picture: it wins nothing
    out = routing(tokens, positions)
    assert out.mask[:, 5].all() and (out.gate[:, 5] == 0).all()
    pooled = pooling(out)
    assert (pooled.attention[:, :, 5] == 0).all()
    # Only what goes through the gate: the losers' part of the softmax is cut off.
    (grad,) = torch.autograd.grad((pooled.slots * torch.randn_like(pooled.slots)).sum(), out.gate)
    assert (grad[:, 5].abs() > 1e-6).all()


def test_padding_takes_no_part() -> None:
    routing, tokens, positions = route()
    padding = torch.zeros(2, 64, dtype=torch.bool)
    padding[:, 40:] = True
    changed = tokens.clone()
    changed[:, 40:] = 100.0
    a, b = routing(tokens, positions, padding), routing(changed, positions, padding)
    for name in ("chunks", "assignment", "centroids", "sizes", "mask"):
        torch.testing.assert_close(getattr(a, name), getattr(b, name))
    assert (a.assignment[:, 40:] == 0).all()
    nothing = routing(tokens, positions, torch.ones(2, 64, dtype=torch.bool))
    assert nothing.count.sum() == 0
    assert torch.isfinite(nothing.chunks).all()


def test_one_set_of_weights_routes_windows_of_any_length() -> None:
    routing, _, _ = route()
    for frames in (1, 2, 5):
        positions = grid_positions(frames, 8, 8)
        assert routing(torch.randn(1, len(positions), 16), positions).chunks.shape == (1, 16, 16)


def test_pooling_is_masked_attention_and_never_holds_more_slots_than_chunks() -> None:
    torch.manual_seed(1)
    routing, tokens, positions = route(2, 2)
    pooling = LearnedAttentionPooling(16, 3, 3)
    out = routing(tokens, positions)
    pooled = pooling(out)
    assert ((~pooled.mask).sum(-1) <= torch.minimum(out.count, torch.tensor(9))).all()
    assert ((~pooled.mask).sum(-1) >= 1).all()
    torch.testing.assert_close(pooled.attention.sum(-1), torch.ones(2, 9))
    live_size = (out.sizes * ~out.mask).sum(-1)
    torch.testing.assert_close(pooled.sizes.sum(-1), live_size)
    values = pooling.value(pooling.norm(out.chunks))
    by_hand = torch.stack(
        [sum(pooled.attention[b, j, k] * values[b, k] for k in range(4)) for b in range(2) for j in range(9)]
    )
    torch.testing.assert_close(pooled.slots.flatten(0, 1), by_hand, rtol=1e-4, atol=1e-5)


def test_a_token_weighs_as_much_as_its_cells_or_as_any_other() -> None:
    """Two tokens that differ in nothing but their sizes, 12 cells and 4: three to one, or even; in between the root."""
    for weight, share in ((1.0, 12 / 16), (0.0, 1 / 2), (0.5, 12**0.5 / (12**0.5 + 2))):
        torch.manual_seed(0)
        pooling = LearnedAttentionPooling(8, 2, 2, size_weight=weight)
        assignment = torch.zeros(1, 16, 2)
        assignment[:, :12, 0], assignment[:, 12:, 1] = 1, 1
        sizes = torch.tensor([[12.0, 4.0]])
        alike = torch.randn(1, 1, 8).expand(-1, 2, -1)
        tokens = Routing(alike, assignment, torch.zeros(1, 2, 3), sizes, sizes < 0, torch.ones(1, 2))
        torch.testing.assert_close(pooling(tokens).attention[..., 0], torch.full((1, 4), share))


def test_dead_chunks_do_not_enter_the_slots() -> None:
    torch.manual_seed(1)
    routing, tokens, positions = route(3, 3)
    pooling = LearnedAttentionPooling(16, 2, 2)
    with torch.no_grad():
        routing.anchors[4] = 5.0
    out = routing(tokens, positions)
    assert out.mask[:, 4].all()
    pooled = pooling(out)
    assert (pooled.attention[:, :, 4] == 0).all()
    live = ~out.mask[0]
    assert set(pooled.favourite[0, live].tolist()) == set(torch.nonzero(~pooled.mask[0]).flatten().tolist())


@pytest.mark.parametrize("corner", [(6, 6), (6, 34), (26, 6), (26, 34)])
def test_a_chunks_centroid_lies_where_its_pixels_lie(corner: tuple[int, int]) -> None:
    """The chunk that owns the cells of the square has its centroid near the square, and no chunk lies elsewhere."""
    torch.manual_seed(0)
    model = HNetViT(toy.config().model.backbone)
    row, column = corner
    chunks = model(torch.from_numpy(toy.picture(column, row)[None, None]).float() / 127.5 - 1)
    owners = chunks.assignment[0, 0].argmax(-1)  # N, cells to prototypes
    at_square = owners[row // 8 * 5 + column // 8]  # of 4 x 5 cells
    y, x = chunks.chunk_centroids[0, 0, at_square, 1:].tolist()
    assert abs(y - (row / 16 - 1)) < 0.5 and abs(x - (column / 20 - 1)) < 0.5
    positions = grid_positions(1, 4, 5)
    for k in owners.unique():
        own = positions[owners == k].mean(0)
        assert (chunks.chunk_centroids[0, 0, k] - own).norm() < 0.5


def test_tokens_say_where_they_lie_when_they_are_asked_to() -> None:
    """Two pictures whose chunks show the same and lie elsewhere: only placed chunks tell the pooling where."""
    config = toy.config().model.backbone
    for placed in (False, True):
        torch.manual_seed(0)
        model = HNetViT(config.model_copy(update={"routing": config.routing.model_copy(update={"placed": placed})}))
        asked: list[torch.Tensor] = []
        model.pooling.register_forward_pre_hook(lambda _, given: asked.append(given[0].chunks))  # noqa: B023
        out = model(torch.randn(2, 1, 32, 32, 3))
        routing = model.routing(out.cells[:, 0], grid_positions(1, 4, 4))
        added = asked[0] - routing.chunks
        assert (model.place is not None) == placed
        if model.place is None:
            assert (added == 0).all()
        else:
            torch.testing.assert_close(added, model.place(routing.centroids, routing.sizes))
            (out.tokens * torch.randn_like(out.tokens)).sum().backward()
            assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.place.parameters())


def test_a_prototype_that_won_nothing_comes_back() -> None:
    """Its anchor lies outside the picture; where more chunks are wanted the ratio loss brings it in."""
    routing, tokens, positions = route()
    with torch.no_grad():
        routing.anchors[5] = torch.tensor([1.5, -0.3])
    optimiser = torch.optim.Adam(routing.parameters(), 0.02)
    dead = [bool(routing(tokens, positions).mask[:, 5].all())]
    while dead[-1] and len(dead) < 200:
        out = routing(tokens, positions)
        live = (~out.mask).sum() / out.assignment[..., 0].numel()
        loss = ratio_loss(live, out.assignment.amax(1).sum() / out.assignment[..., 0].numel(), 64 / 20)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        dead.append(bool(routing(tokens, positions).mask[:, 5].all()))
    assert dead[0] and not dead[-1]


def test_positions_are_told_apart_by_place_and_size() -> None:
    torch.manual_seed(0)
    encode = AdaptivePositionalEncoding(16)
    centroids = torch.tensor([[[0.0, 0.0, 0.0], [0.0, 0.5, 0.0], [0.0, 0.0, 0.5]]])
    same = encode(centroids, torch.ones(1, 3))
    assert same.shape == (1, 3, 16)
    assert torch.cdist(same[0], same[0]).add(torch.eye(3)).min() > 1e-3
    assert not torch.allclose(same, encode(centroids, torch.full((1, 3), 9.0)))


# What a camera or a caller may hand over.


def backbone(kind: str = "attention") -> HNetViT:
    torch.manual_seed(0)
    config = toy.config().model.backbone
    return HNetViT(config.model_copy(update={"pooling": config.pooling.model_copy(update={"kind": kind})})).eval()


def clip(samples: int = 3, frames: int = 4, height: int = 32, width: int = 32) -> torch.Tensor:
    random = torch.Generator().manual_seed(1)
    return torch.rand(samples, frames, height, width, 3, generator=random) * 2 - 1


@pytest.mark.parametrize(
    ("video", "window", "says"),
    [
        (clip(frames=3), 4, "a clip of 3 frames can not be cut into windows of 4"),
        (clip(frames=6), 4, "a clip of 6 frames can not be cut into windows of 4"),
        (clip(), 0, "can not be cut into windows of 0"),
        (clip(frames=0), 1, "got 3 x 0 x 32 x 32 x 3 of"),
        (clip(height=0), 1, "got 3 x 4 x 0 x 32 x 3 of"),
        (clip()[0], 1, "must be B x T x H x W x 3 floats, none of these 0; got 4 x 32 x 32 x 3 of"),
        (clip()[..., :1], 1, "got 3 x 4 x 32 x 32 x 1 of"),
        ((clip() * 255).byte(), 1, "of torch.uint8"),
    ],
)
def test_video_that_can_not_be_encoded_is_refused_and_said_why(video: torch.Tensor, window: int, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        backbone()(video, window=window)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_pixel_that_is_no_number_is_refused_by_place(value: float, dtype: torch.dtype) -> None:
    video = clip().to(dtype)
    video[1, 2, 5, 5, 0] = value
    with pytest.raises(ValueError, match="frame 2 of sample 1 has pixels that are NaN or infinite"):
        backbone()(video, across=True)
    video[1, 1, 0, 0, 1] = -value  # infinities of both signs
    with pytest.raises(ValueError, match="frame 1 of sample 1"):
        backbone()(video, across=True)


@pytest.mark.parametrize("size", [(33, 47), (7, 64), (3, 5), (1, 1)])
@pytest.mark.parametrize("kind", ["attention", "graph"])
def test_a_picture_that_is_no_whole_number_of_cells_is_continued_by_its_edge(size: tuple[int, int], kind: str) -> None:
    model, video = backbone(kind), clip(2, 2, *size)
    rows, columns = (-(-side // 8) for side in size)
    inside = [np.minimum(np.arange(8 * cells), side - 1) for cells, side in zip((rows, columns), size, strict=True)]
    whole = video[:, :, inside[0]][:, :, :, inside[1]]
    with torch.no_grad():
        a, b = model(video, window=2), model(whole, window=2)
    assert a.grid == (2, rows, columns)
    for name in ("tokens", "centroids", "sizes", "assignment"):
        assert torch.isfinite(getattr(a, name)).all()
        torch.testing.assert_close(getattr(a, name), getattr(b, name))
    torch.testing.assert_close(a.assignment.sum(-1), torch.ones(2, 1, 2 * rows * columns))
    assert ((~a.chunk_mask).sum(-1) <= 2 * rows * columns).all() and ((~a.mask).sum(-1) >= 1).all()


@pytest.mark.parametrize("kind", ["attention", "graph"])
def test_a_single_frame_is_the_first_of_every_clip_that_begins_with_it(kind: str) -> None:
    model, video = backbone(kind), clip()
    with torch.no_grad():
        alone, first = model(video[:, :1]), model(video)
    for name in ("tokens", "centroids", "sizes", "mask", "assignment"):
        torch.testing.assert_close(getattr(alone, name)[:, 0], getattr(first, name)[:, 0])


@pytest.mark.parametrize("across", [False, True])
@pytest.mark.parametrize("window", [1, 2, 4])
@pytest.mark.parametrize("kind", ["attention", "graph"])
def test_a_sample_that_is_all_padding_has_no_chunks_and_leaves_the_others_alone(
    kind: str, window: int, across: bool
) -> None:
    model, video = backbone(kind), clip().requires_grad_()
    padding = torch.zeros(3, 4, dtype=torch.bool)
    padding[1] = True
    made = model(video, window, across, padding)
    assert made.mask[1].all() and made.chunk_mask[1].all() and not made.mask[[0, 2]].all(-1).any()
    others = model(video[[0, 2]], window, across, padding[[0, 2]])
    torch.testing.assert_close(made.tokens[[0, 2]], others.tokens)
    tokens, centroids, sizes, mask = made.flat()
    for part in (tokens, centroids, sizes):
        assert torch.isfinite(part).all()
    tokens[~mask].square().sum().backward()
    assert video.grad is not None and torch.isfinite(video.grad).all() and (video.grad[1] == 0).all()
    assert all(p.grad is None or torch.isfinite(p.grad).all() for p in model.parameters())


def test_a_black_picture_and_one_colour_have_chunks_that_cover_it() -> None:
    for level in (0, 128, 255):
        made = backbone()(normalise_frames(np.full((1, 1, 32, 32, 3), level, np.uint8)))
        assert torch.isfinite(made.tokens).all()
        live = made.assignment[0, 0].masked_fill(made.chunk_mask[0, 0], 0.0)
        assert (live.amax(-1) > 0).all()


def test_the_gate_has_the_gradient_of_each_prototypes_largest_share() -> None:
    """Straight through: 1 at the cell with the prototype's largest share of it, 0 elsewhere."""
    routing, tokens, positions = route()
    out = routing(tokens, positions)
    (grad,) = torch.autograd.grad(out.gate.sum(), out.assignment)
    expected = torch.zeros_like(grad).scatter_(1, out.assignment.argmax(1, keepdim=True), 1.0)
    torch.testing.assert_close(grad, expected)
