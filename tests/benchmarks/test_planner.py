"""The planner's benchmark in miniature: what it counts, what it takes out, and what it makes of the numbers."""

from __future__ import annotations

import copy
import itertools
import json
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from benchmarks import record, render
from benchmarks.part import Part
from benchmarks.planner import __main__ as command
from benchmarks.planner import ablation as ablations
from benchmarks.planner import dynamics
from benchmarks.planner import memory as memories
from benchmarks.planner.ablation import (
    InversePolicy,
    Variant,
    ablation,
    build,
    plan_of,
    variants_of,
    without_warm_start,
)
from benchmarks.planner.alternatives import alternatives
from benchmarks.planner.calibration import draw
from benchmarks.planner.composition import composition, pairs_across, patched
from benchmarks.planner.deadline import deadline, lateness
from benchmarks.planner.episode_cost import episode_cost
from benchmarks.planner.instrumented import Spent, asked_again, closed_loop, measured, stamped, summarise, threads
from benchmarks.planner.latency import latency
from benchmarks.planner.long_horizon import FLAT, LATENT, Asked, far, methods
from benchmarks.planner.memory import held_after, memory
from benchmarks.planner.pareto import Tried, front, pareto, sweep
from benchmarks.planner.peer import Peer, PeerSize
from benchmarks.planner.tables import TABLES
from benchmarks.table import rate
from hnet_vjepa.checkpoint import Checkpoint, load_checkpoint, read_manifest
from hnet_vjepa.config import PlanConfig
from hnet_vjepa.errors import UserError
from hnet_vjepa.models.macro_dynamics import MacroDynamics
from hnet_vjepa.planning.checks import check_search
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.interface import PlanQuery, PlanResult, SearchSettings
from hnet_vjepa.planning.planner import WorldModelPlanner, load_planner
from planner_service.app import create_app
from planner_service.client import PlannerClient
from sims.core.language import Placement
from sims.core.task import Action, Controller, State, Task
from sims.core.variation import Variation
from sims.evaluation.pairs import make_pairs
from sims.evaluation.policies import Observation
from sims.evaluation.statistics import wilson
from tests import toy
from tests.service.fakes import CARD, FakePlanner, picture, serving_ready

TINY = PeerSize(patch=112, width=8, encoder_depth=1, encoder_heads=2, depth=1, heads=2, head_width=4, hidden=16)


class Square:
    """The toy robot as a simulation: a square that the actions move over the picture."""

    def __init__(self) -> None:
        self.position = np.array([toy.WIDTH / 2, toy.HEIGHT / 2])

    def reset(self) -> None:
        """Go to the middle."""
        self.position = np.array([toy.WIDTH / 2, toy.HEIGHT / 2])

    def step(self, action: Action) -> None:
        """Move, but not out of the picture."""
        self.position = np.clip(self.position + np.clip(action[:2], -3, 3), 5, (toy.WIDTH - 5, toy.HEIGHT - 5))

    def frame(self) -> NDArray[np.uint8]:
        """The picture."""
        return toy.picture(*self.position)

    def state(self) -> State:
        """Column and row."""
        return self.position.astype(np.float32)

    def save(self) -> NDArray[np.float64]:
        """The position."""
        return self.position.copy()

    def restore(self, saved: NDArray[np.float64]) -> None:
        """Go there."""
        self.position = saved.copy()

    def vary(self, variation: Variation) -> None:
        """Nothing varies."""

    def close(self) -> None:
        """Nothing to give up."""


def controller(goal: State) -> Controller:
    """Straight to the goal."""
    return lambda state: np.array([*np.clip(goal - state, -3, 3), 0, 0, 0, 0, 0], np.float32)


TASK = Task(
    name="square",
    description="a square in a picture",
    licence="none",
    action=toy.SPEC,
    camera=toy.CAMERA,
    states=("x", "y"),
    open=Square,
    data_policy=lambda rng: lambda state: np.array([*rng.uniform(-3, 3, 2), 0, 0, 0, 0, 0], np.float32),
    sample_goal=lambda rng: rng.uniform((6, 6), (toy.WIDTH - 6, toy.HEIGHT - 6)).astype(np.float32),
    controller=controller,
    distance=lambda state, goal: float(np.linalg.norm(state - goal)),
    place=lambda state: Placement(0.0, 0.0, 0.0),
    unit="px",
    tolerances=(6.0, 4.0, 2.0),
    min_goal_distance=8.0,
    evaluation_steps=3,
)


# The middle columns are called left, so that this place can be crossed.
BANDED = replace(TASK, place=lambda state: Placement(-1.0 if 13 < state[0] < 19 else 1.0, 0.0, 0.0), evaluation_steps=8)


def tiny_peer(action_dim: int) -> Peer:
    torch.manual_seed(0)
    return Peer(action_dim, TINY).eval()


def few(default: SearchSettings) -> list[SearchSettings]:
    return [default, SearchSettings(4, 1, 2, 2)]


@pytest.fixture(scope="module")
def path(toy_run: Path) -> Path:
    return toy_run / "action"


@pytest.fixture(scope="module")
def checkpoint(path: Path) -> Checkpoint:
    return load_checkpoint(path)


@pytest.fixture(scope="module")
def queries(path: Path) -> list[PlanQuery]:
    simulation = Square()
    return closed_loop(TASK, simulation, load_planner(path), make_pairs(TASK, simulation, "dev", 0, 2, "image"))


@pytest.fixture(scope="module")
def parts(path: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Part]:
    """Every part that plays, in miniature."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.planner.latency.machine", lambda: {"cores": 1})  # tests share their cores
        patch.setattr(ablations, "VARIANTS", (ablations.VARIANTS[0], *ablations.VARIANTS[-3:]))
        plot = tmp_path_factory.mktemp("plot") / "plot.png"
        made = {
            "latency": latency(TASK, path, pairs=2, rounds=2, make=tiny_peer),
            "episode": episode_cost(TASK, path, 4.0, pairs=2, groups=2, make=tiny_peer),
            "pareto": pareto(TASK, path, 4.0, plot, pairs=2, choose=few),
            "ablation-square": ablation(TASK, path, pairs=2),
            "alternatives-square": alternatives(TASK, path, pairs=2),
            "composition": composition(BANDED, path, 2, SearchSettings(8, 2, 4, 4), ("left",)),
            "far-square": far(TASK, path, (Asked("image", 5, 2), Asked("image", None, 2))),
        }
        assert plot.read_bytes().startswith(b"\x89PNG")
    return made


# What is asked, and what it costs


def test_the_closed_loop_is_asked_as_a_robot_would(path: Path, queries: list[PlanQuery]) -> None:
    assert [q.seed for q in queries] == [0, 1, 2, 1000, 1001, 1002]
    planner = load_planner(path)
    for now, later in itertools.pairwise(queries):
        if later.seed % 1000 == 0:
            assert later.previous_actions is None and len(later.frames) == 1
            continue
        [plan] = planner.plan([now])
        np.testing.assert_array_equal(later.previous_actions, plan.actions)
        np.testing.assert_array_equal(later.frames[-2], now.frames[-1])


def test_no_two_stamped_pictures_are_alike_unless_they_are_the_same(queries: list[PlanQuery]) -> None:
    moments: dict[bytes, set[int]] = {}
    for query in (stamped(q) for q in queries):
        for i, frame in enumerate(query.frames):
            moments.setdefault(frame.tobytes(), set()).add(query.seed - len(query.frames) + 1 + i)
    assert sorted(moments.values(), key=min) == [{q.seed} for q in queries]

    def goals(**how: Any) -> list[bytes]:
        made = (stamped(q, **how).goal for q in queries)
        return [goal.frame.tobytes() for goal in made if isinstance(goal, ImageGoal)]

    assert len(set(goals())) == 2 and len(set(goals(new_goal=True))) == len(queries)
    assert not set(goals()) & set(goals(run=1))
    changed = stamped(queries[0]).frames != queries[0].frames
    assert changed.sum() <= 8 and not changed.reshape(-1)[8:].any()


def test_cpu_time_is_what_is_worked_and_wall_time_what_is_waited() -> None:
    def work() -> int:
        end, count = time.process_time() + 0.05, 0
        while time.process_time() < end:
            count += 1
        return count

    counted, busy = measured(work)
    _, idle = measured(lambda: time.sleep(0.05))
    assert counted > 0 and 0.05 <= busy.cpu_s < 0.1 and busy.wall_ms >= 49
    assert idle.cpu_s < 0.02 and idle.wall_ms >= 49


def test_threads_are_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.planner.instrumented.SETTLE_S", 0.0)
    before = torch.get_num_threads()
    with pytest.raises(KeyError), threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before


@given(st.lists(st.tuples(st.floats(0.1, 1e3), st.floats(1e-3, 10)), min_size=1, max_size=30))
def test_a_summary_is_that_of_numpy(costs: list[tuple[float, float]]) -> None:
    found = summarise([Spent(*cost) for cost in costs])
    wall, cpu = np.array(costs).T
    assert found["plans"] == len(costs)
    assert found["cpu_s"] == pytest.approx(cpu.mean())
    for name, percent in (("p50", 50), ("p95", 95), ("p99", 99)):
        assert found["wall_ms"][name] == pytest.approx(np.percentile(wall, percent))


def test_a_known_goal_is_not_encoded_again_and_a_new_one_is(checkpoint: Checkpoint, queries: list[PlanQuery]) -> None:
    encoded: list[int] = []
    hook = checkpoint.model.backbone.register_forward_hook(lambda _, x, y: encoded.append(1))
    try:
        planner = WorldModelPlanner(checkpoint)
        for run, (new, passes) in enumerate(((False, 1), (True, 2)), 1):
            encoded.clear()
            noted = asked_again(planner, queries, run, new)
            assert [q.seed for q in noted.queries] == [1, 2, 1001, 1002] and len(noted.spent) == 4
            first = 2 * 2  # each episode's first query: its frames and its goal
            assert len(encoded) == first + 4 * passes
    finally:
        hook.remove()


def test_latency_holds_the_peer_beside_the_planner(parts: dict[str, Part]) -> None:
    part = parts["latency"]
    rows = {(row["who"], row["threads"]): row for row in part.behind["rows"]}
    assert {who for who, _ in rows} == {"planner", "planner, goal seen for the first time", "peer x10", "peer x30"}
    ours, peer = rows["planner", 1], rows["peer x10", 1]
    assert (ours["plans"], peer["plans"], rows["peer x30", 1]["plans"]) == (2 * 4, 2, 1)
    m = part.metrics
    assert m["cpu_s_ratio_peer_x10"] == pytest.approx(peer["cpu_s"] / ours["cpu_s"])
    assert m["cpu_s_ratio_peer_x30"] > 1.5 * m["cpu_s_ratio_peer_x10"]
    assert m["plan_ms_p50"] == ours["wall_ms"]["p50"] <= m["plan_ms_p99"]
    inside = ours["encode_ms"]["p50"] + ours["search_ms"]["p50"]
    assert inside == pytest.approx(m["plan_ms_p50"], rel=0.5)


def test_an_episode_of_50_steps_takes_two_plans_of_a_peer(parts: dict[str, Part]) -> None:
    part = parts["episode"]
    behind, m = part.behind, part.metrics
    assert (behind["steps"], behind["plans"], behind["peer_plans"]) == (50, 50, 2)
    assert m["cpu_s_per_episode"] == pytest.approx(50 * behind["planner"]["cpu_s"])
    assert m["cpu_s_per_episode_ratio_peer"] == pytest.approx(
        2 * behind["peer"]["cpu_s"] / (50 * behind["planner"]["cpu_s"])
    )
    assert behind["success"]["end"]["trials"] == 2 and behind["criterion"] == "4 px"


# The sweep


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_front_holds_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    tried = [Tried(SearchSettings(), wilson(good, 5), 0.0, {}, float(cost)) for cost, good in points]
    for (cost, good), on_front in zip(points, front(tried), strict=True):
        better = {(c, g) for c, g in points if c <= cost and g >= good} - {(cost, good)}
        assert on_front == (not better)


@pytest.mark.parametrize("default", [SearchSettings(48, 4, 3, 8), SearchSettings(64, 5, 8, 8)])
def test_a_sweep_varies_all_three_and_starts_with_the_default(default: SearchSettings) -> None:
    settings = sweep(default)
    assert settings[0] == default and 12 <= len(settings) <= 16 and len(set(settings)) == len(settings)
    for setting in settings:
        check_search(setting)
    for name in ("candidates", "iterations", "horizon"):
        assert len({getattr(setting, name) for setting in settings}) >= 3


def test_the_sweep_really_searches_with_its_settings(parts: dict[str, Part], checkpoint: Checkpoint) -> None:
    own, small = parts["pareto"].behind["rows"]
    plan = checkpoint.model.config.plan
    assert own["default"] and (own["candidates"], own["iterations"]) == (plan.candidates, plan.iterations)
    assert (small["candidates"], small["iterations"], small["horizon"], small["elites"]) == (4, 1, 2, 2)
    assert small["cpu_s"] < own["cpu_s"]
    assert own["success_end"]["trials"] == 2
    assert parts["pareto"].metrics == {"success_end": own["success_end"]["value"]}


# What is taken out


def test_a_variant_changes_what_it_says_and_nothing_else() -> None:
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


def test_what_changes_nothing_is_not_played() -> None:
    shipped = PlanConfig(warm_std=0.5, first_std=0.5, settled=0.0, prior_candidates=0)
    names = {variant.name for variant in variants_of(shipped)}
    assert {"planner", "no warm start", "no kept elites", "white noise"} <= names
    assert not {"no early end", "no habit", "no learnt proposal", "as wide a search after a plan as without"} & names


def test_a_variant_shares_the_weights_and_leaves_the_original_alone(checkpoint: Checkpoint) -> None:
    before = checkpoint.model.config
    planner = build(checkpoint, Variant("plain", {"noise_colour": 0.0}))
    assert checkpoint.model.config is before and before.plan.noise_colour == 1
    assert planner.card.fingerprint == checkpoint.fingerprint
    own = [p.data_ptr() for p in planner._model.parameters()]
    assert own == [p.data_ptr() for p in checkpoint.model.parameters()]
    assert planner._model.config.plan.noise_colour == 0


def test_without_holding_nothing_counts_as_reached(checkpoint: Checkpoint, queries: list[PlanQuery]) -> None:
    easy = replace(checkpoint, manifest=checkpoint.manifest.model_copy(update={"reached_energy": 1e9}))
    for holds in (True, False):
        [result] = build(easy, Variant("x", holds=holds)).plan(queries[:1])
        assert result.reached == holds


def test_without_a_warm_start_the_search_begins_at_rest_but_knows_the_last_action(
    checkpoint: Checkpoint, queries: list[PlanQuery]
) -> None:
    planner = WorldModelPlanner(checkpoint)
    warm = queries[1]
    assert warm.previous_actions is not None
    cold = without_warm_start(warm)
    assert cold.previous_actions is not None
    np.testing.assert_array_equal(cold.previous_actions, warm.previous_actions[:1])
    np.testing.assert_allclose(planner.first_candidates(warm, 1, 2)[0], warm.previous_actions[1:3], atol=1e-5)
    assert (planner.first_candidates(cold, 1, 2)[0] == 0).all()
    assert without_warm_start(queries[0]).previous_actions is None


def test_inverse_dynamics_is_asked_for_the_way_from_now_to_the_goal(checkpoint: Checkpoint) -> None:
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


def test_every_variant_plays_the_same_pairs_and_is_compared(parts: dict[str, Part]) -> None:
    behind = parts["ablation-square"].behind
    names = ["planner", "does not hold at the goal", "energy: latent only", "energy: steps only"]
    assert list(behind["summary"]) == [*names, "inverse dynamics alone", "random", "scripted"]
    # The controller moves up to 3 pixels along each axis in each of 3 steps.
    pairs = make_pairs(TASK, Square(), "dev", 0, 2, "image")
    left = [np.maximum(np.abs(pair.goal_state - pair.start_state) - 9, 0) for pair in pairs]
    reachable = sum(np.linalg.norm(rest) <= 2 for rest in left)
    assert behind["summary"]["scripted"]["success"]["2 px"]["end"]["successes"] == reachable
    against = {name: found["against"] for name, found in behind["comparisons"].items()}
    assert against["energy: latent only"] == against["energy: steps only"] == "does not hold at the goal"
    assert against["random"] == against["does not hold at the goal"] == "planner"
    assert behind["comparisons"]["scripted"]["further"]["median"] <= 0  # nobody ends nearer than the scripted one


# Composed goals and costs, and other searches


def test_pairs_across_a_place_begin_and_end_outside_and_cross_it() -> None:
    simulation = Square()
    for pair in pairs_across(BANDED, simulation, ("left",), 3):
        (start, _), (end, _) = pair.start_state, pair.goal_state
        assert {start <= 13, start >= 19} == {end <= 13, end >= 19} == {True, False}  # neither is in the band
        assert (start <= 13) != (end <= 13)
    with pytest.raises(UserError, match="0 pairs with the place high on their way; 1 are needed"):
        pairs_across(BANDED, simulation, ("high",), 1)


def test_composition_counts_where_the_simulator_says_the_robot_was(parts: dict[str, Part]) -> None:
    part = parts["composition"]
    around = {row["who"]: row for row in part.behind["around"]}
    assert list(around) == ["planner", "planner that avoids it", "scripted"]
    scripted = around["scripted"]
    assert scripted["never_inside"] == 0 and scripted["success_end"][-1]["successes"] == 2
    assert scripted["inside"] == pytest.approx(scripted["steps_inside"] / 8)
    assert 1 <= scripted["steps_inside"] <= 3  # the band is 6 pixels wide, a step 3
    assert part.metrics["inside_with_avoid"] == around["planner that avoids it"]["inside"]
    for row in part.behind["over_steps"]:
        assert row["nearest"] <= row["mean"] and row["nearest"] <= row["end"] and 1 <= row["nearest_at"] <= 4
    assert [row["success_end"][0]["trials"] for row in part.behind["in_part"]] == [2] * 4


def test_a_patch_changes_a_corner_only() -> None:
    frame = toy.picture(20, 20)
    changed = patched(frame) != frame
    assert changed[:16, :16].any(-1).all() and not changed[16:].any() and not changed[:, 16:].any()


def test_every_search_imagines_equally_many_steps(parts: dict[str, Part], checkpoint: Checkpoint) -> None:
    rows = parts["alternatives-square"].behind["rows"]
    plan = checkpoint.model.config.plan
    budget = plan.candidates * plan.iterations * plan.horizon
    assert len(rows) == 2 * 5 and {row["budget"] for row in rows} == {"as shipped", "4 times as much"}
    for row in rows:
        assert row["imagined"] == budget * (1 if row["budget"] == "as shipped" else 4), row["who"]
        assert (row["against"] is None) == (row["who"] == "planner")
        assert row["success_end"]["trials"] == (2 if row["budget"] == "as shipped" else 1) and row["cpu_s"] > 0


# Far goals


def test_far_goals_are_played_with_and_without_what_shows_the_way(parts: dict[str, Part]) -> None:
    rows = parts["far-square"].behind["rows"]
    assert [(row["distance"], row["method"], row["actions"]) for row in rows] == [
        (5, FLAT, 10), (5, LATENT, 10), (None, FLAT, 3), (None, LATENT, 3)
    ]  # fmt: skip
    assert [row["compared"] and row["compared"]["against"] for row in rows] == [None, FLAT, None, FLAT]
    assert all(row["success"]["6 px"]["end"]["trials"] == 2 for row in rows)


def test_sub_goals_are_compared_with_the_same_search_without_them(checkpoint: Checkpoint) -> None:
    world = copy.copy(checkpoint.model.world_model)
    model = copy.copy(checkpoint.model)
    model._modules = {**model._modules, "world_model": world}
    world.macro_dynamics = MacroDynamics(state_dim=8, slots=4, latent_dim=2)
    able = replace(checkpoint, model=model)
    for kind, alike in (("image", LATENT), ("label", FLAT)):
        found = {v.name: v for v in methods(able, "label" if kind == "label" else "image")}
        ways = next(v for name, v in found.items() if name.startswith("sub-goals"))
        assert ways.against == alike
        with_them, without = (plan_of(model.config.plan, v) for v in (ways, found[alike]))
        assert with_them.subgoals and with_them.model_copy(update={"subgoals": 0}) == without


# The service's deadline, and memory


@pytest.mark.parametrize(("deadline_ms", "met"), [(10.0, 0.0), (5000.0, 1.0)])
def test_lateness_is_counted_from_the_deadline(deadline_ms: float, met: float) -> None:
    planner = FakePlanner(delay_s=0.03)
    asked = [PlanQuery(picture(i)[None], ImageGoal(picture(9)), i) for i in range(4)]
    with serving_ready(create_app(planner)) as url, PlannerClient(url) as client:
        row = lateness(client, asked, deadline_ms, SearchSettings(horizon=3))
    assert (row["requests"], row["met"]) == (4, met)
    assert row["client_ms"]["p50"] >= row["server_ms"]["p50"] >= 30 - deadline_ms
    assert row["client_ms"]["p99"] < 1000 - deadline_ms
    assert [batch[0].seed for batch in planner.batches[1:]] == [0, 1, 2, 3]
    assert planner.batches[1][0].search == SearchSettings(horizon=3)


@pytest.mark.slow
def test_the_service_itself_is_asked(path: Path) -> None:
    part = deadline(TASK, path, pairs=1)
    rows = part.behind["rows"]
    assert [row["deadline_ms"] for row in rows] == [15, 30, 60] * 2
    assert {row["requests"] for row in rows} == {3} and all(row["iterations"] >= 1 for row in rows)
    assert part.metrics["deadline_overrun_ms_p99"] == max(row["client_ms"]["p99"] for row in rows)


def test_a_leak_shows() -> None:
    class Leaking(FakePlanner):
        kept: list[NDArray[np.uint8]] = []

        def plan(self, queries: list[PlanQuery]) -> list[PlanResult]:
            self.kept.append(np.ones(2**22, np.uint8))
            return [self.answer(query) for query in queries]

    planner = Leaking(card=CARD)
    first, last = held_after(planner, (5, 45), memories.SMALL)
    assert 130 < last - first < 220  # 160, less what the process had free already


def test_memory_is_measured_in_a_process_of_its_own(path: Path) -> None:
    part = memory(path, (2, 4))
    assert part.metrics["rss_growth_mb"] == part.behind["rss_mb"][1] - part.behind["rss_mb"][0]
    assert part.settings["weights"] == read_manifest(path).fingerprint


# The command, and the tables


def run(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["planner", *words])
    command.main()


def test_what_is_made_is_not_made_again_until_it_is_asked_for_or_the_weights_change(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, path: Path
) -> None:
    made: list[str] = []
    weights = read_manifest(path).fingerprint

    def part(name: str, fingerprint: str) -> Callable[[], Part]:
        def make() -> Part:
            made.append(name)
            return Part({"weights": fingerprint}, {name: float(len(made))}, {"rows": [name]})

        return make

    known = {"one": (path, part("one", weights)), "two": (path, part("two", "others"))}
    monkeypatch.setattr(command, "parts", lambda checkpoint: known)
    monkeypatch.setattr(render, "main", lambda: None)
    for module in (record, command):
        monkeypatch.setattr(module, "RESULTS", tmp_path)
    run(monkeypatch, "--checkpoint", str(path))
    run(monkeypatch, "--checkpoint", str(path))
    run(monkeypatch, "--checkpoint", str(path), "--part", "one")
    assert made == ["one", "two", "two", "one"]
    result = json.loads((tmp_path / "planner.json").read_text())
    assert result["metrics"] == {"one": 4.0, "two": 3.0}
    assert result["parts"]["one"]["rows"] == ["one"]
    assert result["parts"]["two"]["command"] == "python -m benchmarks.planner --part two"


def test_an_unknown_part_is_refused_by_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], path: Path
) -> None:
    monkeypatch.setattr(command, "parts", lambda checkpoint: {"latency": (path, Part)})
    with pytest.raises(SystemExit, match="2"):
        run(monkeypatch, "--checkpoint", str(path), "--part", "latencies")
    assert capsys.readouterr().err == "planner: unknown part 'latencies'; choose one of: latency\n"


def dynamics_part() -> Part:
    """As ``dynamics`` makes it of two variants; tests/benchmarks/test_planner_dynamics.py makes a real one."""
    task = dynamics.Study(TASK, 4.0, "toy", dynamics.SHORT)
    cells = {name: [dynamics.Cell(60.0, 0.5, cm, [3.0, 5.0])] for name, cm in (("one", 1.25), ("two", None))}
    settings = {"task": "square", "short": dynamics.SHORT}
    return Part(settings, {}, {"rows": dynamics.rows(task, cells, {"one": 9.96, "two": 120.0})})


def test_tables_are_made_of_all_parts(parts: dict[str, Part]) -> None:
    rows = [
        {
            "deadline_ms": 15.0,
            "search": {"candidates": 8, "iterations": 2, "horizon": 3},
            "requests": 4,
            "client_ms": {"p50": -1.0, "p95": 0.5, "p99": 2.0},
            "server_ms": {"p50": -2.0, "p95": 0.0, "p99": 1.0},
            "met": 0.75,
            "iterations": 1.5,
        }
    ]
    held = Part({"plans": [10, 20]}, {}, {"rss_mb": [90.0, 91.0]})
    curve = {"task": "square", "split": "test", "tolerance": 0.03, "unit": "m", "actions": 3, "fitted_to": "9 others"}
    said = Part(curve, {}, {"reliability": [{"rollouts": 4, "said": 0.126, "came_true": 0.25}]})
    seen = {"kind": "noise", "strange": True, "rate": 0.975, "low": 0.9, "high": 1.0, "pictures": 40}
    made = {
        **parts,
        "deadline": Part({}, {}, {"rows": rows}),
        "memory": held,
        "calibration": said,
        "familiarity": Part({}, {}, {"rows": [seen]}),
        "dynamics-square": dynamics_part(),
        "trained-peer": trained_peer_part(parts["ablation-square"]),
    }
    plain = {name: json.loads(json.dumps({"settings": p.settings, **p.behind})) for name, p in made.items()}
    tables = {name: table(plain, rate) for name, table in TABLES.items()}
    for name, table in tables.items():
        assert table.rows and table.note.endswith("."), name
        assert {len(row) for row in table.rows} == {len(table.head)}, name
        assert set(table.parts) <= set(plain)
    assert tables["planner-deadlines"].rows == [
        ["15 ms", "8 x 2 x 3", "-1.0 / +0.5 / +2.0", "-2.0 / +0.0 / +1.0", "75.0 %", "1.5"]
    ]
    assert tables["planner-calibration"].rows == [["4", "13 %", "25 %"]]
    assert tables["planner-dynamics"].rows[0][6:] == ["0.500", "1.2", "10.0", "60"]
    assert tables["planner-dynamics"].rows[1][3:] == ["50", "+0 points, p = 1", "4 px", "0.500", "–", "120.0", "60"]
    assert tables["planner-familiarity"].rows == [["noise", "yes", "98 % (90–100)", "40"]]
    assert "4 plans of 3 actions on test pairs of square, within 3 cm;" in tables["planner-calibration"].note
    assert [row[1] for row in tables["planner-far"].rows] == [FLAT, LATENT] * 2
    assert tables["planner-far"].rows[0][0] == "`square`, images, 5 steps away; 6 px, 2 pairs"
    assert tables["planner-trained-peer"].rows[0][0::3] == ["planner", "–"]
    assert "made 3 steps of 16 clips on the same 40 episodes; its loss went from 2 to 1." in (
        tables["planner-trained-peer"].note
    )
    assert len(tables["planner-ablation"].rows) == 7
    assert tables["planner-ablation"].rows[-1][1:3] == ["scripted", "100 % (34–100)"]


def trained_peer_part(played: Part) -> Part:
    """As ``trained_peer`` makes it, of methods that were played for another part."""
    settings = {"task": "square", "pairs": 2, "distance": 25, "parameters": 18e6, "clips": 16, "episodes": 40}
    return Part(settings, {}, {**played.behind, "losses": [2.0, 1.5, 1.0]})


def test_the_reliability_curve_is_drawn() -> None:
    assert draw([(3, 0.1, 0.0), (5, 0.9, 0.8)]).startswith(b"\x89PNG")
