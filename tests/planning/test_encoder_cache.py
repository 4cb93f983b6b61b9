"""An encoder that looks back is fed frame by frame in the service, and nobody can tell by the plans."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from hnet_vjepa.checkpoint import load_checkpoint
from hnet_vjepa.data.batch import normalise_frames
from hnet_vjepa.models.hnet.encoder import Cache, LowLevelEncoder
from hnet_vjepa.planning import encoder_cache
from hnet_vjepa.planning.encoder_cache import EncoderCache, Frames
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.interface import PlanQuery
from hnet_vjepa.planning.planner import WorldModelPlanner
from tests import toy

HISTORY = 3


class Encoder:
    """A small encoder that looks back three frames, and notes how many frames it was given in each call."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.encoder = LowLevelEncoder(4, 4, (4, 8), (1, 1), (2, 3)).eval()
        assert self.encoder.history == HISTORY
        self.calls: list[tuple[int, int]] = []

    def __call__(self, clips: Frames, cache: Cache) -> tuple[torch.Tensor, ...]:
        self.calls.append(clips.shape[:2])
        return (self.whole(clips, cache),)

    @torch.no_grad()
    def whole(self, clips: Frames, cache: Cache | None = None) -> torch.Tensor:
        return self.encoder(normalise_frames(clips), cache)


def clips_of(count: int, frames: int = 12) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (count, frames, 16, 16, 3)).astype(np.uint8)


def test_only_the_newest_frame_is_encoded_and_comes_out_as_in_the_whole_clip() -> None:
    encoder, robots = Encoder(), clips_of(2)
    running, whole = EncoderCache(encoder, HISTORY), encoder.whole(robots)
    for now in range(12):
        [seen] = running.last_two([robot[: now + 1] for robot in robots])
        torch.testing.assert_close(seen, whole[:, [max(0, now - 1), now]], rtol=1e-4, atol=1e-5)
    assert encoder.calls == [(2, 1)] * 12


def test_robots_come_and_go_and_do_not_mix() -> None:
    encoder, robots = Encoder(), clips_of(3)
    running, whole = EncoderCache(encoder, HISTORY), encoder.whole(robots)
    order = np.random.default_rng(1)
    for now in range(6, 12):
        present = order.permutation(3)[: order.integers(1, 4)]
        [seen] = running.last_two([robots[i][now - HISTORY - 1 : now + 1] for i in present])
        torch.testing.assert_close(seen, whole[present][:, [now - 1, now]], rtol=1e-4, atol=1e-5)


def test_the_same_picture_after_another_past_is_another_stream() -> None:
    encoder, (one, other) = Encoder(), clips_of(2)
    other[5] = one[5]
    running = EncoderCache(encoder, HISTORY)
    running.last_two([one[:6]])
    [seen] = running.last_two([np.concatenate([other[:6], one[6:7]])])
    expected = encoder.whole(np.concatenate([other[:6], one[6:7]])[None])[:, -2:]
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)
    assert encoder.calls[-1] == (1, HISTORY + 2)


def test_a_step_that_was_left_out_is_no_stream() -> None:
    encoder, [robot] = Encoder(), clips_of(1)
    running = EncoderCache(encoder, HISTORY)
    running.last_two([robot[:6]])
    jump = np.concatenate([robot[:6], robot[7:8], robot[9:10]])
    torch.testing.assert_close(running.last_two([jump])[0], encoder.whole(jump[None])[:, -2:], rtol=1e-4, atol=1e-5)


def test_the_longest_unused_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder_cache, "CACHED_SEQUENCES", 2)
    encoder, robots = Encoder(), clips_of(3)
    running = EncoderCache(encoder, HISTORY)
    for robot in robots:
        running.last_two([robot[:6]])
    encoder.calls.clear()
    running.last_two([robots[0][:7]])
    running.last_two([robots[2][:7]])
    assert encoder.calls == [(1, HISTORY + 2), (1, 1)]


def test_plans_of_a_running_robot_are_those_of_a_planner_that_sees_it_for_the_first_time(toy_run: Path) -> None:
    checkpoint = load_checkpoint(toy_run / "action")
    frames = toy.episode(3).frames
    running, encoded = WorldModelPlanner(checkpoint), []
    backbone = checkpoint.model.backbone
    hook = backbone.register_forward_pre_hook(lambda _, inputs: encoded.append(inputs[0].shape[1]))
    window = running.card.history + 1
    try:
        for now in range(1, len(frames)):
            asked = PlanQuery(frames[max(0, now - window) : now], ImageGoal(toy.picture(24, 24)), seed=now)
            encoded.clear()
            [one] = running.plan([asked])
            assert sum(encoded) == (2 if now == 1 else 1)  # the goal picture once
            [other] = WorldModelPlanner(checkpoint).plan([asked])
            np.testing.assert_allclose(one.actions, other.actions, rtol=1e-3, atol=1e-4)
            np.testing.assert_allclose(one.energies, other.energies, rtol=1e-3, atol=1e-4)
    finally:
        hook.remove()
