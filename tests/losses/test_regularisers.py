"""VICRegL, SIGReg and the routing regularisers against closed forms, plain loops and several processes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import Tensor

from hnet_vjepa.losses.auxiliaries import (
    assignment_entropy,
    boundary_loss,
    ratio_loss,
    saliency_loss,
    usage_entropy,
)
from hnet_vjepa.losses.sigreg import sigreg_loss
from hnet_vjepa.losses.vicregl import VICRegLTerms, covariance_loss, variance_loss, vicregl_loss
from hnet_vjepa.utils.collectives import gather_rows
from tests.models.test_ring_attention import run_ranks

FLOAT = torch.float64
Array = NDArray[np.float64]


def close(a: Tensor, b: Tensor | float, tolerance: float = 1e-10) -> bool:
    return torch.allclose(a, torch.as_tensor(b, dtype=a.dtype), rtol=tolerance, atol=tolerance)


# --- VICRegL ---------------------------------------------------------------------------------------------------------


def loop_variance(x: Array) -> float:
    return float(np.mean([max(0.0, 1 - math.sqrt(x[:, d].var(ddof=1) + 1e-4)) for d in range(x.shape[1])]))


def loop_covariance(x: Array) -> float:
    c = np.cov(x.T)
    dim = len(c)
    return sum(float(c[i, j]) ** 2 for i in range(dim) for j in range(dim) if i != j) / dim


def loop_matches(x: Array, y: Array, by_x: Array, by_y: Array, matches: int) -> float:
    """Each row of x with its nearest of y, measured in ``by``; mean squared difference of the closest pairs."""
    pairs = []
    for i in range(len(x)):
        apart = [float(np.linalg.norm(by_x[i] - by_y[j])) for j in range(len(y))]
        j = int(np.argmin(apart))
        pairs.append((apart[j], float(np.mean((x[i] - y[j]) ** 2))))
    return float(np.mean([error for _, error in sorted(pairs)[:matches]]))


def loop_vicregl(data: dict[str, Tensor], alpha: float, matches: int) -> dict[str, float]:
    x, y, rx, ry = (data[name].numpy() for name in ("x", "y", "x_centroids", "y_centroids"))
    mx, my = (data[name].numpy() for name in ("x_mask", "y_mask"))
    invariance, local = [], []
    for b in range(len(x)):
        xb, yb, rxb, ryb = x[b][~mx[b]], y[b][~my[b]], rx[b][~mx[b]], ry[b][~my[b]]
        if not len(xb) or not len(yb):
            continue
        invariance.append(np.mean((xb.mean(0) - yb.mean(0)) ** 2))
        local.append(
            np.mean(
                [
                    loop_matches(xb, yb, rxb, ryb, matches),
                    loop_matches(yb, xb, ryb, rxb, matches),
                    loop_matches(xb, yb, xb, yb, matches),
                    loop_matches(yb, xb, yb, xb, matches),
                ]
            )
        )
    flat_x, flat_y = x[~mx], y[~my]
    terms = {
        "invariance": float(np.mean(invariance)),
        "local": float(np.mean(local)),
        "variance": (loop_variance(flat_x) + loop_variance(flat_y)) / 2,
        "covariance": loop_covariance(flat_x) + loop_covariance(flat_y),
    }
    matching = alpha * terms["invariance"] + (1 - alpha) * terms["local"]
    terms["total"] = 25 * matching + 25 * terms["variance"] + terms["covariance"]
    return terms


def some_chunks(batch: int = 5) -> dict[str, Tensor]:
    """Five samples of six chunks against seven; one has no chunk in x, one a single chunk, one all."""
    torch.manual_seed(0)
    data = {
        "x": torch.randn(batch, 6, 4, dtype=FLOAT) * 0.7,
        "y": torch.randn(batch, 7, 4, dtype=FLOAT) * 0.7,
        "x_mask": torch.rand(batch, 6) < 0.4,
        "y_mask": torch.rand(batch, 7) < 0.4,
        "x_centroids": torch.randn(batch, 6, 3, dtype=FLOAT),
        "y_centroids": torch.randn(batch, 7, 3, dtype=FLOAT),
    }
    data["x_mask"][1] = True
    data["x_mask"][2, 1:] = True
    data["x_mask"][2, 0] = False
    data["x_mask"][3] = False
    return data


@pytest.mark.parametrize("matches", [1, 3, 99])
def test_vicregl_equals_a_loop(matches: int) -> None:
    data = some_chunks()
    terms = vicregl_loss(**data, alpha=0.6, matches=matches)
    for name, expected in loop_vicregl(data, 0.6, matches).items():
        assert close(getattr(terms, name), expected), name


def test_variance_and_covariance_closed_forms() -> None:
    # Columns with variance exactly 1/4 + nothing else: hinge of 1 - sqrt(0.25 + eps).
    x = torch.tensor([[0.5, 0.5], [-0.5, 0.5], [0.5, -0.5], [-0.5, -0.5]], dtype=FLOAT) * math.sqrt(3) / 2
    assert close(variance_loss(x), 1 - math.sqrt(0.25 + 1e-4))
    assert close(covariance_loss(x), 0.0)
    doubled = x[:, :1].repeat(1, 3)  # three equal columns: six off-diagonal entries of 1/4, over D = 3
    assert close(covariance_loss(doubled), 6 * 0.25**2 / 3)
    assert close(variance_loss(x * 10), 0.0)


def test_collapse_is_seen() -> None:
    torch.manual_seed(0)
    healthy = torch.randn(512, 8, dtype=FLOAT)
    constant = torch.ones(512, 8, dtype=FLOAT)
    assert variance_loss(healthy) < 0.1
    assert variance_loss(constant) == pytest.approx(0.99)
    one_direction = healthy[:, :1] * torch.ones(8, dtype=FLOAT)
    assert covariance_loss(one_direction) > 20 * covariance_loss(healthy)


@pytest.mark.parametrize("rows", [0, 1])
def test_too_few_rows_have_no_statistics(rows: int) -> None:
    x = torch.randn(rows, 4, requires_grad=True)
    loss = variance_loss(x) + covariance_loss(x)
    assert loss == 0
    assert torch.isfinite(torch.autograd.grad(loss, x)[0]).all()


def test_padding_cannot_be_heard_in_vicregl() -> None:
    data = some_chunks()
    clean = vicregl_loss(**data)
    x = data["x"].masked_fill(data["x_mask"][..., None], math.nan).requires_grad_()
    y = data["y"].masked_fill(data["y_mask"][..., None], math.inf)
    centroids = data["x_centroids"].masked_fill(data["x_mask"][..., None], math.nan)
    terms = vicregl_loss(**{**data, "x": x, "y": y, "x_centroids": centroids})
    assert torch.equal(terms.total, clean.total)
    grad = torch.autograd.grad(terms.total, x)[0]
    assert torch.isfinite(grad).all()
    assert not grad[data["x_mask"]].any()
    assert grad[~data["x_mask"]].abs().sum(-1).min() > 0


def test_nothing_but_padding_gives_zero() -> None:
    data = some_chunks()
    data["x_mask"][:] = True
    data["y_mask"][:] = True
    terms = vicregl_loss(**data)
    assert all(getattr(terms, name) == 0 for name in VICRegLTerms.__dataclass_fields__)


def test_vicregl_gradients_are_right() -> None:
    data = some_chunks()
    x, y = data.pop("x").requires_grad_(), data.pop("y").requires_grad_()
    assert torch.autograd.gradcheck(lambda a, b: vicregl_loss(a, b, **data).total, [x, y], fast_mode=True)


def test_autocast_does_not_coarsen_the_statistics() -> None:
    data = {name: x.float() if x.is_floating_point() else x for name, x in some_chunks().items()}
    exact, sigreg = vicregl_loss(**data), sigreg_loss(data["x"].flatten(0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(vicregl_loss(**data).total, exact.total)
        assert torch.equal(sigreg_loss(data["x"].flatten(0, 1)), sigreg)


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="alpha"):
        vicregl_loss(**some_chunks(), alpha=1.5)
    with pytest.raises(ValueError, match="knots"):
        sigreg_loss(torch.zeros(3, 2), knots=1)
    with pytest.raises(ValueError, match="target_compression"):
        ratio_loss(torch.tensor(0.5), torch.tensor(0.5), 1.0)


# --- SIGReg ----------------------------------------------------------------------------------------------------------


def test_sigreg_equals_a_loop() -> None:
    torch.manual_seed(0)
    x = torch.randn(9, 5, dtype=FLOAT) * 1.3 + 0.2
    directions = torch.randn(5, 6, generator=torch.Generator().manual_seed(3), dtype=FLOAT).numpy()
    t = np.linspace(0, 3, 7)
    expected = []
    for s in range(6):
        u = x.numpy() @ (directions[:, s] / np.linalg.norm(directions[:, s]))
        gap = np.array([abs(np.mean(np.exp(1j * ti * u)) - math.exp(-(ti**2) / 2)) ** 2 for ti in t])
        expected.append(2 * len(u) * np.trapezoid(gap * np.exp(-(t**2) / 2), t))
    assert close(sigreg_loss(x, slices=6, knots=7, seed=3), float(np.mean(expected)))


@pytest.mark.parametrize("rows", [8, 64, 512])
def test_sigreg_of_a_gaussian_is_one_for_any_number_of_rows(rows: int) -> None:
    torch.manual_seed(0)
    repeats = [float(sigreg_loss(torch.randn(rows, 32), seed=seed)) for seed in range(20)]
    assert np.mean(repeats) == pytest.approx(1.04, abs=0.06)


def test_sigreg_grows_as_the_rank_falls() -> None:
    torch.manual_seed(0)
    x = torch.randn(256, 64)
    by_rank = []
    for rank in (64, 16, 4, 1):
        basis = torch.linalg.qr(torch.randn(64, rank)).Q
        by_rank.append(float(sigreg_loss(x @ basis @ basis.T * math.sqrt(64 / rank))))
    assert all(after > 1.5 * before for before, after in itertools.pairwise(by_rank)), by_rank
    assert sigreg_loss(torch.zeros(256, 64)) > 50


def test_sigreg_descent_makes_a_gaussian() -> None:
    torch.manual_seed(0)
    x = (torch.randn(128, 4, dtype=FLOAT) * torch.tensor([0.3, 1.0, 1.4, 0.6]) + 0.5).requires_grad_()
    optimiser = torch.optim.Adam([x], lr=0.05)
    for step in range(120):
        optimiser.zero_grad()
        sigreg_loss(x, slices=16, seed=step).backward()
        optimiser.step()
    assert x.mean(0).abs().max() < 0.15
    assert (torch.cov(x.detach().T) - torch.eye(4)).abs().max() < 0.25


def test_sigreg_without_rows_is_zero() -> None:
    x = torch.zeros(0, 4, requires_grad=True)
    assert sigreg_loss(x) == 0
    assert torch.autograd.grad(sigreg_loss(x), x)[0].shape == (0, 4)


# --- several processes -----------------------------------------------------------------------------------------------


def all_losses(data: dict[str, Tensor], assignment: Tensor) -> dict[str, Tensor]:
    terms = vicregl_loss(**data)
    return {
        **{name: getattr(terms, name) for name in VICRegLTerms.__dataclass_fields__},
        "sigreg": sigreg_loss(data["x"][~data["x_mask"]], slices=16, seed=1),
        "usage": usage_entropy(assignment),
    }


def losses_worker(rank: int, world: int) -> None:
    """Ragged shards, the last of them empty, give the values and gradients of one process with all the data."""
    data = some_chunks()
    torch.manual_seed(1)
    assignment = torch.randn(5, 8, 3, dtype=FLOAT).softmax(-1)
    shard = [slice(0, 3), slice(3, 5), slice(5, 5)][rank]
    own = {name: x[shard].clone() for name, x in data.items()}
    leaves = {"x": own["x"], "y": own["y"], "assignment": assignment[shard].clone()}
    for leaf in leaves.values():
        leaf.requires_grad_()

    rows = leaves["x"].flatten(0, 1)
    gathered = gather_rows(rows)
    assert torch.equal(gathered, data["x"].flatten(0, 1))
    weight = torch.randn(gathered.shape, dtype=FLOAT) * (rank + 1)  # each rank wants something else
    (grad,) = torch.autograd.grad((gathered * weight).sum(), leaves["x"])
    dist.all_reduce(weight)
    assert close(grad, weight.reshape(data["x"].shape)[shard])

    losses = all_losses(own, leaves["assignment"])
    grads = torch.autograd.grad(losses["total"] + losses["sigreg"] + losses["usage"], list(leaves.values()))

    # One process: the same functions, without a group.
    whole = {"x": data["x"], "y": data["y"], "assignment": assignment}
    for leaf in whole.values():
        leaf.requires_grad_()
    is_initialized, dist.is_initialized = dist.is_initialized, lambda: False
    try:
        expected = all_losses(data, assignment)
    finally:
        dist.is_initialized = is_initialized
    wanted = torch.autograd.grad(expected["total"] + expected["sigreg"] + expected["usage"], list(whole.values()))
    for name, value in losses.items():
        assert close(value, expected[name].detach()), name
    for name, ours, theirs in zip(whole, grads, wanted, strict=True):
        # The mean over ranks that DDP takes turns this sum into the single process's gradient.
        assert close(ours / world, theirs[shard]), name


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 3])
def test_ranks_together_equal_one_process(world: int) -> None:
    run_ranks(losses_worker, world)


# --- routing ---------------------------------------------------------------------------------------------------------


def test_ratio_loss_value_and_gradient() -> None:
    hard, soft = torch.tensor(0.6, dtype=FLOAT, requires_grad=True), torch.tensor(0.3, dtype=FLOAT, requires_grad=True)
    loss = ratio_loss(hard, soft, 4.0)
    assert close(loss, 4 / 3 * (3 * 0.6 * 0.3 + 0.4 * 0.7))
    loss.backward()
    assert hard.grad is None
    assert close(soft.grad, 4 / 3 * (4 * 0.6 - 1))
    quarter = torch.tensor(0.25)
    assert close(ratio_loss(quarter, quarter, 4.0), 1.0, 1e-6)


@pytest.mark.parametrize("hard", [0.05, 0.2, 0.3, 0.9])
@pytest.mark.parametrize("soft", [0.1, 0.5])
def test_ratio_loss_pushes_the_right_way(hard: float, soft: float) -> None:
    """Whatever G is, the step must lower it while too much is kept and raise it while too little is."""
    g = torch.tensor(soft, requires_grad=True)
    ratio_loss(torch.tensor(hard), g, 4.0).backward()
    assert g.grad.sign() == math.copysign(1, hard - 0.25)


@pytest.mark.parametrize("start", [-2.0, 2.0])
@pytest.mark.parametrize("compression", [2.0, 4.0, 6.0])
def test_ratio_loss_drives_the_fraction_to_its_target(compression: float, start: float) -> None:
    torch.manual_seed(0)
    scores = torch.randn(2000)  # what is fixed about the tokens; the bias decides how many are kept
    bias = torch.tensor(start, requires_grad=True)
    optimiser = torch.optim.SGD([bias], lr=0.5)
    history = []
    for _ in range(400):
        p = torch.sigmoid(scores + bias)
        kept = (p > 0.5).float().mean()
        history.append(float(kept))
        optimiser.zero_grad()
        ratio_loss(kept, p.mean(), compression).backward()
        optimiser.step()
    assert np.mean(history[-50:]) == pytest.approx(1 / compression, abs=0.02)


def test_assignment_entropy() -> None:
    one_hot = torch.eye(4, dtype=FLOAT)[None].requires_grad_()
    assert close(assignment_entropy(one_hot), 0.0, 1e-9)
    assert torch.isfinite(torch.autograd.grad(assignment_entropy(one_hot), one_hot)[0]).all()
    uniform = torch.full((1, 4, 4), 0.25, dtype=FLOAT)
    assert close(assignment_entropy(uniform), 1.0)
    mask = torch.tensor([[False, False, False, True]])
    mixed = torch.cat([uniform[:, :1], one_hot.detach()[:, :2], uniform[:, :1] * math.nan], 1)
    assert close(assignment_entropy(mixed, mask), 1 / 3)
    assert assignment_entropy(uniform, torch.ones(1, 4, dtype=torch.bool)) == 0
    assert assignment_entropy(torch.ones(2, 3, 1)) == 0


def test_usage_entropy() -> None:
    one_hot = torch.eye(4, dtype=FLOAT)[None]
    assert close(usage_entropy(one_hot), 0.0)  # each prototype owns one token
    assert close(usage_entropy(one_hot[:, [0, 0, 0]]), 1.0)
    mask = torch.tensor([[False, False, True, True]])
    assert close(usage_entropy(one_hot, mask), 0.5)  # two of four in use
    assert usage_entropy(one_hot, torch.ones(1, 4, dtype=torch.bool)) == 0
    # Descent wakes a prototype that gets nothing.
    logits = torch.tensor([2.0, 2.0, -4.0], requires_grad=True)
    usage_entropy(logits.softmax(-1).expand(1, 5, 3)).backward()
    assert logits.grad[2] < 0 < logits.grad[0]


def test_boundary_loss_equals_a_loop() -> None:
    torch.manual_seed(0)
    b, t, h, w = 2, 2, 3, 4
    p = torch.randn(b, t, h, w, 3, dtype=FLOAT).softmax(-1)
    f = torch.randn(b, t, h, w, 5, dtype=FLOAT)
    padding = torch.rand(b, t, h, w) < 0.2
    values = []
    for index in np.ndindex(b, t, h, w):
        for axis in (1, 2, 3):
            other = tuple(i + (a == axis) for a, i in enumerate(index))
            if other[axis] >= (b, t, h, w)[axis] or padding[index] or padding[other]:
                continue
            cosine = float(torch.cosine_similarity(f[index], f[other], dim=0))
            values.append(math.exp((cosine - 1) / 0.5) * float((p[index] - p[other]).square().sum()) / 2)
    flat = [x.flatten(1, 3) for x in (p, f, padding)]
    assert close(boundary_loss(flat[0], flat[1], (t, h, w), flat[2], temperature=0.5), float(np.mean(values)))


def test_boundary_loss_lets_boundaries_follow_the_features() -> None:
    """Two halves of different features: a boundary between them is free, one inside a half is not."""
    f = torch.zeros(1, 1, 4, 4, 2)
    f[..., :2, 0] = 1
    f[..., 2:, 1] = 1
    at_edge, inside = torch.zeros(1, 1, 4, 4, 2), torch.zeros(1, 1, 4, 4, 2)
    at_edge[..., :2, 0] = at_edge[..., 2:, 1] = 1
    inside[..., :1, 0] = inside[..., 1:, 1] = 1
    grid = (1, 4, 4)
    flat = f.flatten(1, 3).requires_grad_()
    assert boundary_loss(at_edge.flatten(1, 3), flat, grid) < 1e-4
    assert boundary_loss(inside.flatten(1, 3), flat, grid) == pytest.approx(4 / 24, rel=1e-4)  # 4 of 24 pairs
    assert not boundary_loss(inside.flatten(1, 3), flat, grid).requires_grad
    assert boundary_loss(at_edge[:, :, :1, :1].flatten(1, 3), flat[:, :1], (1, 1, 1)) == 0


def test_saliency_loss_equals_a_loop() -> None:
    torch.manual_seed(0)
    saliency = torch.rand(3, 6, dtype=FLOAT)
    saliency[1] = 0  # no label
    assignment = torch.randn(3, 6, 4, dtype=FLOAT).softmax(-1)
    attention = torch.randn(3, 2, 4, dtype=FLOAT).softmax(-1)
    dead = torch.zeros(3, 4, dtype=torch.bool)
    dead[0, 1] = dead[2, 3] = True
    expected = []
    for b in (0, 2):
        live = [k for k in range(4) if not dead[b, k]]
        p = assignment[b].numpy()
        s = np.array([(p[:, k] * saliency[b].numpy()).sum() / p[:, k].sum() for k in live])
        a = attention[b].numpy()[:, live].mean(0)
        s, a = s / s.sum(), a / a.sum()
        expected.append(float((s * np.log(s / a)).sum()))
    assert close(saliency_loss(saliency, assignment, attention, dead), float(np.mean(expected)))


def test_saliency_loss_is_zero_when_attention_follows_and_spares_the_router() -> None:
    owner = torch.tensor([[0, 0, 1, 1, 2, 2]])
    assignment = torch.nn.functional.one_hot(owner, 4).to(FLOAT).requires_grad_()  # slot 3 is dead
    saliency = torch.tensor([[1.0, 0.0, 2.0, 2.0, 0.0, 0.0]], dtype=FLOAT)
    dead = torch.tensor([[False, False, False, True]])
    perfect = torch.tensor([[[0.1, 0.4, 0.0, 0.5]]], dtype=FLOAT)  # what goes to the dead slot does not count
    assert close(saliency_loss(saliency, assignment, perfect, dead), 0.0, 1e-9)
    logits = torch.zeros(1, 1, 4, dtype=FLOAT, requires_grad=True)
    loss = saliency_loss(saliency, assignment, logits.softmax(-1), dead)
    assert close(loss, 0.2 * math.log(0.6) + 0.8 * math.log(2.4))
    grads = torch.autograd.grad(loss, [logits, assignment], allow_unused=True)
    assert grads[1] is None
    assert grads[0][0, 0, 1] < 0 < grads[0][0, 0, 2]
    unused = torch.tensor([[False, True]])
    both = torch.cat([logits.softmax(-1), perfect * math.nan], 1)
    assert close(saliency_loss(saliency, assignment, both, dead, unused), loss)
    assert saliency_loss(saliency * 0, assignment, perfect, dead) == 0
