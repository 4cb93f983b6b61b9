"""Figures about the repository: what counts as below an earlier row, and that hashes of plans are compared."""

from __future__ import annotations

import pytest
from scipy.stats import fisher_exact

from benchmarks.golden import plan_hash, read_record
from benchmarks.house import ALPHA, changed_plans, judged, judgements
from benchmarks.record import read_result
from hnet_vjepa import zoo
from hnet_vjepa.planning.planner import load_planner


@pytest.mark.parametrize(
    ("before", "now", "below"), [(253, 250, False), (253, 0, True), (288, 200, True), (300, 299, False)]
)
def test_a_loss_is_what_chance_does_not_explain(before: int, now: int, below: bool) -> None:
    row, earlier = ({"success_end": k / 300, "episodes": 300} for k in (now, before))
    found = judged("x", row, earlier)
    assert (found.successes_before, found.successes, found.below) == (before, now, below)
    expected = fisher_exact([[now, 300 - now], [before, 300 - before]], alternative="less").pvalue
    assert found.below == (expected < ALPHA)


def test_rows_of_other_weights_do_not_count() -> None:
    rows = read_result("sims")
    earlier = rows["metrics"]
    names = {one.model for one in judgements(rows, earlier)}
    name = sorted(names)[0]
    changed = {**rows, "rows": {**rows["rows"], name: {**rows["rows"][name], "weights": "other"}}}
    assert {one.model for one in judgements(changed, earlier)} == names - {name}


def test_a_changed_plan_is_counted() -> None:
    name = "fetch-reach"
    digest = plan_hash(read_record(name), load_planner(zoo.path(name), threads=1))
    assert changed_plans(f"{digest}  {name}\n") == 0
    assert changed_plans(f"{'0' * 64}  {name}\n") == 1
