"""The peer with equal training time: its clips, its training, and plans that are executed open loop."""

import itertools
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch

from benchmarks.planner.peer import Peer, PlainSearch
from benchmarks.planner.trained_peer import PeerPolicy, clips_of, train_peer
from hnet_vjepa.data.batch import ClipSampler, normalise_actions, normalise_frames
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.specs import ActionSpec
from sims.evaluation.policies import Observation
from tests import toy
from tests.benchmarks.square import TINY


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> EpisodeStore:
    return EpisodeStore(toy.make_store(tmp_path_factory.mktemp("toy") / "data", frames=20))


def spec_of(store: EpisodeStore) -> ActionSpec:
    return toy.SPEC.normalised_by(np.concatenate([e.actions for e in store.split("train")]))


def test_clips_have_images_five_steps_apart_and_all_actions_between_them(store: EpisodeStore) -> None:
    spec = spec_of(store)
    sampler = ClipSampler(store, spec, "train", 16, seed=0)
    video, blocks = next(clips_of(sampler, 3))
    assert video.shape[:2] == (3, 4) and blocks.shape == (3, 3, 10)
    for clip in range(3):
        found = [
            (e, t)
            for e in store.episodes
            for t in range(len(e) - 15)
            if torch.equal(normalise_frames(e.frames[t : t + 16 : 5]), video[clip])
            and np.allclose(normalise_actions(e.actions[t : t + 15], spec).reshape(3, 10), blocks[clip])
        ]
        assert found


def test_it_learns(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(monotonic=itertools.count().__next__)  # a second passes with every step
    monkeypatch.setattr("benchmarks.planner.trained_peer.time", clock)
    torch.manual_seed(3)
    before = torch.rand(2)
    torch.manual_seed(3)
    peer, losses = train_peer(store, spec_of(store), 20.0, 8, lambda dim: Peer(dim, TINY))
    assert torch.equal(torch.rand(2), before)  # the caller's random state is kept
    assert len(losses) == 21 and not peer.training
    assert np.mean(losses[-5:]) < np.mean(losses[:5])


def test_a_plan_is_executed_open_loop_before_the_next_one(store: EpisodeStore, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    plan = torch.arange(50.0).view(5, 10) / 10 - 2.5

    class FixedPlan:
        def plan(self, now: Any, there: Any, horizon: int, search: PlainSearch, seed: int) -> torch.Tensor:
            assert now.shape == there.shape == (3, 224, 224) and horizon == 5
            asked.append(seed)
            return plan

    spec = spec_of(store)
    policy = PeerPolicy(cast(Peer, FixedPlan()), spec)
    act = policy.begin(cast(Any, SimpleNamespace(index=2, goal=ImageGoal(toy.picture(9, 9)))))
    seen = Observation(toy.picture(20, 20)[None], np.zeros(2, np.float32))
    decisions = [act(seen) for _ in range(26)]
    assert asked == [2000, 2001]
    assert [d.plan_ms is not None for d in decisions] == [True] + [False] * 24 + [True]
    wanted = plan.view(25, 2).numpy() * np.array(spec.std) + np.array(spec.mean)
    done = np.array([d.action for d in decisions[:25]])
    np.testing.assert_allclose(done[:, :2], wanted.clip(-3, 3), rtol=1e-5, atol=1e-5)
    assert not done[:, 2:].any()
