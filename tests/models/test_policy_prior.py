"""The policy prior: its loss by brute force, what it learns on a known robot, and its samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hnet_vjepa.data.batch import ClipSampler, normalise_frames
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.losses.policy_prior import policy_prior_loss
from hnet_vjepa.models.policy_prior import PolicyPrior, sample_prior


def make() -> PolicyPrior:
    torch.manual_seed(0)
    return PolicyPrior(state_dim=3, slots=2, action_dim=2, width=16)


def test_the_loss_is_the_weighted_negative_log_likelihood_of_every_action_but_the_first() -> None:
    policy_prior, states, actions, hindsight_goal = (
        make(),
        torch.randn(3, 5, 2, 3),
        torch.randn(3, 4, 2),
        torch.randn(3, 2, 3),
    )
    terms = []
    for b in range(3):
        for t in range(1, 4):  # the action from frame t to frame t + 1
            mean, log_std = policy_prior(states[b, t], states[b, t - 1], actions[b, t - 1], hindsight_goal[b])
            likelihood = torch.distributions.Normal(mean, log_std.exp()).log_prob(actions[b, t])
            terms.append((-likelihood - 0.5 * torch.log(torch.tensor(2 * torch.pi))) * log_std.exp() ** 2)
    expected = torch.cat(terms).mean()
    torch.testing.assert_close(policy_prior_loss(policy_prior, states, actions, hindsight_goal), expected)


def test_what_is_certain_counts_no_more_than_the_rest() -> None:
    """The mean is pulled by its error alone, the deviation still towards what the likelihood says."""
    mean = torch.tensor([[[0.5], [0.5]]], requires_grad=True)
    log_std = torch.tensor([[[-2.0], [0.0]]], requires_grad=True)
    states, hindsight_goal = torch.zeros(1, 4, 1, 1), torch.zeros(1, 1, 1)
    fixed: Any = lambda *_: (mean, log_std)  # noqa: E731
    policy_prior_loss(fixed, states, torch.zeros(1, 3, 1), hindsight_goal).backward()
    assert mean.grad is not None and log_std.grad is not None
    torch.testing.assert_close(mean.grad, torch.full_like(mean, 0.5 / 2))  # of two actions
    assert log_std.grad[0, 0] < 0 < log_std.grad[0, 1]  # it errs by more than e^-2, and by less than 1


def test_it_is_followed_through_what_the_dynamics_makes_of_it() -> None:
    policy_prior, goal, noise = make(), torch.randn(4, 2, 3), torch.randn(4, 3, 2)
    state, prev_state, prev_action = torch.randn(4, 2, 3), torch.randn(4, 2, 3), torch.randn(4, 2)

    def dynamics(state: Tensor, prev_state: Tensor, prev_action: Tensor, action: Tensor) -> Tensor:
        return state + 0.1 * (state - prev_state) + action.sum(-1)[:, None, None] - prev_action.mean()

    actions = sample_prior(policy_prior, dynamics, state, prev_state, prev_action, goal, noise)
    for h in range(3):
        mean, log_std = policy_prior(state, prev_state, prev_action, goal)
        torch.testing.assert_close(actions[:, h], mean + log_std.exp() * noise[:, h])
        state, prev_state, prev_action = dynamics(state, prev_state, prev_action, actions[:, h]), state, actions[:, h]


def test_it_learns_the_way_to_a_goal() -> None:
    """A point that moves by its actions, in episodes that go straight somewhere: the way is goal minus place."""
    torch.manual_seed(0)
    policy_prior = PolicyPrior(state_dim=2, slots=1, action_dim=2, width=64)
    optimizer = torch.optim.Adam(policy_prior.parameters(), lr=3e-3)
    for _ in range(300):
        start, goal = torch.rand(64, 1, 2), torch.rand(64, 1, 2)
        way = (goal - start) / 4
        states = start[:, None] + way[:, None] * torch.arange(5)[None, :, None, None]  # B x 5 x 1 x 2
        actions = way.expand(-1, 4, -1)
        loss = policy_prior_loss(policy_prior, states, actions, goal)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    here, there = torch.tensor([[[0.2, 0.5]]]), torch.tensor([[[0.8, 0.1]]])
    mean, _ = policy_prior(here, here - torch.tensor([0.1, -0.1]), torch.tensor([[0.1, -0.1]]), there)
    assert torch.nn.functional.cosine_similarity(mean, (there - here)[:, 0]).item() > 0.9


@pytest.mark.parametrize("split", ["train", "held_out"])
def test_the_later_frame_of_a_clip_is_of_its_own_episode_and_not_before_its_end(toy_store: Path, split: str) -> None:
    store = EpisodeStore(toy_store)
    sampler = ClipSampler(
        store, store.info.action.normalised_by(store.episodes[0].actions), split, 4, seed=3, hindsight=True
    )  # type: ignore[arg-type]
    numbers = list(range(0, len(sampler), max(1, len(sampler) // 30)))
    batch = sampler.clips(numbers)
    again = sampler.clips(numbers)
    torch.testing.assert_close(batch.hindsight_goal, again.hindsight_goal, rtol=0, atol=0)
    places = []
    for number, hindsight_goal in zip(numbers, batch.hindsight_goal, strict=True):
        episode = max(i for i, first in enumerate(sampler.starts[:-1]) if first <= number)
        end = number - int(sampler.starts[episode]) + 3
        rest = normalise_frames(sampler.episodes[episode].frames[end:])
        equal = [(frame == hindsight_goal[0]).all().item() for frame in rest]
        assert any(equal)
        places.append(equal.index(True) / max(1, len(rest) - 1))
    if split == "train":
        assert min(places) < 0.2 and max(places) > 0.8  # spread over what is left
