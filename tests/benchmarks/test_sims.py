"""The suite's runner: what its rows say of themselves."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import render, sims
from benchmarks.recipes import RECIPES
from benchmarks.record import read_result
from benchmarks.sims import EPISODES, FAR_EPISODES, command_of, judge
from hnet_vjepa import zoo
from hnet_vjepa.checkpoint import read_manifest
from hnet_vjepa.config import load_config
from sims.core.registry import get_task


@pytest.mark.parametrize(
    ("asked", "command"),
    [
        ((False, EPISODES, FAR_EPISODES), "python -m benchmarks.sims reacher"),
        ((True, EPISODES, FAR_EPISODES), "python -m benchmarks.sims reacher --zoo"),
        ((True, 100, 20), "python -m benchmarks.sims reacher --zoo --episodes 100 --far-episodes 20"),
    ],
)
def test_a_row_names_the_command_that_makes_it_again(asked: tuple[bool, int, int], command: str) -> None:
    assert command_of("reacher", *asked) == command


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_of_a_task_and_a_configuration_that_exist(name: str) -> None:
    recipe = RECIPES[name]
    assert get_task(name).name == name
    config = load_config(recipe.config)
    assert all(config.phase(phase).steps > 0 for phase in recipe.phases)
    assert set(recipe.goals) <= {"text", "label"}


@pytest.mark.parametrize(
    ("weights", "episodes", "more_steps", "known"),
    [("these", 3, 0, True), ("others", 3, 0, False), ("these", 4, 0, False), ("these", 3, 1, False)],
)
def test_only_the_same_weights_in_as_many_episodes_and_steps_are_not_judged_again(
    weights: str, episodes: int, more_steps: int, known: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = get_task("fetch-push")
    content = {"conditions": {"weights": weights}, "episodes_asked": episodes}
    (tmp_path / "evaluation").mkdir()
    path = tmp_path / "evaluation" / "image.json"
    path.write_text(json.dumps({**content, "steps": task.evaluation_steps + more_steps}))
    planner = SimpleNamespace(card=SimpleNamespace(fingerprint="these"))
    monkeypatch.setattr(sims, "load_planner", lambda checkpoint, threads: planner)

    def judged(*_: object) -> None:
        raise InterruptedError

    monkeypatch.setattr(sims, "check_card", judged)  # the first thing that an evaluation does
    if known:
        assert judge(task, tmp_path, tmp_path, "image", None, 3)["conditions"]["weights"] == "these"
    else:
        with pytest.raises(InterruptedError):
            judge(task, tmp_path, tmp_path, "image", None, 3)


def test_the_row_of_a_model_that_was_told_the_state_is_starred(monkeypatch: pytest.MonkeyPatch) -> None:
    result = read_result("sims")
    for name, metrics in result["metrics"].items():
        metrics.pop("state_supervision", None)
        if name == "reacher":
            metrics["state_supervision"] = ["elbow (rad)"]
    monkeypatch.setattr(render, "read_result", lambda name: result)
    for table in (render.sims_success(), render.sims_distances()):
        assert "`reacher` \\*" in table and "\n\\* Trained with state supervision" in table
        assert "`two-room` |" in table
    result["metrics"]["reacher"].pop("state_supervision")
    assert "\\*" not in render.sims_success() + render.sims_distances()


def test_a_standard_judgement_keeps_the_rest_of_the_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Image goals are counted anew; distances stay, and the row names the command and commit that they are of."""
    rate = {"value": 0.5, "low": 0.4, "high": 0.6}
    success = {"5 cm": {"end": rate, "ever": {**rate, "value": 0.75}, "held": {**rate, "value": 0.25}}}
    summary = {name: {"success": success} for name in ("planner", "random", "scripted")}
    standard = {"summary": summary, "criteria": ["5 cm"], "steps": 15, "excluded": 2, "comparisons": {}}
    monkeypatch.setattr(sims, "judge", lambda *_: standard)
    monkeypatch.setattr(sims, "diagnosis", lambda *_: "sound")
    metrics = {"success_end": 0.9, "success_end_d25": 0.8, "episodes": 300}
    behind = {"command": "old", "date": "then", "commit": "c0", "machine": {}, "weights": "w0", "summary": {"d25": 1}}
    path = zoo.path("fetch-reach")
    found, row = sims.standard_again(get_task("fetch-reach"), path, tmp_path, 40, metrics, behind, "new")
    assert (found["success_end"], found["success_ever"], found["success_held"]) == (0.5, 0.75, 0.25)
    assert (found["success_end_d25"], found["episodes"]) == (0.8, 40)
    assert row["summary"] == {"d25": 1, "image": summary} and row["command"] == "new" and row["diagnosis"] == "sound"
    assert row["earlier"]["commit"] == "c0" and row["weights"] == read_manifest(path).fingerprint
    again = sims.standard_again(get_task("fetch-reach"), path, tmp_path, 40, found, row, "newer")[1]
    assert again["earlier"]["commit"] == "c0"
