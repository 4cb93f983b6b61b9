"""Disturbed scripts: as often, as hard and as long as the module says, and never beyond what a robot can be told."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from hnet_vjepa.specs import ActionSpec
from sims.core import disturbance
from sims.core.collect import record
from sims.core.disturbance import KICKS, LONGEST, NOISE, PURPOSE, disturbed, purposeful
from sims.core.seeds import episode_seed
from sims.core.task import Controller, State, Task
from sims.tasks import fetch_pick_and_place as picking
from sims.tasks import fetch_push

SPEC = ActionSpec(names=("x", "grip"), units=("m", ""), low=(-2.0, 0.0), high=(2.0, 1.0), active=(0, 1))
REST = np.array([0.0, 0.5], np.float32)


def played(seed: int, hardest: float = disturbance.HARDEST, count: int = 4000) -> np.ndarray:
    act = disturbed(lambda _: REST.copy(), SPEC, np.random.default_rng(seed))
    state: State = np.zeros(2, np.float32)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disturbance, "HARDEST", hardest)
        return np.stack([act(state) for _ in range(count)])


def test_without_kicks_an_episode_has_one_amount_of_noise_in_shares_of_the_largest_action() -> None:
    found = set()
    for seed in range(12):
        away = (played(seed, hardest=0.0) - REST) / [2.0, 0.5]
        shares = away.std(0)
        nearest = min(NOISE, key=lambda share: abs(share - shares[0]))
        np.testing.assert_allclose(shares, nearest, rtol=0.05)
        found.add(nearest)
    assert found == set(NOISE)


def test_kicks_are_as_frequent_and_as_long_as_they_should_be() -> None:
    seed = next(s for s in range(50) if np.abs(played(s, hardest=0.0) - REST).std() < 0.06)  # hardly any noise
    kicked = np.abs((played(seed) - REST) / [2.0, 0.5]).max(1) > 4 * NOISE[0]
    mean = (1 + LONGEST) / 2
    expected = KICKS * mean / (1 + KICKS * (mean - 1))  # of the actions, when a kick ends before the next can begin
    assert kicked.mean() == pytest.approx(expected, rel=0.3)


def test_actions_stay_in_bounds_and_follow_the_script() -> None:
    actions = played(3)
    assert (actions >= SPEC.low).all() and (actions <= SPEC.high).all() and actions.dtype == np.float32
    np.testing.assert_allclose(actions.mean(0), REST, atol=0.05)
    assert np.array_equal(played(3), actions) and not np.array_equal(played(4), actions)


def test_nine_of_ten_episodes_have_one_goal_and_are_disturbed() -> None:
    skill, mixture = np.array([1.0, 0.5], np.float32), np.array([-1.0, 0.5], np.float32)
    purposes, noisy = [], []
    for seed in range(500):
        act = purposeful(lambda _: lambda _: skill, lambda _: lambda _: mixture, SPEC, np.random.default_rng(seed))
        actions = np.stack([act(np.zeros(2, np.float32)) for _ in range(12)])
        purposes.append(bool(np.median(actions[:, 0]) > 0))
        noisy.append(bool(np.ptp(actions[:, 0]) > 0))
    assert np.mean(purposes) == pytest.approx(PURPOSE, abs=3 * np.sqrt(PURPOSE * (1 - PURPOSE) / 500))
    assert noisy == purposes  # a mixture brings noise of its own


@pytest.mark.parametrize(("task", "mixture"), [(fetch_push.TASK, fetch_push.mixture), (picking.TASK, picking.mixture)])
def test_in_most_episodes_an_object_is_brought_one_way(task: Task, mixture: Callable[..., Controller]) -> None:
    """The object's way is straighter than where it is brought to one place after another."""
    straight = []
    with contextlib.closing(task.open()) as simulation:
        longer = replace(task, collect_frames=32)  # enough for a mixture to do several things
        for some in (longer, replace(longer, data_policy=mixture)):
            episodes = [record(some, simulation, episode_seed("collect", 7, i), i) for i in range(8)]
            ways = np.stack([e.states[:, :3] for e in episodes if e.states is not None])
            length = np.linalg.norm(np.diff(ways, axis=1), axis=-1).sum(1)
            straight.append(np.median(np.linalg.norm(ways[:, -1] - ways[:, 0], axis=-1) / length))
    assert straight[0] > straight[1] + 0.1
