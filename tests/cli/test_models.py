"""Shipped models: --model, hnet models, hnet export, their cards, and what a wheel holds of them."""

from __future__ import annotations

import json
import shutil
import sys
import tomllib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import cli.main
from benchmarks import cards
from benchmarks.recipes import RECIPES
from cli import models
from hnet_vjepa import zoo
from hnet_vjepa.checkpoint import Manifest, load_checkpoint, read_manifest, save_checkpoint
from hnet_vjepa.errors import UserError
from hnet_vjepa.export import export
from sims.core.registry import TASKS
from sims.evaluation.statistics import wilson
from tests.cli.test_errors import refused

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def folder(toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A zoo with one model, 'square', that was trained for the task 'square'."""
    whole = load_checkpoint(toy_run / "action")
    phases = tuple(record.model_copy(update={"data": "square"}) for record in whole.manifest.phases)
    save_checkpoint(tmp_path / "whole", whole.model, whole.manifest.model_copy(update={"phases": phases}))
    monkeypatch.setattr(zoo, "FOLDER", tmp_path / "zoo")
    monkeypatch.setenv(zoo.CACHE_VARIABLE, str(tmp_path / "cache"))
    export(tmp_path / "whole", tmp_path / "zoo" / "square")
    return tmp_path / "zoo" / "square"


def results(weights: str, **more: Any) -> dict[str, Any]:
    """What benchmarks/results/sims.json would say of it."""
    shares = {"random": 3, "planner": 80, "scripted": 99}
    rates = {name: asdict(wilson(count, 100)) for name, count in shares.items()}
    summary = {name: {"success": {"5 cm": {"ever": r, "end": r, "held": r}}} for name, r in rates.items()}
    metrics = {
        "success_end": 0.8,
        "success_ever": 0.8,
        "random_success_end": 0.03,
        "ceiling_success_end": 0.99,
        "ci95": [0.71, 0.87],
        "episodes": 100,
    }
    row = {
        "command": "python -m benchmarks.sims square",
        "date": "2026-01-02",
        "commit": "0123",
        "machine": {"cpu": "a CPU", "cores": 2},
        "weights": weights,
        "steps": 15,
        "summary": {"image": summary, "d25": summary},
        **more,
    }
    return {"metrics": {"square": metrics}, "rows": {"square": row}}


def run(*words: str) -> str:
    done = CliRunner().invoke(cli.main.app, list(words))
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def test_names_and_paths(folder: Path) -> None:
    (folder.parent / "__pycache__").mkdir()
    assert zoo.names() == ["square"] and zoo.path("square") == folder
    with pytest.raises(UserError, match="unknown model 'squares'; choose one of: square"):
        zoo.path("squares")


def ship(folder: Path, **entry: Any) -> None:
    """Put a model 'round', which is not here, into the index of shipped models."""
    known = {"round": {"task": "round", "bytes": 2_000_000, "results": None, **entry}}
    (folder.parent / "index.json").write_text(json.dumps(known))


def test_a_shipped_model_that_is_not_here_is_refused_with_the_commands_that_get_it(folder: Path) -> None:
    ship(folder)
    assert zoo.names() == ["round", "square"]
    message = refused("serve", "--model", "round")
    assert "model 'round' is not here" in message
    assert "python -m benchmarks.sims round" in message and f"hnet export CHECKPOINT {zoo.cache_folder()}" in message


def test_a_model_in_the_cache_directory_is_found(folder: Path, tmp_path: Path) -> None:
    ship(folder)
    shutil.copytree(folder, tmp_path / "cache" / "round")
    shutil.copytree(folder, tmp_path / "cache" / "mine")
    shutil.copytree(folder, tmp_path / "cache" / "square")
    assert zoo.names() == ["mine", "round", "square"]
    assert zoo.path("round") == tmp_path / "cache" / "round" and zoo.path("mine") == tmp_path / "cache" / "mine"
    assert zoo.path("square") == folder  # the installed one counts


def test_the_cache_directory_is_the_user_s_unless_it_is_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(zoo.CACHE_VARIABLE, raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert zoo.cache_folder() == tmp_path / ".cache" / "hnet_vjepa" / "models"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert zoo.cache_folder() == tmp_path / "caches" / "hnet_vjepa" / "models"


def test_exactly_one_of_checkpoint_and_model_is_required(folder: Path) -> None:
    for command in ("serve", "evaluate", "diagnose"):
        message = refused(command)
        assert "--checkpoint" in message and "a shipped model (square)" in message
        assert "give --checkpoint or --model, not both" in refused(command, "--checkpoint", "x", "--model", "square")
        assert "unknown model 'round'; choose one of: square" in refused(command, "--model", "round")
    assert "only one of --url" in refused("evaluate", "--url", "http://x", "--model", "square")


def test_the_task_is_the_one_it_was_trained_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("evaluate", "diagnose"):
        assert "was trained on 'square', which is not a simulated task; give --task" in refused(
            command, "--model", "square"
        )
        monkeypatch.setitem(TASKS, "square", replace(TASKS["two-room"], name="square"))
        says = "32 x 40 pictures; square gives 64 x 64"
        assert says in refused(command, "--model", "square", "--out", str(folder.parent.parent / "out"))
        assert "fetch-reach gives 64 x 64" in refused(command, "--model", "square", "--task", "fetch-reach")
        monkeypatch.delitem(TASKS, "square")
    monkeypatch.setitem(TASKS, "square", TASKS["two-room"])
    assert models.trained_task(folder) == "square"


def test_evaluation_names_the_model_not_its_directory(folder: Path, toy_store: Path, tmp_path: Path) -> None:
    """Results do not depend on where the package is installed; scoring recordings takes a shipped model, too."""
    out = run("evaluate", "--model", "square", "--data", str(toy_store), "--out", str(tmp_path / "out"))
    assert (tmp_path / "out" / "table.txt").read_text() == out


def test_models_are_listed_with_where_they_are(folder: Path) -> None:
    listed = " ".join(run("models").split())
    assert listed.startswith("square task: square phases: pretrain, language, probe, action size: ")
    assert "reached: not measured" in listed and f"where: {folder}" in listed
    ship(folder, results=results("")["metrics"]["square"])
    listed = " ".join(run("models").split())
    assert listed.startswith("round task: round size: 2.0 MB reached: 80% at the end of 100 episodes")
    assert "(95 % interval 71% to 87%); random actions 3%, ceiling 99% where: not here: " in listed


def test_export_command(toy_run: Path, tmp_path: Path) -> None:
    out = run("export", str(toy_run / "action"), str(tmp_path / "small"))
    assert out.startswith(f"{tmp_path / 'small'}: ") and out.endswith("left out: target, predictor, dechunker\n")
    assert read_manifest(tmp_path / "small").left_out
    assert "is not a checkpoint" in refused("export", str(tmp_path), str(tmp_path / "x"))
    assert "training can go on from" in refused("export", str(toy_run / "action"), str(toy_run / "action"))


def test_a_card_has_origin_and_results(folder: Path) -> None:
    model = cards.read_model("square")
    card = cards.render_card(model, results(model.manifest.exported_from))
    for said in (
        "# square\n",
        "`hnet serve --model square`",
        "square: seed 0;",
        "pretrain (4 steps, ",
        "`python -m benchmarks.sims square`",
        f"`{model.manifest.fingerprint}`",
        f"{model.parameters:,} parameters",
        "target, predictor, dechunker: not needed for planning",
        "| image | 5 cm | 3 % (1–8) | 80 % (71–87) | 80 % (71–87) | 99 % (95–100) |",
        "| image, 25 steps away | 5 cm | 3 % (1–8) |",
        "Measured by `python -m benchmarks.sims square` on 2026-01-02 (a CPU, 2 cores; commit 0123).",
        "open-loop error, 1 step",
    ):
        assert said in card, said
    assert "Diagnosis" not in card and "licence" not in card
    known = replace(model, description="a square that slides", licence="MIT")
    card = cards.render_card(known, results(model.manifest.fingerprint, diagnosis="It overshoots."))
    assert card.endswith("## Diagnosis\n\nIt overshoots.\n")
    assert "| licence of the simulator | MIT |" in card and "`square`: a square that slides" in card


def test_a_card_has_no_results_of_other_weights(folder: Path) -> None:
    model = cards.read_model("square")
    for other in ({}, results("0123"), {"metrics": {}, "rows": {}}):
        assert "Not measured with these weights." in cards.render_card(model, other)


def test_cards_are_written_and_checked(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cards, "RESULTS", tmp_path)
    monkeypatch.setattr(cards, "read_result", lambda name: json.loads((tmp_path / f"{name}.json").read_text()))
    (tmp_path / "sims.json").write_text(json.dumps(results(read_manifest(folder).exported_from)))
    monkeypatch.setattr(sys, "argv", ["cards", "--check"])
    with pytest.raises(SystemExit, match=r"stale: square/CARD.md, square/results.json, zoo/index.json; run "):
        cards.main()
    monkeypatch.setattr(sys, "argv", ["cards"])
    cards.main()
    assert cards.stale() == {}
    assert "80%" in run("models")
    (folder / "CARD.md").write_text("by hand")
    assert list(cards.stale()) == [folder / "CARD.md"]


def test_committed_cards_are_current() -> None:
    assert not cards.stale(), "run python -m benchmarks.cards"


def test_all_tasks_with_a_recipe_are_shipped() -> None:
    """The index does not depend on which models are here; nor does the list of names."""
    assert set(zoo.index()) == set(RECIPES)
    assert set(RECIPES) <= set(zoo.names())


@pytest.mark.parametrize("name", cards.shipped())
def test_shipped_checkpoints_are_whole_exports_of_a_task(name: str) -> None:
    checkpoint = load_checkpoint(zoo.path(name))
    assert isinstance(checkpoint.manifest, Manifest) and checkpoint.manifest.left_out
    assert models.trained_task(zoo.path(name)) in TASKS


def test_a_wheel_holds_one_model_and_the_index_of_all() -> None:
    described = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    package = ROOT / "hnet_vjepa"
    packed = {file.relative_to(package) for pattern in described["hnet_vjepa"] for file in package.glob(pattern)}
    model = {file.relative_to(package) for file in (package / "zoo" / "fetch-reach").iterdir()}
    assert {file for file in packed if file.parts[0] == "zoo"} == {Path("zoo/index.json"), *model}
    assert sum((package / file).stat().st_size for file in packed) < 6e6
