"""Factors of variation: the goal is pictured under them, the physics of the pair stays, and all is put back."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.interface import Goal
from sims.core.variation import Variation
from sims.evaluation.evaluate import evaluate
from sims.evaluation.pairs import Pair, make_pairs
from sims.evaluation.policies import Answer, PlannerPolicy, RandomPolicy
from sims.evaluation.robustness import (
    STRENGTHS,
    Sweep,
    chosen_factors,
    sweep,
    sweeps_to_json,
    under_variation,
)
from sims.evaluation.statistics import wilson
from sims.reporting import plots
from sims.tasks import fetch_reach

TASK = fetch_reach.TASK


@pytest.fixture(scope="module")
def robot() -> Iterator[fetch_reach.FetchReach]:
    with contextlib.closing(fetch_reach.FetchReach()) as simulation:
        yield simulation


@pytest.fixture(scope="module")
def pairs(robot: fetch_reach.FetchReach) -> list[Pair]:
    return make_pairs(TASK, robot, "dev", 0, 2, "image")


def test_goal_pictures_are_taken_under_the_variation(robot: fetch_reach.FetchReach, pairs: list[Pair]) -> None:
    for pair in pairs:
        robot.restore(pair.goal_saved)
        np.testing.assert_array_equal(robot.state(), pair.goal_state)
        np.testing.assert_array_equal(robot.frame(), pair.goal_frame)
    robot.vary(Variation("light", 1.0))
    varied = under_variation(robot, pairs)
    robot.vary(Variation("light", 0.0))
    for pair, other in zip(pairs, varied, strict=True):
        assert other.goal_frame.mean() < 0.7 * pair.goal_frame.mean()
        assert isinstance(other.goal, ImageGoal) and other.goal.frame is other.goal_frame
        np.testing.assert_array_equal(other.goal_state, pair.goal_state)
    for pair, again in zip(pairs, under_variation(robot, pairs), strict=True):
        np.testing.assert_array_equal(again.goal_frame, pair.goal_frame)


def test_a_planner_that_goes_only_in_the_light(robot: fetch_reach.FetchReach, pairs: list[Pair]) -> None:
    """It knows the way, but does not move when the goal picture is darker than three quarters of what it was."""
    bright = {pair.index: pair.goal_frame.mean() for pair in pairs}
    asked: list[float] = []

    def ask(frames: NDArray[np.uint8], goal: Goal, seed: int, previous: NDArray[np.float32] | None) -> Answer:
        assert isinstance(goal, ImageGoal)
        share = float(goal.frame.mean() / bright[seed // 1000])
        asked.append(share)
        move = TASK.controller(pairs[seed // 1000].goal_state)(robot.state()) * np.float32(share > 0.75)
        return Answer(move[None], False, {})

    planner, random = PlannerPolicy("planner", ask, 1), RandomPolicy(TASK)
    trained = evaluate(TASK, robot, [random, planner], pairs, "dev", 0, "image", progress=False, steps=10)
    robot.restore(pairs[0].start)
    before = robot.frame()
    found = sweep(TASK, robot, "light", planner, random, pairs, trained, progress=False)
    robot.restore(pairs[0].start)
    np.testing.assert_array_equal(robot.frame(), before)  # as light as it was
    assert (found.planner[0].successes, found.planner[-1].successes) == (2, 0)
    assert [rate.successes for rate in found.random] == [0] * 5
    assert 0 < found.works_up_to() < 1
    assert max(asked) == 1 and min(asked) < 0.75
    [said] = json.loads(json.dumps(sweeps_to_json([found]))).items()
    assert said[0] == "light" and [row["strength"] for row in said[1]["strengths"]] == list(STRENGTHS)
    assert found.sentence().startswith(f"light: works up to strength {found.works_up_to():g} (success within")
    assert plots.sweeps([found, replace(found, factor="camera")]).startswith(b"\x89PNG")


def test_how_far_it_works() -> None:
    for successes, strength in (
        ((90, 85, 80, 60, 80), 0.5),  # exactly ten points fewer still counts; what comes after a drop does not
        ((90, 79, 90, 90, 90), 0.0),
        ((90, 95, 99, 80, 100), 1.0),
        ((5, 0, 0, 0, 0), 1.0),
    ):
        rates = tuple(wilson(s, 100) for s in successes)
        assert Sweep("light", rates, rates).works_up_to() == strength


def test_which_factors() -> None:
    assert chosen_factors(TASK, ()) == ()
    assert chosen_factors(TASK, ["all"]) == TASK.factors
    assert chosen_factors(TASK, ["friction", "light", "friction"]) == ("light", "friction")
    few = replace(TASK, factors=("light",))
    assert chosen_factors(few, ["all"]) == ("light",)
    with pytest.raises(UserError, match="unknown factor of fetch-reach 'camera'; choose one of: light, all"):
        chosen_factors(few, ["camera"])
