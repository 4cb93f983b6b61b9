import pytest
import torch

from hnet_vjepa.config import WorldModelConfig
from hnet_vjepa.models.prefix_dynamics import PrefixDynamics
from hnet_vjepa.models.world_model import (
    CrossAttentionFuser,
    Dynamics,
    FlatDynamics,
    InverseDynamics,
    WorldModel,
    rollout,
)

KINDS = ("transformer", "flat", "prefix")
STEPWISE = ("transformer", "flat")
SPAN = 4  # longer than the rollouts that are common to all kinds

AnyDynamics = Dynamics | FlatDynamics | PrefixDynamics


def fresh(kind: str) -> AnyDynamics:
    torch.manual_seed(0)
    if kind == "prefix":
        return PrefixDynamics(8, 4, 3, 16, 2, SPAN)
    return Dynamics(8, 4, 3, 16, 1, 2) if kind == "transformer" else FlatDynamics(8, 4, 3, 16, 2)


def make(kind: str) -> AnyDynamics:
    dynamics = fresh(kind)
    with torch.no_grad():
        dynamics.change.weight.normal_(std=0.1)
    return dynamics


@pytest.mark.parametrize("kind", KINDS)
def test_it_starts_as_nothing_moves(kind: str) -> None:
    state = torch.randn(5, 4, 8)
    assert torch.equal(fresh(kind)(state, torch.randn(5, 4, 8), torch.randn(5, 3), torch.randn(5, 3)), state)


@pytest.mark.parametrize("kind", STEPWISE)
def test_a_rollout_is_its_steps_one_after_another(kind: str) -> None:
    dynamics, state, prev_state, actions = make(kind), torch.randn(5, 4, 8), torch.randn(5, 4, 8), torch.randn(5, 3, 3)
    prev_action = torch.randn(5, 3)
    imagined = rollout(dynamics, state, prev_state, prev_action, actions)
    assert imagined.shape == (5, 3, 4, 8)
    for step in range(3):
        state, prev_state, prev_action = (
            dynamics(state, prev_state, prev_action, actions[:, step]),
            state,
            actions[:, step],
        )
        torch.testing.assert_close(imagined[:, step], state)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_action_changes_all_later_states_and_the_last_only_the_last(kind: str) -> None:
    dynamics, state, prev_state, actions = make(kind), torch.randn(1, 4, 8), torch.randn(1, 4, 8), torch.randn(1, 3, 3)
    changed, prev_action = actions.clone(), torch.randn(1, 3)
    changed[:, 2] += 1
    one, other = (rollout(dynamics, state, prev_state, prev_action, done) for done in (actions, changed))
    assert torch.equal(one[:, :2], other[:, :2])
    assert not torch.allclose(one[:, 2], other[:, 2])


def test_one_pass_gives_what_each_prefix_of_the_actions_gives_alone() -> None:
    dynamics, state, prev_state, actions = (
        make("prefix"),
        torch.randn(5, 4, 8),
        torch.randn(5, 4, 8),
        torch.randn(5, 4, 3),
    )
    prev_action = torch.randn(5, 3)
    imagined = rollout(dynamics, state, prev_state, prev_action, actions)
    assert imagined.shape == (5, SPAN, 4, 8)
    torch.testing.assert_close(imagined[:, 0], dynamics(state, prev_state, prev_action, actions[:, 0]))
    for count in range(1, SPAN + 1):
        torch.testing.assert_close(
            rollout(dynamics, state, prev_state, prev_action, actions[:, :count]), imagined[:, :count]
        )


@pytest.mark.parametrize("row", range(7))
def test_an_action_changes_the_states_from_it_on_and_none_before(row: int) -> None:
    """By gradients: exactly zero before the action, and something for every state after it, spans or not."""
    dynamics, actions = make("prefix"), torch.randn(1, 7, 3, requires_grad=True)
    state, prev_state, prev_action = torch.randn(1, 4, 8), torch.randn(1, 4, 8), torch.randn(1, 3)
    imagined = rollout(dynamics, state, prev_state, prev_action, actions)
    (gradient,) = torch.autograd.grad(imagined[0, row].square().sum(), actions)
    moved = gradient[0].abs().sum(1) > 0
    assert moved.tolist() == [k <= row for k in range(7)]


def test_what_is_longer_than_a_span_goes_on_from_the_last_imagined_states() -> None:
    dynamics, state, prev_state = make("prefix"), torch.randn(2, 4, 8), torch.randn(2, 4, 8)
    prev_action, actions = torch.randn(2, 3), torch.randn(2, 2 * SPAN + 1, 3)
    whole = rollout(dynamics, state, prev_state, prev_action, actions)
    assert whole.shape == (2, 2 * SPAN + 1, 4, 8)
    for start in (SPAN, 2 * SPAN):
        rest = rollout(dynamics, whole[:, start - 1], whole[:, start - 2], actions[:, start - 1], actions[:, start:])
        torch.testing.assert_close(whole[:, start:], rest)
    single = PrefixDynamics(8, 4, 3, 16, 2, 1)  # with a span of 1 it is one step after another
    torch.nn.init.normal_(single.change.weight, std=0.1)
    imagined = rollout(single, state, prev_state, prev_action, actions)
    for step in range(3):
        state, prev_state, prev_action = (
            single(state, prev_state, prev_action, actions[:, step]),
            state,
            actions[:, step],
        )
        torch.testing.assert_close(imagined[:, step], state)


def test_a_prefix_is_as_long_as_what_training_shows() -> None:
    world = WorldModel(16, 4, 3, WorldModelConfig(state_dim=8, dynamics="prefix", flat_width=16), 5)
    assert isinstance(world.dynamics, PrefixDynamics) and world.dynamics.span == 5


@pytest.mark.parametrize("kind", KINDS)
def test_the_motion_so_far_counts(kind: str) -> None:
    dynamics, state, action = make(kind), torch.randn(1, 4, 8), torch.randn(1, 3)
    still = dynamics(state, state, action, action)
    assert not torch.allclose(still, dynamics(state, state - 1, action, action))
    assert not torch.allclose(still, dynamics(state, state, action + 1, action))


@pytest.mark.parametrize("kind", KINDS)
def test_every_weight_gets_gradient_through_a_rollout(kind: str) -> None:
    dynamics = make(kind)
    imagined = rollout(dynamics, torch.randn(2, 4, 8), torch.randn(2, 4, 8), torch.randn(2, 3), torch.randn(2, 4, 3))
    (imagined * torch.randn_like(imagined)).sum().backward()
    assert [n for n, p in dynamics.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_slots_take_different_things_from_the_action() -> None:
    torch.manual_seed(0)
    fuser = CrossAttentionFuser(16, 2, 3)
    slots, action = torch.randn(1, 4, 16), torch.randn(1, 3)
    taken = fuser(slots, action) - slots
    assert torch.cdist(taken[0], taken[0]).add(torch.eye(4)).min() > 1e-4
    assert not torch.allclose(fuser(slots, action), fuser(slots, action + 1))


def test_inverse_dynamics_takes_any_leading_shape() -> None:
    inverse = InverseDynamics(8, 4, 3, 16)
    a, b, c = torch.randn(3, 2, 5, 4, 8)
    out = inverse(a, b, c)
    assert out.shape == (2, 5, 3)
    torch.testing.assert_close(out[1, 2], inverse(a[1, 2], b[1, 2], c[1, 2]))
    assert not torch.allclose(out, inverse(a + 1, b, c))  # the motion before counts
