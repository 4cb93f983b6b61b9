"""Sentences and their opposites."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest

from benchmarks import minimal_pairs as module
from benchmarks.minimal_pairs import minimal_pairs, mirrored
from hnet_vjepa.planning.goals.text import TextGoal
from sims.core.language import opposite, position_labels
from sims.evaluation.pairs import make_pairs
from sims.evaluation.policies import Decision
from sims.evaluation.results import MethodResult, Rollout
from sims.tasks import fetch_push, fetch_reach

TASK = fetch_reach.TASK


@pytest.mark.parametrize(
    ("said", "axis", "turned"),
    [
        ("reach the upper left corner", "across", "reach the upper right corner"),
        ("reach the upper left corner", "along", "reach the lower left corner"),
        ("go to the bottom, at the back", "along", "go to the top, at the back"),
        ("reach the top centre", "along", "reach the bottom centre"),
        ("go to the centre", "across", "go to the centre"),
        ("high", "along", "low"),
    ],
)
def test_only_the_direction_is_exchanged(said: str, axis: str, turned: str) -> None:
    assert opposite(said, axis) == turned
    assert opposite(opposite(said, axis), axis) == said


class Leftist:
    """Goes left whatever is said, knowing where things are."""

    name = "leftist"

    def begin(self, pair: object) -> object:
        goal = fetch_reach.CENTRE - 0.11 * fetch_reach.VIEW.axes[0]
        control = TASK.controller(goal.astype(np.float32))
        return lambda seen: Decision(control(seen.state), False, None, {})


def test_who_always_goes_left_follows_no_pair() -> None:
    with contextlib.closing(fetch_reach.FetchReach()) as simulation:
        pairs = make_pairs(TASK, simulation, "dev", 0, 30, "text")
        both = mirrored(TASK, pairs, "across")
        assert len(both) >= 5
        for first, second in both:
            assert isinstance(first.goal, TextGoal) and isinstance(second.goal, TextGoal)
            assert {first.required[0], second.required[0]} == {"left", "right"}
            assert first.required[1:] == second.required[1:]
            assert not set(second.required) <= set(position_labels(TASK.place(first.start_state)))
        found = minimal_pairs(TASK, simulation, Leftist(), pairs, 4)  # type: ignore[arg-type]
    assert found["left_right"]["both"]["value"] == 0
    assert found["left_right"]["both"]["trials"] == 4 and found["left_right"]["either"]["trials"] == 8


def test_a_sentence_is_followed_when_it_is_true_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of three pairs, both sentences are true at some moment each; at the end both, the first alone, and none."""
    met = ("0011", "0001", "0111", "0110", "0100", "0010")
    rollouts = [Rollout(i, i, (0.0,) * 4, tuple((m == "1",) for m in steps), (), {}, ()) for i, steps in enumerate(met)]
    monkeypatch.setattr(module, "play", lambda *_: MethodResult("planner", tuple(rollouts)))
    monkeypatch.setattr(module, "mirrored", lambda *_: [(None, None)] * 5)
    found = minimal_pairs(TASK, None, None, [], 3)  # type: ignore[arg-type]
    for axis in ("left_right", "up_down"):
        assert (found[axis]["both"]["successes"], found[axis]["both"]["trials"]) == (1, 3)
        assert (found[axis]["either"]["successes"], found[axis]["either"]["trials"]) == (3, 6)


def test_nothing_is_asked_that_no_goal_fulfils() -> None:
    """Seen from above what is low in the picture is near: 'the top, at the back' has an opposite, but no such place."""
    task = fetch_push.TASK
    with contextlib.closing(fetch_push.FetchPush()) as simulation:
        pairs = make_pairs(task, simulation, "dev", 0, 20, "text")
    both = mirrored(task, pairs, "along")
    named = [p for p in pairs if isinstance(p.goal, TextGoal) and opposite(p.goal.text, "along") != p.goal.text]
    assert 0 < len(both) < len(named)
    for _, second in both:
        assert not {"low", "far"} <= set(second.required) and not {"high", "near"} <= set(second.required)
