"""Variants of the planner, other searches, distant and composed goals, each on the toy robot, with their tables."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks.planner import ablation, alternatives, composition, long_horizon
from benchmarks.planner.ablation import InversePolicy, variants_of, without_warm_start
from benchmarks.planner.avoidance import pairs_across
from benchmarks.planner.composition import patched
from benchmarks.planner.long_horizon import FLAT, LATENT, GoalSet, methods
from benchmarks.planner.variants import Variant, build_planner, plan_of
from hnet_vjepa.checkpoint import Checkpoint
from hnet_vjepa.config import PlanConfig
from hnet_vjepa.errors import UserError
from hnet_vjepa.models.macro_dynamics import MacroDynamics
from hnet_vjepa.planning.interface import PlanQuery, SearchSettings
from hnet_vjepa.planning.planner import WorldModelPlanner
from sims.evaluation.pairs import make_pairs
from sims.evaluation.policies import Observation
from tests import toy
from tests.benchmarks.square import BANDED, TASK, Square, check_table, result_of


def test_a_variant_changes_only_the_fields_it_names() -> None:
    shipped = PlanConfig(warm_std=0.3, first_std=0.6, settled=0.02, prior_candidates=4, behaviour_prior=3)
    for variant in variants_of(shipped):
        changed = {k: v for k, v in plan_of(shipped, variant).model_dump().items() if v != getattr(shipped, k)}
        wide = {} if variant.warm and variant.narrow else {"warm_std": 0.6}
        assert changed == {**variant.plan, **wide}, variant.name
    plain = next(v for v in variants_of(shipped) if v.name.startswith("none of these"))
    assert not plain.warm
    assert dict(plain.plan) == {
        "momentum": 0, "min_std": 1e-6, "noise_colour": 0, "kept": 0, "prior_candidates": 0,
        "behaviour_prior": 0, "settled": 0
    }  # fmt: skip
    with pytest.raises(ValueError, match="kepd"):
        plan_of(shipped, Variant("misspelt", {"kepd": 0}))


def test_variants_without_effect_are_left_out() -> None:
    shipped = PlanConfig(warm_std=0.5, first_std=0.5, settled=0.0, prior_candidates=0)
    names = {variant.name for variant in variants_of(shipped)}
    assert {"planner", "no warm start", "no kept elites", "white noise"} <= names
    assert (
        not {"no early stopping", "no behaviour prior", "no policy prior", "warm start with the first deviation"}
        & names
    )


def test_a_variant_shares_the_weights_and_not_the_configuration(checkpoint: Checkpoint) -> None:
    before = checkpoint.model.config
    planner = build_planner(checkpoint, Variant("plain", {"noise_colour": 0.0}))
    assert checkpoint.model.config is before and before.plan.noise_colour == 1
    assert planner.card.fingerprint == checkpoint.fingerprint
    own = [p.data_ptr() for p in planner._model.parameters()]
    assert own == [p.data_ptr() for p in checkpoint.model.parameters()]
    assert planner._model.config.plan.noise_colour == 0


def test_without_holding_nothing_counts_as_reached(checkpoint: Checkpoint, queries: list[PlanQuery]) -> None:
    easy = replace(checkpoint, manifest=checkpoint.manifest.model_copy(update={"reached_energy": 1e9}))
    for holds in (True, False):
        [result] = build_planner(easy, Variant("x", holds=holds)).plan(queries[:1])
        assert result.reached == holds


def test_without_a_warm_start_the_previous_action_is_kept(checkpoint: Checkpoint, queries: list[PlanQuery]) -> None:
    planner = WorldModelPlanner(checkpoint)
    warm = queries[1]
    assert warm.previous_actions is not None
    cold = without_warm_start(warm)
    assert cold.previous_actions is not None
    np.testing.assert_array_equal(cold.previous_actions, warm.previous_actions[:1])
    np.testing.assert_allclose(planner.first_candidates(warm, 1, 2)[0], warm.previous_actions[1:3], atol=1e-5)
    assert (planner.first_candidates(cold, 1, 2)[0] == 0).all()
    assert without_warm_start(queries[0]).previous_actions is None


def test_the_inverse_policy_predicts_from_the_present_state_to_the_goal(checkpoint: Checkpoint) -> None:
    simulation = Square()
    [pair] = make_pairs(TASK, simulation, "dev", 0, 1, "image")
    frames = np.stack([toy.picture(8, 9), toy.picture(9, 9), toy.picture(11, 10)])
    decision = InversePolicy(checkpoint, 3).begin(pair)(Observation(frames, np.zeros(2, np.float32)))
    model, spec = checkpoint.model, checkpoint.model.robot.action
    assert spec.mean is not None and spec.std is not None
    with torch.no_grad():
        seen = model.states(torch.from_numpy(frames[None]).float() / 127.5 - 1)[0]
        goal = model.states(torch.from_numpy(pair.goal_frame[None, None]).float() / 127.5 - 1)[0][:, 0]
        normal = model.world_model.inverse(seen[:, 1], seen[:, 2], goal)[0].numpy()
    expected = np.clip(normal * np.array(spec.std) + np.array(spec.mean), -3, 3)
    np.testing.assert_allclose(decision.action, [*expected, 0, 0, 0, 0, 0], atol=1e-4)
    assert decision.action.dtype == np.float32 and decision.plan_ms is None


def test_every_variant_plays_the_same_pairs_and_is_compared(
    checkpoint_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ablation, "VARIANTS", (ablation.VARIANTS[0], *ablation.VARIANTS[-3:]))
    part = ablation.ablation(TASK, checkpoint_path, pairs=2)
    behind = part.behind
    names = ["planner", "does not hold at the goal", "energy: latent only", "energy: temporal distance only"]
    assert list(behind["summary"]) == [*names, "inverse dynamics alone", "random", "scripted"]
    # The controller moves up to 3 pixels along each axis in each of 3 steps.
    pairs = make_pairs(TASK, Square(), "dev", 0, 2, "image")
    left = [np.maximum(np.abs(pair.goal_state - pair.start_state) - 9, 0) for pair in pairs]
    reachable = sum(np.linalg.norm(rest) <= 2 for rest in left)
    assert behind["summary"]["scripted"]["success"]["2 px"]["end"]["successes"] == reachable
    against = {name: found["against"] for name, found in behind["comparisons"].items()}
    assert against["energy: latent only"] == against["energy: temporal distance only"] == "does not hold at the goal"
    assert against["random"] == against["does not hold at the goal"] == "planner"
    assert behind["comparisons"]["scripted"]["further"]["median"] <= 0  # no method ends nearer than the scripted one
    table = ablation.table(result_of(ablation__square=part))
    check_table(table)
    assert len(table.rows) == 7
    assert table.rows[-1][1:3] == ["scripted", "100 % (34–100)"]


def test_pairs_across_a_region_start_and_end_outside() -> None:
    simulation = Square()
    for pair in pairs_across(BANDED, simulation, ("left",), 3):
        (start, _), (end, _) = pair.start_state, pair.goal_state
        assert {start <= 13, start >= 19} == {end <= 13, end >= 19} == {True, False}  # neither is in the band
        assert (start <= 13) != (end <= 13)
    with pytest.raises(UserError, match="0 pairs with the place high on their path; 1 are needed"):
        pairs_across(BANDED, simulation, ("high",), 1)


def test_composition_uses_the_simulator_s_positions(checkpoint_path: Path) -> None:
    part = composition.composition(BANDED, checkpoint_path, 2, SearchSettings(8, 2, 4, 4), ("left",))
    around = {row["who"]: row for row in part.behind["around"]}
    assert list(around) == ["planner", "planner, avoid cost", "scripted"]
    scripted = around["scripted"]
    assert scripted["never_inside"] == 0 and scripted["success_end"][-1]["successes"] == 2
    assert scripted["inside"] == pytest.approx(scripted["steps_inside"] / 8)
    assert 1 <= scripted["steps_inside"] <= 3  # the band is 6 pixels wide, a step 3
    assert part.metrics["inside_with_avoid"] == around["planner, avoid cost"]["inside"]
    for row in part.behind["over_steps"]:
        assert row["nearest"] <= row["mean"] and row["nearest"] <= row["end"] and 1 <= row["nearest_at"] <= 4
    assert [row["success_end"][0]["trials"] for row in part.behind["in_part"]] == [2] * 4
    for table in (composition.avoidance_table, composition.over_steps_table, composition.regions_table):
        check_table(table(result_of(composition=part)))


def test_a_patch_changes_a_corner_only() -> None:
    frame = toy.picture(20, 20)
    changed = patched(frame) != frame
    assert changed[:16, :16].any(-1).all() and not changed[16:].any() and not changed[:, 16:].any()


def test_every_search_imagines_equally_many_steps(checkpoint_path: Path, checkpoint: Checkpoint) -> None:
    part = alternatives.alternatives(TASK, checkpoint_path, pairs=2)
    rows = part.behind["rows"]
    plan = checkpoint.model.config.plan
    budget = plan.candidates * plan.iterations * plan.horizon
    assert len(rows) == 2 * 5 and {row["budget"] for row in rows} == {"as shipped", "4 times as much"}
    for row in rows:
        assert row["imagined"] == budget * (1 if row["budget"] == "as shipped" else 4), row["who"]
        assert (row["against"] is None) == (row["who"] == "planner")
        assert row["success_end"]["trials"] == (2 if row["budget"] == "as shipped" else 1) and row["cpu_s"] > 0
    check_table(alternatives.table(result_of(alternatives__square=part)))


def test_distant_goals_are_played_with_and_without_the_temporal_distance(checkpoint_path: Path) -> None:
    part = long_horizon.long_horizon(TASK, checkpoint_path, (GoalSet("image", 5, 2), GoalSet("image", None, 2)))
    rows = part.behind["rows"]
    assert [(row["distance"], row["method"], row["actions"]) for row in rows] == [
        (5, FLAT, 10), (5, LATENT, 10), (None, FLAT, 3), (None, LATENT, 3)
    ]  # fmt: skip
    assert [row["compared"] and row["compared"]["against"] for row in rows] == [None, FLAT, None, FLAT]
    assert all(row["success"]["6 px"]["end"]["trials"] == 2 for row in rows)
    table = long_horizon.table(result_of(long__horizon__square=part))
    check_table(table)
    assert [row[1] for row in table.rows] == [FLAT, LATENT] * 2
    assert table.rows[0][0] == "`square`, images, 5 steps away; 6 px, 2 pairs"


def test_subgoals_are_compared_with_the_same_search_without_them(checkpoint: Checkpoint) -> None:
    world = copy.copy(checkpoint.model.world_model)
    model = copy.copy(checkpoint.model)
    model._modules = {**model._modules, "world_model": world}
    world.macro_dynamics = MacroDynamics(state_dim=8, slots=4, latent_dim=2)
    hierarchical = replace(checkpoint, model=model)
    for kind, same_energy in (("image", LATENT), ("label", FLAT)):
        found = {v.name: v for v in methods(hierarchical, "label" if kind == "label" else "image")}
        subgoals = next(v for name, v in found.items() if name.startswith("subgoals"))
        assert subgoals.against == same_energy
        with_them, without = (plan_of(model.config.plan, v) for v in (subgoals, found[same_energy]))
        assert with_them.subgoals and with_them.model_copy(update={"subgoals": 0}) == without
