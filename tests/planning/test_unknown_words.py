"""Words that no training caption had: the model can not know them, and the answer says so."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hnet_vjepa.checkpoint import load_checkpoint, save_checkpoint
from hnet_vjepa.pipeline import run_pipeline
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.goals.text import TextGoal
from hnet_vjepa.planning.interface import Goal, PlanQuery
from hnet_vjepa.planning.planner import WorldModelPlanner, load_planner
from planner_service.app import create_app
from planner_service.client import PlannerClient
from tests import toy
from tests.service.fakes import serving_ready

FRAMES = np.stack([toy.picture(8, 10), toy.picture(9, 10)])
KNOWN = ("at", "go", "is", "left", "right", "square", "the")


def warnings(planner: WorldModelPlanner, goal: Goal) -> tuple[str, ...]:
    return planner.plan([PlanQuery(FRAMES, goal)])[0].warnings


def test_a_plan_says_which_words_are_unknown(toy_run: Path) -> None:
    planner = load_planner(toy_run / "action")
    assert warnings(planner, TextGoal("The square is at the RIGHT")) == ()
    assert warnings(planner, TextGoal("park the square, park it left")) == (
        "unknown words: park, it; no training caption had them",
    )
    assert warnings(planner, ImageGoal(toy.picture(20, 20))) == ()


def test_the_service_passes_it_on(toy_run: Path) -> None:
    with serving_ready(create_app(load_planner(toy_run / "action"))) as url, PlannerClient(url) as client:
        assert client.plan(FRAMES, TextGoal("go left")).warnings == ()
        [warning] = client.plan(FRAMES, TextGoal("go west")).warnings
        assert warning.startswith("unknown words: west;")


def test_an_older_checkpoint_does_not_know_its_words(toy_run: Path, toy_store: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(toy_run / "action")
    wordless = checkpoint.manifest.model_copy(update={"words": ()})
    assert warnings(WorldModelPlanner(replace(checkpoint, manifest=wordless)), TextGoal("go west")) == ()
    save_checkpoint(tmp_path / "old", checkpoint.model, wordless)
    config = toy.config(action={"steps": 1})
    tuned = run_pipeline(config, toy_store, tmp_path / "tuned", ("action",), tmp_path / "old", progress=False)
    assert load_checkpoint(tuned).manifest.words == ()  # these are not all captions that it was trained on


@pytest.mark.parametrize(
    ("phase", "words"), [("pretrain", ()), ("language", KNOWN), ("probe", KNOWN), ("action", KNOWN)]
)
def test_the_manifest_holds_the_words_of_the_captions(phase: str, words: tuple[str, ...], toy_run: Path) -> None:
    assert load_checkpoint(toy_run / phase).manifest.words == words


@pytest.mark.slow
def test_fine_tuning_adds_words_and_pretraining_again_forgets_them(
    toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = toy.episode
    monkeypatch.setattr(toy, "episode", lambda i, n: replace(real(i, n), captions=(("go west",),) * n))
    west = toy.make_store(tmp_path / "west")
    config = toy.config(**{phase: {"steps": 1} for phase in ("pretrain", "language", "action")})
    for phases, words in (
        (("action",), {*KNOWN, "west"}),
        (("pretrain",), set()),
        (("pretrain", "language"), {"go", "west"}),
    ):
        out = tmp_path / "-".join(phases)
        last = run_pipeline(config, west, out, phases, toy_run / "action", progress=False)
        assert set(load_checkpoint(last).manifest.words) == words
        shutil.rmtree(out)
