"""Latency, cost of an episode and the sweep over search settings, each on the toy robot, with their tables."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.part import Part
from benchmarks.planner import episode_cost, latency, pareto
from benchmarks.planner.pareto import Tried, front, sweep
from hnet_vjepa.checkpoint import Checkpoint
from hnet_vjepa.planning.checks import check_search
from hnet_vjepa.planning.interface import SearchSettings
from sims.evaluation.statistics import wilson
from tests.benchmarks.square import TASK, check_table, result_of, tiny_peer


def few(default: SearchSettings) -> list[SearchSettings]:
    return [default, SearchSettings(4, 1, 2, 2)]


@pytest.fixture(scope="module")
def latency_part(checkpoint_path: Path) -> Part:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.planner.latency.machine", lambda: {"cores": 1})  # tests share their cores
        return latency.latency(TASK, checkpoint_path, pairs=2, rounds=2, make=tiny_peer)


def test_latency_of_planner_and_peer(latency_part: Part) -> None:
    part = latency_part
    rows = {(row["who"], row["threads"]): row for row in part.behind["rows"]}
    assert {who for who, _ in rows} == {"planner", "planner, new goal", "peer x10", "peer x30"}
    ours, peer = rows["planner", 1], rows["peer x10", 1]
    assert (ours["plans"], peer["plans"], rows["peer x30", 1]["plans"]) == (2 * 4, 2, 1)
    m = part.metrics
    assert m["cpu_s_ratio_peer_x10"] == pytest.approx(peer["cpu_s"] / ours["cpu_s"])
    assert m["cpu_s_ratio_peer_x30"] > 1.5 * m["cpu_s_ratio_peer_x10"]
    assert m["plan_ms_p50"] == ours["wall_ms"]["p50"] <= m["plan_ms_p99"]
    inside = ours["encode_ms"]["p50"] + ours["search_ms"]["p50"]
    assert inside == pytest.approx(m["plan_ms_p50"], rel=0.5)
    table = latency.table(result_of(latency=part))
    check_table(table)
    assert [row[0] for row in table.rows] == ["planner", "planner, new goal", "peer x10", "peer x30"]


def test_an_episode_of_50_steps_needs_two_plans_of_a_peer(checkpoint_path: Path) -> None:
    part = episode_cost.episode_cost(TASK, checkpoint_path, 4.0, pairs=2, groups=2, make=tiny_peer)
    behind, m = part.behind, part.metrics
    assert (behind["steps"], behind["plans"], behind["peer_plans"]) == (50, 50, 2)
    assert m["cpu_s_per_episode"] == pytest.approx(50 * behind["planner"]["cpu_s"])
    assert m["cpu_s_per_episode_ratio_peer"] == pytest.approx(
        2 * behind["peer"]["cpu_s"] / (50 * behind["planner"]["cpu_s"])
    )
    assert behind["success"]["end"]["trials"] == 2 and behind["criterion"] == "4 px"
    check_table(episode_cost.table(result_of(episode=part)))


@given(st.lists(st.tuples(st.integers(1, 5), st.integers(0, 5)), min_size=1, max_size=12))
def test_the_front_is_what_no_other_setting_dominates(points: list[tuple[int, int]]) -> None:
    tried = [Tried(SearchSettings(), wilson(good, 5), 0.0, {}, float(cost)) for cost, good in points]
    for (cost, good), on_front in zip(points, front(tried), strict=True):
        better = {(c, g) for c, g in points if c <= cost and g >= good} - {(cost, good)}
        assert on_front == (not better)


@pytest.mark.parametrize("default", [SearchSettings(48, 4, 3, 8), SearchSettings(64, 5, 8, 8)])
def test_a_sweep_starts_with_the_default_and_varies_all_sizes(default: SearchSettings) -> None:
    settings = sweep(default)
    assert settings[0] == default and 12 <= len(settings) <= 16 and len(set(settings)) == len(settings)
    for setting in settings:
        check_search(setting)
    for name in ("candidates", "iterations", "horizon"):
        assert len({getattr(setting, name) for setting in settings}) >= 3


def test_the_sweep_uses_its_settings(checkpoint_path: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    plot = tmp_path / "plot.png"
    part = pareto.pareto(TASK, checkpoint_path, 4.0, plot, pairs=2, choose=few)
    assert plot.read_bytes().startswith(b"\x89PNG")
    own, small = part.behind["rows"]
    plan = checkpoint.model.config.plan
    assert own["default"] and (own["candidates"], own["iterations"]) == (plan.candidates, plan.iterations)
    assert (small["candidates"], small["iterations"], small["horizon"], small["elites"]) == (4, 1, 2, 2)
    assert small["cpu_s"] < own["cpu_s"]
    assert own["success_end"]["trials"] == 2
    assert part.metrics == {"success_end": own["success_end"]["value"]}
    check_table(pareto.table(result_of(pareto=part)))
