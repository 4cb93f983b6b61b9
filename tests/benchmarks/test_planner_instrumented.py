"""Queries of a closed loop, their replay, and the cost of plans."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.planner.instrumented import PlanCost, measure, replay, stamped, summarise, threads
from hnet_vjepa.checkpoint import Checkpoint
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.interface import PlanQuery
from hnet_vjepa.planning.planner import WorldModelPlanner, load_planner


def test_closed_loop_queries_are_those_of_a_robot(checkpoint_path: Path, queries: list[PlanQuery]) -> None:
    assert [q.seed for q in queries] == [0, 1, 2, 1000, 1001, 1002]
    planner = load_planner(checkpoint_path)
    for query, following in itertools.pairwise(queries):
        if following.seed % 1000 == 0:
            assert following.previous_actions is None and len(following.frames) == 1
            continue
        [plan] = planner.plan([query])
        np.testing.assert_array_equal(following.previous_actions, plan.actions)
        np.testing.assert_array_equal(following.frames[-2], query.frames[-1])


def test_stamped_frames_are_equal_only_for_the_same_time_step(queries: list[PlanQuery]) -> None:
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


def test_cpu_time_excludes_waiting() -> None:
    def work() -> int:
        end, count = time.process_time() + 0.05, 0
        while time.process_time() < end:
            count += 1
        return count

    counted, busy = measure(work)
    _, idle = measure(lambda: time.sleep(0.05))
    assert counted > 0 and 0.05 <= busy.cpu_s < 0.1 and busy.wall_ms >= 49
    assert idle.cpu_s < 0.02 and idle.wall_ms >= 49


def test_the_number_of_threads_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.planner.instrumented.SETTLE_S", 0.0)
    before = torch.get_num_threads()
    with pytest.raises(KeyError), threads(before + 1):
        assert torch.get_num_threads() == before + 1
        raise KeyError
    assert torch.get_num_threads() == before


@given(st.lists(st.tuples(st.floats(0.1, 1e3), st.floats(1e-3, 10)), min_size=1, max_size=30))
def test_summaries_equal_numpy(costs: list[tuple[float, float]]) -> None:
    found = summarise([PlanCost(*cost) for cost in costs])
    wall, cpu = np.array(costs).T
    assert found["plans"] == len(costs)
    assert found["cpu_s"] == pytest.approx(cpu.mean())
    for name, percent in (("p50", 50), ("p95", 95), ("p99", 99)):
        assert found["wall_ms"][name] == pytest.approx(np.percentile(wall, percent))


def test_a_cached_goal_is_not_encoded_again(checkpoint: Checkpoint, queries: list[PlanQuery]) -> None:
    encoded: list[int] = []
    hook = checkpoint.model.backbone.register_forward_hook(lambda _, x, y: encoded.append(1))
    try:
        planner = WorldModelPlanner(checkpoint)
        for run, (new, passes) in enumerate(((False, 1), (True, 2)), 1):
            encoded.clear()
            replayed = replay(planner, queries, run, new)
            assert [q.seed for q in replayed.queries] == [1, 2, 1001, 1002] and len(replayed.costs) == 4
            first = 2 * 2  # each episode's first query: its frames and its goal
            assert len(encoded) == first + 4 * passes
    finally:
        hook.remove()
