"""Checkpoints of format 1 are migrated or refused, never loaded as they are."""

from __future__ import annotations

import pytest
import torch

from hnet_vjepa.errors import UserError
from hnet_vjepa.migration import FIRST_LAYER, current_module, is_format_1, rename_fields, upgrade_weights
from hnet_vjepa.models.policy_prior import PolicyPrior

SLOTS, DIM, ACTIONS = 3, 2, 2
PLACES = SLOTS * DIM
OLD_LAYER = "world_model.proposal.mlp.0.weight"


@torch.no_grad()
def test_the_migrated_policy_prior_reads_what_the_old_one_read() -> None:
    """The old input had state, change and goal of a slot side by side; the same weights must give the same numbers."""
    torch.manual_seed(0)
    prior = PolicyPrior(DIM, SLOTS, ACTIONS, width=8)
    old = torch.randn(8, 3 * PLACES + ACTIONS)
    state, before, goal = torch.randn(3, 5, SLOTS, DIM)
    action = torch.randn(5, ACTIONS)
    read = torch.cat([torch.cat([state, state - before, goal], -1).flatten(1), action], -1)  # slot by slot
    first = prior.mlp[0]
    assert isinstance(first, torch.nn.Linear)
    expected = (read @ old.T + first.bias,)
    upgraded = upgrade_weights({OLD_LAYER: old}, SLOTS, DIM, exported=False)
    first.weight.copy_(upgraded[FIRST_LAYER])
    seen: list[torch.Tensor] = []
    first.register_forward_hook(lambda module, inputs, output: seen.append(output))
    prior(state, before, action, goal)
    torch.testing.assert_close(seen[0], *expected)


def test_weights_with_a_whitening_have_the_new_order_already() -> None:
    old = torch.randn(8, 3 * PLACES + ACTIONS)
    weights = {OLD_LAYER: old, "world_model.proposal.whitening.mean": torch.zeros(PLACES)}
    assert is_format_1(weights)
    upgraded = upgrade_weights(weights, SLOTS, DIM, exported=False)
    assert torch.equal(upgraded[FIRST_LAYER], old) and not is_format_1(upgraded)


def test_an_exported_checkpoint_of_format_1_is_refused() -> None:
    with pytest.raises(UserError, match="export its training checkpoint again"):
        upgrade_weights({OLD_LAYER: torch.zeros(1, 1)}, SLOTS, DIM, exported=True)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("gauge.linear.weight", "state_decoder.linear.weight"),
        ("world_model.steps.mlp.0.bias", "world_model.temporal_distance.mlp.0.bias"),
        ("world_model.stepsize", "world_model.stepsize"),
        ("backbone.gauge.weight", "backbone.gauge.weight"),
    ],
)
def test_modules_are_renamed_by_whole_names(old: str, new: str) -> None:
    assert current_module(old) == new


def test_fields_are_renamed_where_they_belong_and_reported() -> None:
    values = {"plan": {"steps": 2.0, "latent": 1.0}, "action": {"steps": 5}, "grounding": {"keep": 0.5}}
    renamed, found = rename_fields(values, "x")
    assert renamed == {
        "plan": {"temporal_distance": 2.0, "latent": 1.0},
        "action": {"steps": 5},
        "encoder_adaptation": {"distillation": 0.5},
    }
    assert ("plan.steps", "plan.temporal_distance") in found and ("grounding", "encoder_adaptation") in found
    with pytest.raises(UserError, match=r"plan\.habit is the old name of plan\.behaviour_prior; give only one"):
        rename_fields({"plan": {"habit": 1, "behaviour_prior": 2}}, "x")
