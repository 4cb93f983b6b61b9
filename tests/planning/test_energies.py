"""Energies of goals by closed forms, with weights other than 1 so that a missing weight shows."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from hnet_vjepa.config import PlanConfig
from hnet_vjepa.losses.state_energy import StateEnergy
from hnet_vjepa.models.state_decoder import StateDecoder
from hnet_vjepa.models.temporal_distance import TemporalDistance
from hnet_vjepa.planning.goals.label import LabelObjective
from hnet_vjepa.planning.goals.text import TextObjective

SLOTS, DIM = 3, 2
NOTHING = torch.zeros(SLOTS, dtype=torch.bool)


def states(*shape: int) -> Tensor:
    return torch.randn(*shape, SLOTS, DIM, generator=torch.Generator().manual_seed(0))


def state_energy(**weights: float) -> StateEnergy:
    torch.manual_seed(0)
    decoder = StateDecoder(DIM, SLOTS, recorded=4)
    plan = PlanConfig.model_validate({"distance": "l1", "unmatched": 1.7, **weights})
    return StateEnergy(plan, TemporalDistance(DIM, SLOTS, width=8, embedding=3), decoder)


@torch.no_grad()
@pytest.mark.parametrize(("latent", "temporal", "decoded"), [(0.4, 2.5, 0.0), (3.0, 0.0, 0.6), (0.7, 0.3, 1.9)])
def test_the_state_energy_is_the_weighted_sum_of_its_distances(latent: float, temporal: float, decoded: float) -> None:
    energy = state_energy(latent=latent, temporal_distance=temporal, decoded_state=decoded)
    [here], [goal] = states(1), states(2)[1:]
    expected = latent * float(np.abs((here - goal).numpy()).mean())
    steps = (energy.temporal_distance.embed(here) - energy.temporal_distance.embed(goal)).numpy()
    expected += temporal * float(np.sqrt((steps**2).sum()))
    assert energy.state_decoder is not None
    apart = (energy.state_decoder.linear.weight @ (here - goal).flatten()).numpy()  # the bias cancels, the scale is 1
    expected += decoded * float(np.sqrt((apart**2).sum()))
    assert float(energy(here, goal, NOTHING, NOTHING)) == pytest.approx(expected, rel=1e-5)
    known = energy(here, goal, NOTHING, NOTHING, energy.features(goal))
    assert float(known) == pytest.approx(expected, rel=1e-5)


@torch.no_grad()
def test_a_slot_that_only_one_of_two_states_has_costs_the_unmatched_distance() -> None:
    energy = state_energy(latent=0.5, temporal_distance=0.0)
    [here], [goal] = states(1), states(2)[1:]
    apart = np.abs((here - goal).numpy()).mean(1)
    only_here, neither = torch.tensor([False, True, False]), torch.tensor([True, False, False])
    found = float(energy(here, goal, NOTHING, only_here))
    assert found == pytest.approx(0.5 * (apart[0] + 1.7 + apart[2]) / 3, rel=1e-5)
    found = float(energy(here, goal, neither, neither))
    assert found == pytest.approx(0.5 * (apart[1] + apart[2]) / 2, rel=1e-5)


@pytest.mark.parametrize("wanted", [(0,), (1,), (0, 2), (0, 1, 2)])
def test_the_label_energy_is_the_mean_over_the_wanted_labels(wanted: tuple[int, ...]) -> None:
    """Minus the mean log probability, so that goals of one and of several labels are on one scale."""
    logits = torch.tensor([[1.5, -0.4, 0.3], [-2.0, 0.8, 4.0]])  # of two candidates
    chosen = torch.tensor([[float(label in wanted) for label in range(3)]])
    objective = LabelObjective(lambda read: logits, chosen)
    x = states(1, 2)
    p = 1 / (1 + np.exp(-logits.numpy().astype(np.float64)))
    expected = [-np.mean([np.log(p[n, label]) for label in wanted]) for n in range(2)]
    np.testing.assert_allclose(objective(x, x)[0].numpy(), expected, rtol=1e-5)
    assert objective.reached(x, x)[0].tolist() == [all(p[n, label] > 0.5 for label in wanted) for n in range(2)]


def test_the_label_energy_of_each_query_is_of_its_own_labels() -> None:
    logits = torch.tensor([[1.0, -1.0], [1.0, -1.0]])  # the same state for two queries
    objective = LabelObjective(lambda read: logits, torch.tensor([[1.0, 0.0], [0.0, 1.0]]))
    x = states(2, 1)
    np.testing.assert_allclose(objective(x, x)[:, 0], np.log1p(np.exp([-1.0, 1.0])), rtol=1e-5)
    assert objective.reached(x, x)[:, 0].tolist() == [True, False]


def test_the_text_energy_is_one_minus_the_cosine() -> None:
    angles = torch.tensor([0.0, np.pi / 3, np.pi])
    video = torch.stack([angles.cos(), angles.sin()], -1)[None]  # 1 x N x E
    objective = TextObjective(lambda read: video, torch.tensor([[1.0, 0.0]]), near=0.6)
    x = states(1, 3)
    np.testing.assert_allclose(objective(x, x)[0], [0.0, 0.5, 2.0], atol=1e-6)
    assert objective.reached(x, x)[0].tolist() == [True, True, False]
