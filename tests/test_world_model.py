import torch

from hnet_vjepa.models.world_model import CrossAttentionFuser, Dynamics, InverseDynamics, rollout


def make() -> Dynamics:
    torch.manual_seed(0)
    dynamics = Dynamics(8, 4, 3, 16, 1, 2)
    with torch.no_grad():
        dynamics.change.weight.normal_(std=0.1)
    return dynamics


def test_it_starts_as_nothing_moves() -> None:
    dynamics = Dynamics(8, 4, 3, 16, 1, 2)
    state = torch.randn(5, 4, 8)
    assert torch.equal(dynamics(state, torch.randn(5, 3)), state)


def test_a_rollout_is_its_steps_one_after_another() -> None:
    dynamics, state, actions = make(), torch.randn(5, 4, 8), torch.randn(5, 3, 3)
    imagined = rollout(dynamics, state, actions)
    assert imagined.shape == (5, 3, 4, 8)
    for step in range(3):
        state = dynamics(state, actions[:, step])
        torch.testing.assert_close(imagined[:, step], state)


def test_the_first_action_changes_all_later_states_and_the_last_only_the_last() -> None:
    dynamics, state, actions = make(), torch.randn(1, 4, 8), torch.randn(1, 3, 3)
    changed = actions.clone()
    changed[:, 2] += 1
    before, after = rollout(dynamics, state, actions), rollout(dynamics, state, changed)
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2])


def test_slots_take_different_things_from_the_action() -> None:
    torch.manual_seed(0)
    fuser = CrossAttentionFuser(16, 2, 3)
    slots, action = torch.randn(1, 4, 16), torch.randn(1, 3)
    taken = fuser(slots, action) - slots
    assert torch.cdist(taken[0], taken[0]).add(torch.eye(4)).min() > 1e-4
    assert not torch.allclose(fuser(slots, action), fuser(slots, action + 1))


def test_every_weight_gets_gradient_through_a_rollout() -> None:
    dynamics = make()
    imagined = rollout(dynamics, torch.randn(2, 4, 8), torch.randn(2, 3, 3))
    (imagined * torch.randn_like(imagined)).sum().backward()
    assert [n for n, p in dynamics.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_inverse_dynamics_takes_any_leading_shape() -> None:
    inverse = InverseDynamics(8, 4, 3, 16)
    a, b = torch.randn(2, 5, 4, 8), torch.randn(2, 5, 4, 8)
    out = inverse(a, b)
    assert out.shape == (2, 5, 3)
    torch.testing.assert_close(out[1, 2], inverse(a[1, 2], b[1, 2]))
