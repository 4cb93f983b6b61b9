"""Success ever, at the end and held, counted by hand: rates, comparisons, tables, report and sweeps."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from hnet_vjepa.planning.goals.state import ImageGoal
from sims.core.variation import Variation
from sims.evaluation import robustness
from sims.evaluation.pairs import Pair
from sims.evaluation.results import EvaluationResult, MethodResult, Rollout, as_text, to_json
from sims.evaluation.robustness import STRENGTHS, sweep
from sims.reporting.report import render_report
from sims.tasks import fetch_reach

TASK = fetch_reach.TASK

# Whether the criterion is met at the start and after each of four actions.     ever  end  held
PLANNER = ("00111", "01001", "01100", "00000", "10000")  # of five episodes       3    2     1
PLANNER_STRICT = ("00001", "00010", "00000", "00000", "00000")  #                 2    1     0
RANDOM = ("01000", "00000", "00001", "01110", "00000")  #                         3    1     0
NEVER = ("00000",) * 5


def method(name: str, loose: tuple[str, ...], strict: tuple[str, ...]) -> MethodResult:
    """Five episodes; distances fit the criteria of 5 and 2 cm."""
    rollouts = []
    for i, (a, b) in enumerate(zip(loose, strict, strict=True)):
        met = tuple((x == "1", y == "1") for x, y in zip(a, b, strict=True))
        distances = tuple(0.01 if y else 0.04 if x else 0.2 for x, y in met)
        frames = np.zeros((len(a), 4, 4, 3), np.uint8)
        rollouts.append(Rollout(i, i, distances, met, (1.0,) * 4 if name == "planner" else (), {}, (), (), frames))
    return MethodResult(name, tuple(rollouts))


RESULT = EvaluationResult(
    task="fetch-reach",
    split="test",
    seed=0,
    goal="image",
    distance=None,
    criteria=("5 cm", "2 cm"),
    unit="m",
    steps=4,
    excluded=0,
    methods=(method("random", RANDOM, NEVER), method("planner", PLANNER, PLANNER_STRICT)),
    conditions={},
)


def test_rates() -> None:
    counts = {m.name: [[r.successes for r in m.rates(i).values()] for i in (0, 1)] for m in RESULT.methods}
    assert counts == {"random": [[3, 1, 0], [0, 0, 0]], "planner": [[3, 2, 1], [2, 1, 0]]}
    assert [list(m.rates(0)) for m in RESULT.methods] == [["ever", "end", "held"]] * 2
    assert all(rate.trials == 5 for m in RESULT.methods for rate in m.rates(0).values())


def test_methods_are_compared_at_the_end() -> None:
    """By *ever* one episode would be on either side (1 and 3); by *held* one on the first (0)."""
    loose, strict = RESULT.compare("planner", "random", 0), RESULT.compare("planner", "random", 1)
    assert (loose.only_first, loose.only_second, loose.difference) == (2, 1, pytest.approx(0.2))  # 0 and 1; 2
    assert (strict.only_first, strict.only_second, strict.difference) == (1, 0, pytest.approx(0.2))
    swapped = RESULT.compare("random", "planner", 0)
    assert (swapped.only_first, swapped.only_second, swapped.difference) == (1, 2, pytest.approx(-0.2))


def test_json() -> None:
    value = json.loads(json.dumps(to_json(RESULT)))
    success = value["summary"]["planner"]["success"]
    assert {when: rate["successes"] for when, rate in success["5 cm"].items()} == {"ever": 3, "end": 2, "held": 1}
    assert {when: rate["successes"] for when, rate in success["2 cm"].items()} == {"ever": 2, "end": 1, "held": 0}
    compared = value["comparisons"]["random"]["5 cm"]
    assert (compared["only_first"], compared["only_second"]) == (2, 1)


def test_table() -> None:
    lines = as_text(RESULT).splitlines()
    [row] = [re.findall(r"(\d+) \[", line)[:3] for line in lines if line.startswith("planner  ")]
    assert row == ["60", "40", "20"]  # of five, in per cent
    assert any(line.startswith("planner against random, 5 cm at the end: +20 points [") for line in lines)


def test_report() -> None:
    goal = np.zeros((4, 4, 3), np.uint8)
    pair = Pair(
        0, 0, np.zeros(1), np.zeros(3, np.float32), np.zeros(1), np.zeros(3, np.float32), goal, ImageGoal(goal), ()
    )
    page = render_report(TASK, RESULT, [replace(pair, index=i) for i in range(5)]).decode()
    assert "Planner: 2 of 5 episodes ended within 5 cm of the goal" in page and "; random 1." in page
    rows = [re.sub(r"<small>[^<]*</small>", "", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]
    cells = [re.sub(r"<[^>]*>", "", re.sub(r"</td>", "|", row)).split("|") for row in rows]
    [planner] = [row for row in cells if row[0] == "planner"]
    assert planner[1:5] == ["5 cm", "60 %", "40 %", "20 %"]
    [against] = [row for row in cells if row[0] == "random, 5 cm"]
    assert against[1:4] == ["+20", "2", "1"]
    assert "(2 cm at the end; the first 1)" in page and "(not 2 cm at the end; the farthest 4)" in page


def test_sweeps_count_the_end_by_the_first_criterion(monkeypatch: pytest.MonkeyPatch) -> None:
    """One more episode per strength is lost at its end; ever, held and the other criterion stay as they are."""
    kept, varied = ("01111", "00111", "00111", "00111", "00111"), list[float]()
    simulation: Any = SimpleNamespace(vary=lambda variation: varied.append(variation.strength))

    def play(task: Any, simulation: Any, policy: Any, *_: Any, **__: Any) -> MethodResult:
        lost = STRENGTHS.index(varied[-1])
        loose = tuple("01110" if i < lost else steps for i, steps in enumerate(kept))
        return method(policy.name, loose, kept) if policy.name == "planner" else method("random", RANDOM, kept)

    monkeypatch.setattr(robustness, "play", play)
    monkeypatch.setattr(robustness, "under_variation", lambda simulation, pairs: pairs)
    trained = replace(RESULT, methods=(method("random", RANDOM, kept), method("planner", kept, NEVER)))
    planner, random = SimpleNamespace(name="planner"), SimpleNamespace(name="random")
    found = sweep(TASK, simulation, "light", planner, random, [], trained, progress=False)  # type: ignore[arg-type]
    assert [rate.successes for rate in found.planner] == [5, 4, 3, 2, 1]
    assert [rate.successes for rate in found.random] == [1] * 5
    assert varied == [0.25, 0.5, 0.75, 1.0, 0.0]
    assert found.works_up_to() == 0.0  # 80 % is more than ten points below 100 %


def test_a_variation_is_taken_back_when_an_episode_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    varied: list[Variation] = []
    simulation: Any = SimpleNamespace(vary=varied.append)

    def play(*_: Any, **__: Any) -> MethodResult:
        raise RuntimeError("the service stopped")

    monkeypatch.setattr(robustness, "play", play)
    monkeypatch.setattr(robustness, "under_variation", lambda simulation, pairs: pairs)
    policies = [SimpleNamespace(name=name) for name in ("planner", "random")]
    with pytest.raises(RuntimeError, match="the service stopped"):
        sweep(TASK, simulation, "light", *policies, [], RESULT, progress=False)  # type: ignore[arg-type]
    assert varied == [Variation("light", 0.25), Variation("light", 0.0)]
