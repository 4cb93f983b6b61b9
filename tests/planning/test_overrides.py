"""Search settings changed at load: the planner searches with them, the checkpoint stays as it was."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hnet_vjepa.checkpoint import Checkpoint, load_checkpoint
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.interface import PlanQuery, SearchSettings
from hnet_vjepa.planning.overrides import plan_settings, with_plan
from hnet_vjepa.planning.planner import WorldModelPlanner, load_planner
from tests import toy

QUERY = PlanQuery(np.stack([toy.picture(8, 8)]), ImageGoal(toy.picture(24, 24)), seed=1)


@pytest.fixture(scope="module")
def checkpoint(toy_run: Path) -> Checkpoint:
    return load_checkpoint(toy_run / "action")


def test_the_search_is_that_of_a_query_with_these_settings(checkpoint: Checkpoint) -> None:
    changes = plan_settings(["plan.candidates=32", "plan.horizon=2", "plan.iterations=2"])
    planner = WorldModelPlanner(with_plan(checkpoint, changes))
    search = SearchSettings(candidates=32, iterations=2, horizon=2, elites=4)
    assert planner.card.search == search
    [plan], [same] = planner.plan([QUERY]), WorldModelPlanner(checkpoint).plan([replace(QUERY, search=search)])
    assert plan.actions.shape == (2, 7)
    np.testing.assert_array_equal(plan.actions, same.actions)
    assert WorldModelPlanner(checkpoint).card.search.candidates == 16  # the checkpoint is as before


def test_a_planner_is_loaded_with_them(toy_run: Path) -> None:
    planner = load_planner(toy_run / "action", plan={"candidates": "24"})
    assert planner.card.search.candidates == 24
    assert planner.plan([QUERY])[0].iterations == 3


def test_another_energy_is_not_calibrated(checkpoint: Checkpoint) -> None:
    manifest = checkpoint.manifest.model_copy(update={"reached_energy": 1e9})
    calibrated = replace(checkpoint, manifest=manifest)
    assert WorldModelPlanner(calibrated).plan([QUERY])[0].reached
    assert WorldModelPlanner(with_plan(calibrated, {"candidates": "24"})).plan([QUERY])[0].reached
    other = WorldModelPlanner(with_plan(calibrated, {"latent": "3"}))
    [plan], [before] = other.plan([QUERY]), WorldModelPlanner(calibrated).plan([QUERY])
    assert not plan.reached and plan.success is None and plan.energy_now > before.energy_now


def test_nothing_to_change(checkpoint: Checkpoint) -> None:
    assert plan_settings([]) == {} and with_plan(checkpoint, {}) is checkpoint


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("plan.candidates", "--set plan.candidates: write it as field=value, for instance plan.candidates=16"),
        ("action.steps=5", r"unknown field of --set 'action.steps'; choose one of: plan.candidates, plan.iterations"),
        ("plan.candidate=5", "unknown field of --set 'plan.candidate'"),
        ("plan.goal_bank_size=5", "unknown field of --set 'plan.goal_bank_size'"),
        ("plan.candidates=many", "plan.candidates = 'many': this is text; needs a number"),
        ("plan.candidates=0", "plan.candidates = 0: Input should be greater than 0"),
        ("plan.elites=17", r"plan.elites = 17: must be at most candidates \(16\)"),
        ("plan.subgoals=2", "plan.subgoals = 2: needs macro dynamics"),
        ("plan.min_std=nan", "plan.min_std = 'nan': this is text; needs a number"),
    ],
)
def test_wrong_settings_are_one_line(option: str, message: str, checkpoint: Checkpoint) -> None:
    with pytest.raises(UserError, match=message) as refused:
        with_plan(checkpoint, plan_settings([option]))
    assert "\n" not in str(refused.value)
