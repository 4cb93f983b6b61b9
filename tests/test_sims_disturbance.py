"""Disturbed scripts: as often, as hard and as long as the module says, and never beyond what a robot can be told."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from hnet_vjepa.specs import ActionSpec
from sims import disturbance
from sims.collect import record
from sims.disturbance import KICKS, LONGEST, NOISE, disturbed
from sims.registry import TASKS
from sims.seeds import episode_seed
from sims.task import State

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


def test_most_episodes_of_a_pushing_task_have_one_goal() -> None:
    """The data policy brings the cube farther than it does in the episodes that go on to something else."""
    task = TASKS["fetch-push"]
    with contextlib.closing(task.open()) as simulation:
        episodes = [record(task, simulation, episode_seed("collect", 7, i), i) for i in range(8)]
    moved = [float(np.linalg.norm(e.states[-1, :2] - e.states[0, :2])) for e in episodes if e.states is not None]
    assert np.median(moved) > 0.08
