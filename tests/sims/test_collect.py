"""Collecting: the same bytes however it is done, and data that mean what they say."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.errors import UserError
from sims.core.collect import collect, record
from sims.core.language import HELD_OUT_TEMPLATES, LABELS, motion_labels, position_labels
from sims.core.registry import get_task
from sims.core.seeds import domain_of, episode_seed, generator
from sims.core.task import scatter
from sims.tasks import fetch_reach

TASK = fetch_reach.TASK
EPISODES = 27  # two shards, the second one short


@pytest.fixture(scope="module")
def robot() -> Iterator[fetch_reach.FetchReach]:
    simulation = fetch_reach.FetchReach()
    yield simulation
    simulation.close()


@pytest.fixture(scope="module")
def collected(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return collect("fetch-reach", EPISODES, 7, tmp_path_factory.mktemp("data") / "one", workers=1, progress=False)


def hashes(store: Path) -> dict[str, str]:
    return {
        str(file.relative_to(store)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(store.rglob("*"))
        if file.is_file()
    }


@pytest.mark.slow
def test_two_workers_write_the_same_bytes_as_one_and_a_lost_shard_comes_back(collected: Path, tmp_path: Path) -> None:
    expected = hashes(collected)
    assert hashes(collect("fetch-reach", EPISODES, 7, tmp_path / "two", workers=2, progress=False)) == expected
    shutil.rmtree(tmp_path / "two" / "shards" / "00000")
    kept = (tmp_path / "two" / "shards" / "00001" / "frames.npy").stat().st_mtime_ns
    with pytest.raises(UserError, match="half-written"):
        EpisodeStore(tmp_path / "two")
    collect("fetch-reach", EPISODES, 7, tmp_path / "two", workers=1, progress=False)
    assert hashes(tmp_path / "two") == expected
    assert (tmp_path / "two" / "shards" / "00001" / "frames.npy").stat().st_mtime_ns == kept


def test_another_seed_gives_other_episodes(collected: Path, robot: fetch_reach.FetchReach) -> None:
    first = EpisodeStore(collected).episodes[0]
    other = record(TASK, robot, episode_seed("collect", 8, 0), 0)
    assert not np.array_equal(first.frames, other.frames)


def test_what_is_stored(collected: Path) -> None:
    store = EpisodeStore(collected)
    assert len(store.episodes) == EPISODES
    assert [e.index for e in store.episodes] == list(range(EPISODES))
    assert store.info.settings["seed"] == 7
    assert store.info.settings["episodes"] == EPISODES
    assert store.info.settings["frames"] == TASK.collect_frames
    assert store.info.labels == LABELS
    actions = np.concatenate([e.actions for e in store.episodes])
    assert actions.shape[1] == 7
    assert np.abs(actions[:, :3]).max() <= 0.05
    assert (actions[:, 3:] == 0).all()
    assert (actions[:, :3].std(0) > 0.02).all()
    states = np.concatenate([e.states for e in store.episodes if e.states is not None])
    assert (states > fetch_reach.LOW - 0.04).all()  # the noise leads out of the box, but not out of the picture
    assert (states < fetch_reach.HIGH + 0.04).all()
    assert all(domain_of(e.seed) == "collect" for e in store.episodes)


def test_actions_lead_from_each_frame_to_the_next(collected: Path, robot: fetch_reach.FetchReach) -> None:
    episode = EpisodeStore(collected).episodes[26]
    assert episode.states is not None
    robot.reset()
    scatter(TASK, robot, generator(episode.seed))
    np.testing.assert_array_equal(robot.state(), episode.states[0])
    for t, action in enumerate(episode.actions):
        robot.step(action)
        np.testing.assert_array_equal(robot.state(), episode.states[t + 1])
        np.testing.assert_array_equal(robot.frame(), episode.frames[t + 1])
    moved = np.diff(episode.states, axis=0)
    asked = episode.actions[:, :3]
    large = np.abs(asked) > 0.02
    assert (np.sign(moved[large]) == np.sign(asked[large])).mean() > 0.95


def test_labels_and_captions_follow_the_state(collected: Path) -> None:
    for episode in EpisodeStore(collected).episodes[:10]:
        assert episode.states is not None
        assert episode.labels is not None
        places = [TASK.place(state) for state in episode.states]
        for t, (labels, captions) in enumerate(zip(episode.labels, episode.captions, strict=True)):
            named = {name for name, holds in zip(LABELS, labels, strict=True) if holds}
            expected = {*position_labels(places[t]), *motion_labels(places[t - 1] if t else None, places[t])}
            assert named == expected
            assert len(captions) >= 2
            for opposite, word in (("left", "right"), ("right", "left"), ("low", "upper"), ("high", "lower")):
                if opposite in named:
                    assert all(word not in sentence for sentence in captions[:2])
            if "left" in named:
                column, _, _ = fetch_reach.VIEW.project(episode.states[t], 64, 64)
                assert column < 32
                assert all("left" in sentence for sentence in captions[:2])
            if "moving-up" in named and t:
                row = fetch_reach.VIEW.project(episode.states[t - 1 : t + 1], 64, 64)[:, 1]
                assert row[1] < row[0]
                assert "up" in captions[2]


def test_phrasings_kept_for_evaluation_are_not_collected(collected: Path) -> None:
    said = {s for e in EpisodeStore(collected).episodes for captions in e.captions for s in captions}
    starts = [template.split("{place}")[0] for template in HELD_OUT_TEMPLATES]
    assert not [s for s in said if any(s.startswith(start) for start in starts)]


def test_saved_states_are_restored_exactly(robot: fetch_reach.FetchReach) -> None:
    rng = np.random.default_rng(0)
    actions = np.zeros((15, 7), np.float32)
    actions[:, :3] = rng.uniform(-0.05, 0.05, (15, 3))
    robot.reset()
    for action in actions[:5]:
        robot.step(action)
    saved = robot.save()

    def play() -> tuple[np.ndarray, np.ndarray]:
        states, frames = [robot.state()], [robot.frame()]
        for action in actions[5:]:
            robot.step(action)
            states.append(robot.state())
            frames.append(robot.frame())
        return np.stack(states), np.stack(frames)

    first = play()
    robot.reset()
    robot.step(actions[0])
    robot.restore(saved)
    second = play()
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])


def test_the_step_is_gymnasiums_step(robot: fetch_reach.FetchReach) -> None:
    import gymnasium

    env = gymnasium.make("FetchReach-v4").unwrapped
    env.reset(seed=0)
    robot.reset()
    rng = np.random.default_rng(1)
    for _ in range(8):
        move = rng.uniform(-1, 1, 3)
        robot.step(np.array([*(0.05 * move), 0, 0, 0, 0], np.float32))
        observation, *_ = env.step(np.array([*move, 0], np.float32))
        np.testing.assert_allclose(robot.state(), observation["achieved_goal"], atol=1e-6)
    env.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("fetch-slide", 5, 0), "unknown task 'fetch-slide'; choose one of: fetch-reach"),
        (("fetch-reach", 0, 0), "episodes is 0"),
        (("fetch-reach", 5, -1), "seed -1 is out of range"),
    ],
)
def test_bad_input(arguments: tuple[str, int, int], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        collect(*arguments, tmp_path / "x", progress=False)
    with pytest.raises(UserError, match="workers is 0"):
        collect("fetch-reach", 5, 0, tmp_path / "x", workers=0, progress=False)


def test_registry() -> None:
    assert get_task("fetch-reach") is TASK
