import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnet_vjepa.losses.contrastive import nt_xent
from hnet_vjepa.losses.energy import Distance, distance, energy, text_energy


def test_distances_against_numpy() -> None:
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(5, 7)), rng.normal(size=(5, 7))
    expected = {
        "l1": np.abs(x - y).mean(1),
        "l2": ((x - y) ** 2).mean(1),
        "cosine": 1 - (x * y).sum(1) / np.linalg.norm(x, axis=1) / np.linalg.norm(y, axis=1),
        "smooth_l1": np.where(np.abs(x - y) < 1, (x - y) ** 2 / 2, np.abs(x - y) - 0.5).mean(1),
    }
    for kind, value in expected.items():
        got = distance(torch.from_numpy(x), torch.from_numpy(y), kind)  # type: ignore[arg-type]
        np.testing.assert_allclose(got.numpy(), value, rtol=1e-10)


@given(st.lists(st.tuples(st.booleans(), st.booleans(), st.floats(0.1, 3)), min_size=1, max_size=6))
def test_energy_is_the_weighted_mean_over_slots_valid_somewhere(slots: list[tuple[bool, bool, float]]) -> None:
    torch.manual_seed(len(slots))
    x, y = torch.randn(len(slots), 4), torch.randn(len(slots), 4)
    x_mask = torch.tensor([s[0] for s in slots])
    y_mask = torch.tensor([s[1] for s in slots])
    weights = torch.tensor([s[2] for s in slots])
    total = weight = 0.0
    for i, (a, b, w) in enumerate(slots):
        if a and b:
            continue
        cost = 5.0 if a != b else float((x[i] - y[i]).abs().mean())
        total, weight = total + w * cost, weight + w
    expected = total / weight if weight else 0.0
    assert float(energy(x, y, "l1", x_mask, y_mask, weights, unmatched=5.0)) == pytest.approx(expected, abs=1e-5)


def test_energy_is_zero_only_for_equal_chunks_and_symmetric() -> None:
    x, y = torch.randn(3, 4, 5), torch.randn(3, 4, 5)
    assert energy(x, x, "l1").abs().max() == 0
    torch.testing.assert_close(energy(x, y, "l1"), energy(y, x, "l1"))
    assert (energy(x, y, "l1") > 0).all()


def test_text_energy_is_half_the_squared_distance() -> None:
    x, y = (torch.nn.functional.normalize(torch.randn(6, 8), dim=-1) for _ in range(2))
    torch.testing.assert_close(text_energy(x, y), (x - y).square().sum(-1) / 2)


def test_nt_xent_with_one_answer_is_cross_entropy_both_ways() -> None:
    torch.manual_seed(0)
    x, y = (torch.nn.functional.normalize(torch.randn(6, 8), dim=-1) for _ in range(2))
    logits = x @ y.T / 0.1
    target = torch.arange(6)
    expected = (
        torch.nn.functional.cross_entropy(logits, target) + torch.nn.functional.cross_entropy(logits.T, target)
    ) / 2
    torch.testing.assert_close(nt_xent(x, y, 0.1, torch.eye(6, dtype=torch.bool)), expected)


def test_a_second_right_answer_is_not_punished() -> None:
    """Two clips at the left and one at the right: the best embedding puts the two lefts together."""
    positives = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)
    left, right = torch.tensor([1.0, 0.0]), torch.tensor([-1.0, 0.0])
    together = torch.stack([left, left, right])
    apart = torch.stack([left, torch.tensor([0.0, 1.0]), right])
    assert nt_xent(together, together, 0.1, positives) < nt_xent(apart, apart, 0.1, positives)
    only_one = nt_xent(together, together, 0.1, torch.eye(3, dtype=torch.bool))
    assert only_one >= nt_xent(together, together, 0.1, positives) - 1e-6


@pytest.mark.parametrize("kind", ["l1", "smooth_l1", "l2", "cosine"])
def test_what_is_broadcast_costs_as_if_it_were_copied(kind: Distance) -> None:
    torch.manual_seed(0)
    x, y = torch.randn(2, 5, 3, 4), torch.randn(2, 1, 3, 4)
    x_mask, y_mask = torch.rand(2, 1, 3) < 0.3, torch.rand(2, 1, 3) < 0.3
    whole = [y.expand_as(x), x_mask.expand(2, 5, 3), y_mask.expand(2, 5, 3)]
    assert torch.equal(energy(x, y, kind, x_mask, y_mask), energy(x, whole[0], kind, *whole[1:]))
