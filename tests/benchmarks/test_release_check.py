"""The release check: broken models fail, good ones pass, none is judged twice, none is skipped without a word."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import release_check
from benchmarks.record import read_result
from benchmarks.release_check import (
    ALPHA,
    Judgement,
    MissingExtraError,
    Outcome,
    as_text,
    check,
    kept,
    main,
    play_model,
    reference_of,
    source_hash,
)
from hnet_vjepa import zoo
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.interface import PlanQuery, PlanResult
from sims.core.registry import get_task


def row(successes: int, trials: int = 300) -> dict[str, Any]:
    """A row whose numbers other than success at the end, by the first criterion, must not be looked at."""
    rates = lambda end: {"ever": {"successes": trials, "trials": trials}, "end": {"successes": end, "trials": trials}}  # noqa: E731
    return {"summary": {"image": {"planner": {"success": {"5 cm": rates(successes), "2 cm": rates(0)}}}}}


def judged(found: int, successes: int, pairs: int = 20) -> Judgement:
    [judgement] = check(
        ["m"], {"m": row(successes)}, lambda name, n: Outcome({"5 cm": found, "2 cm": 0}, n, 1.0), pairs
    )
    return judgement


@pytest.mark.parametrize(
    ("found", "successes", "below"),
    [
        (0, 253, True),  # the drawer whose policy prior read its inputs in another order
        (8, 253, True),
        (17, 253, False),
        (20, 300, False),
        (19, 300, False),  # one failure of 20 is no evidence against 300 of 300
        (17, 300, True),
        (2, 87, False),
        (0, 87, True),
    ],
)
def test_a_broken_model_fails_and_a_good_one_passes(found: int, successes: int, below: bool) -> None:
    judgement = judged(found, successes)
    assert judgement.below == below and judgement.passes(allow_missing=False) != below


def test_the_threshold_is_that_of_scipy() -> None:
    stats = pytest.importorskip("scipy.stats")
    for successes in (87, 194, 253, 286, 300):
        for found in range(21):
            table = [[found, 20 - found], [successes, 300 - successes]]
            expected = stats.fisher_exact(table, alternative="less").pvalue
            assert judged(found, successes).p_value == pytest.approx(expected, rel=1e-9)


def test_an_unchanged_model_fails_in_less_than_one_per_cent_of_the_checks() -> None:
    """The check's pairs are 20 of the row's 300: every choice of them, weighted, for every possible row."""
    stats = pytest.importorskip("scipy.stats")
    for successes in range(0, 301, 7):
        chance = stats.hypergeom(300, successes, 20)
        assert sum(chance.pmf(k) for k in range(21) if judged(k, successes).below) < ALPHA


def test_what_could_not_be_judged_is_named_and_fails() -> None:
    def judge(name: str, pairs: int) -> Outcome:
        if name == "missing":
            raise MissingExtraError("pip install 'hnet-vjepa[cube]'")
        if name == "other":
            raise UserError("test pair 3 of other differs by 0.002")
        return Outcome({"5 cm": 20}, pairs, 1.0)

    said: list[str] = []
    rows = {name: row(300) for name in ("good", "missing", "other")}
    found = check(["good", "missing", "other", "rowless"], rows, judge, say=said.append)
    assert [j.passes(allow_missing=False) for j in found] == [True, False, False, False]
    assert [j.passes(allow_missing=True) for j in found] == [True, True, False, False]
    text = as_text(found)
    assert "NOT JUDGED: not installed: pip install 'hnet-vjepa[cube]'" in text
    assert "NOT JUDGED: test pair 3 of other differs" in text and "NOT JUDGED: it has no row" in text
    assert text.endswith("1 of 4 models judged; below their row (p < 0.01): none; NOT JUDGED: missing, other, rowless")
    assert len(said) == 4


def test_a_finished_model_is_taken_from_the_work_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def judge(name: str, pairs: int) -> Outcome:
        asked.append(name)
        if name == "push-t" and len(asked) == 2:
            raise KeyboardInterrupt
        return Outcome({"5 cm": 20}, pairs, 1.0)

    rows = {name: row(300) for name in ("fetch-reach", "push-t")}
    run = lambda source="a", pairs=20: check(list(rows), rows, kept(judge, tmp_path, source), pairs)  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        run()
    assert run() == run() and asked == ["fetch-reach", "push-t", "push-t"]
    run("b")  # another planner
    run("b", 30)  # more pairs
    assert asked[3:] == ["fetch-reach", "push-t"] * 2
    manifest = release_check.read_manifest(zoo.path("fetch-reach"))
    other = manifest.model_copy(update={"files": {**manifest.files, "weights.safetensors": "other"}})
    monkeypatch.setattr(release_check, "read_manifest", lambda path: other)
    run("b", 30)  # other weights
    assert asked[7:] == ["fetch-reach", "push-t"]
    (tmp_path / "push-t.json").write_text("{")
    run("b", 30)
    assert asked[9:] == ["push-t"]


def test_the_source_hash_follows_planner_and_tasks_only(tmp_path: Path) -> None:
    for folder in ("hnet_vjepa/planning", "sims/tasks", "sims/reporting"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "a.py").write_text("1")
    hashes = [source_hash(tmp_path)]
    for file in ("sims/reporting/a.py", "hnet_vjepa/planning/a.py", "sims/tasks/a.py"):
        (tmp_path / file).write_text("2")
        hashes.append(source_hash(tmp_path))
    assert hashes[0] == hashes[1] and len(set(hashes)) == 3


class Guided:
    """A planner that is at the goal after a few steps; it stays there, leaves it in the last steps, or never moves."""

    def __init__(self, does: str) -> None:
        self.does, self.task = does, get_task("fetch-reach")
        action, camera = self.task.action, self.task.camera
        self.card = SimpleNamespace(camera=camera, action=action, goals=("image",), history=1)
        self.simulation: Any = None

    def plan(self, queries: list[PlanQuery]) -> list[PlanResult]:
        actions = np.zeros((1, 7), np.float32)
        if self.does == "leaves" and queries[0].seed % 1000 >= 10:  # the step
            actions[0, :3] = 0.05
        elif self.does != "rests":
            actions[0] = self.task.controller(self.goals[queries[0].goal.frame.tobytes()])(self.simulation.state())  # type: ignore[union-attr]
        return [PlanResult(actions, np.zeros(1, np.float32), 1.0, False, 1, np.zeros((1, 1), np.float32))]


@pytest.mark.parametrize("does", ["stays", "leaves", "rests"])
def test_what_is_played_are_the_test_pairs_of_the_manifest(does: str, monkeypatch: pytest.MonkeyPatch) -> None:
    guided, make = Guided(does), release_check.make_pairs

    def make_pairs(task: Any, simulation: Any, split: str, seed: int, *words: Any) -> Any:
        pairs = make(task, simulation, split, seed, *words)  # type: ignore[arg-type]
        assert (split, seed) == ("test", 0)
        guided.simulation, guided.goals = simulation, {p.goal_frame.tobytes(): p.goal_state for p in pairs}
        return pairs

    monkeypatch.setattr(release_check, "make_pairs", make_pairs)
    monkeypatch.setattr(release_check, "load_planner", lambda path, threads: guided)
    outcome = play_model("fetch-reach", 8)
    assert outcome.trials == 8 and outcome.successes == dict.fromkeys(
        ("5 cm", "3 cm", "2 cm"), 8 if does == "stays" else 0
    )
    [judgement] = check(["fetch-reach"], {"fetch-reach": row(300)}, lambda name, pairs: outcome)
    assert judgement.below == (does != "stays")


def test_a_simulator_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    task = get_task("push-t")

    def absent() -> Any:
        try:
            raise ImportError("gym_pusht")
        except ImportError as error:
            raise UserError(f"push-t needs gym-pusht: {task.needs}") from error

    monkeypatch.setattr(release_check, "get_task", lambda name: replace(task, open=absent))
    with pytest.raises(MissingExtraError, match="pip install"):
        play_model("push-t", 1)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    names = zoo.names()
    rows = read_result("sims")["rows"]
    assert set(names) <= set(rows) and all(reference_of(rows[name]).trials == 300 for name in names)
    ends = {name: reference_of(rows[name]) for name in names}
    broken: set[str] = set()

    def judge(name: str, pairs: int) -> Outcome:
        reference = ends[name]
        share = 0 if name in broken else reference.successes / reference.trials
        return Outcome({reference.criterion: round(share * pairs)}, pairs, 1.0)

    monkeypatch.setattr(release_check, "play_model", judge)
    recorded: list[Any] = []
    monkeypatch.setattr(release_check, "merge_result", lambda *words, **more: recorded.append((words, more)))
    words = ["--zoo", "--check", "--work"]
    assert main([*words, str(tmp_path / "a")]) == 0 and not recorded
    assert f"{len(names)} of {len(names)} models judged" in capsys.readouterr().out
    broken.add("meta-world-drawer-open")
    assert main([*words, str(tmp_path / "b"), "--record"]) == 1
    assert "below their row (p < 0.01): meta-world-drawer-open" in capsys.readouterr().out
    [(written, more)] = recorded
    assert written[-1] == {"zoo_models_judged": len(names), "zoo_models_below_row": 1}
    assert json.loads(json.dumps(more))["models"]["meta-world-drawer-open"]["outcome"]["trials"] == 20
    assert main([*words, str(tmp_path / "b"), "two-room"]) == 0
    assert main([*words, str(tmp_path / "b"), "rubber-duck"]) == 2
    assert "unknown model 'rubber-duck'; choose one of: fetch-pick-and-place" in capsys.readouterr().err
