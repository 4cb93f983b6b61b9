"""Checkpoints for planning only: smaller, plan the same, refused when altered, and what training makes of them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from hnet_vjepa.checkpoint import load_checkpoint, read_manifest
from hnet_vjepa.errors import UserError
from hnet_vjepa.export import export, size, stored
from hnet_vjepa.pipeline import run_pipeline
from hnet_vjepa.planning.goals.label import LabelGoal
from hnet_vjepa.planning.goals.state import ImageGoal, LatentGoal
from hnet_vjepa.planning.goals.text import TextGoal
from hnet_vjepa.planning.inspect import Inspector
from hnet_vjepa.planning.interface import Goal, PlanQuery, SearchSettings
from hnet_vjepa.planning.planner import load_planner
from hnet_vjepa.viz.chunk_sheet import chunk_sheet
from tests import toy


@pytest.fixture(scope="module")
def whole(toy_run: Path) -> Path:
    return toy_run / "action"


@pytest.fixture(scope="module")
def exported(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return export(whole, tmp_path_factory.mktemp("export") / "model")


def test_it_is_smaller_and_says_what_it_is(whole: Path, exported: Path) -> None:
    assert size(exported) < size(whole) / 2
    before, after = read_manifest(whole), read_manifest(exported)
    assert after.left_out == ("target", "predictor", "dechunker")
    assert after.exported_from == before.fingerprint != after.fingerprint
    assert after.phases == before.phases and after.reached_energy == before.reached_energy
    weights = safetensors.torch.load((exported / "weights.safetensors").read_bytes())
    assert not any(after.lacks(name) for name in weights)
    assert {tensor.dtype for tensor in weights.values()} >= {torch.float16}
    assert load_planner(exported).card.parameters < load_planner(whole).card.parameters


@pytest.mark.parametrize("goal", [ImageGoal(toy.picture(24, 24)), TextGoal("go left"), LabelGoal(("right",))])
def test_it_plans_the_same(goal: Goal, whole: Path, exported: Path) -> None:
    frames = np.stack([toy.picture(8, 10), toy.picture(9, 10)])
    # With one candidate both score the same actions.
    for search in (SearchSettings(1, 1, 4, 1), None):
        query = PlanQuery(frames, goal, seed=3, search=search)
        [before], [after] = load_planner(whole).plan([query]), load_planner(exported).plan([query])
        assert after.energy_now == pytest.approx(before.energy_now, rel=0.01)
        np.testing.assert_allclose(after.energies, before.energies, rtol=0.01)


def test_diagnosis_and_chunk_pictures_need_nothing_that_is_left_out(whole: Path, exported: Path) -> None:
    checkpoint = load_checkpoint(exported)
    frames = np.stack([toy.picture(x, 10) for x in (8, 12, 16)])
    assert chunk_sheet(checkpoint.model, frames) == chunk_sheet(load_checkpoint(whole).model, frames)
    seen = [Inspector(c) for c in (load_checkpoint(whole), checkpoint)]
    done = np.zeros((2, 7), np.float32)
    np.testing.assert_allclose(*(i.prev_action(i.episode(frames, done)) for i in seen), atol=0.05)
    torch.manual_seed(1)  # whatever stands in the place of what is left out must not matter
    again = load_checkpoint(exported).model
    assert torch.equal(
        again.states(torch.zeros(1, 1, *toy.SHAPE))[0], checkpoint.model.states(torch.zeros(1, 1, *toy.SHAPE))[0]
    )


def test_heads_that_were_not_trained_are_left_out_too(toy_store: Path, tmp_path: Path) -> None:
    config = toy.config(pretrain={"steps": 1}, action={"steps": 1})
    last = run_pipeline(config, toy_store, tmp_path / "run", ("pretrain", "action"), progress=False)
    small = export(last, tmp_path / "small")
    assert read_manifest(small).left_out == ("target", "predictor", "dechunker", "text", "projector", "probe")
    planner = load_planner(small)
    assert planner.card.goals == ("image", "latent")
    frames, state = toy.picture(8, 10)[None], np.zeros(planner.card.state_shape, np.float32)
    for goal in (ImageGoal(toy.picture(24, 24)), LatentGoal(state)):
        [plan], [before] = (p.plan([PlanQuery(frames, goal, seed=3)]) for p in (planner, load_planner(last)))
        np.testing.assert_allclose(plan.energies, before.energies, rtol=0.01)


def test_half_precision_only_where_it_is_harmless() -> None:
    assert stored(torch.randn(100)).dtype == torch.float16
    assert stored(torch.zeros(3)).dtype == torch.float16
    for harmed in (torch.full((4,), 1e-7), torch.tensor([1.0, 1e6]), torch.tensor([float("nan")])):
        assert stored(harmed) is harmed
    whole = torch.arange(3)
    assert stored(whole) is whole


def test_an_export_can_be_exported_again_and_is_the_same(whole: Path, exported: Path, tmp_path: Path) -> None:
    twice = export(exported, tmp_path / "twice")
    assert read_manifest(twice) == read_manifest(exported)
    (twice / "CARD.md").write_text("of an earlier export")
    assert [p.name for p in export(whole, twice).glob("*.md")] == []


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", "robot.json", "manifest.json"])
def test_an_altered_file_is_refused(name: str, exported: Path, tmp_path: Path) -> None:
    path = Path(shutil.copytree(exported, tmp_path / "copy"))
    content = (path / name).read_bytes()
    middle = len(content) // 2
    (path / name).write_bytes(content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :])
    with pytest.raises(UserError, match=name):
        load_checkpoint(path)


def test_what_is_left_out_can_not_be_changed_unnoticed(whole: Path, exported: Path, tmp_path: Path) -> None:
    for source, change in ((exported, ["target"]), (whole, ["text"])):
        path = Path(shutil.copytree(source, tmp_path / change[0]))
        manifest = json.loads((path / "manifest.json").read_text())
        (path / "manifest.json").write_text(json.dumps({**manifest, "left_out": change}))
        with pytest.raises(UserError, match="not the file that was saved"):
            load_checkpoint(path)


def test_manifests_of_older_checkpoints_hold(whole: Path, tmp_path: Path) -> None:
    """They have none of the newer fields, and their hash was taken without."""
    path = Path(shutil.copytree(whole, tmp_path / "old"))
    manifest = json.loads((path / "manifest.json").read_text())
    assert manifest.pop("words") and not manifest.pop("left_out") and not manifest.pop("exported_from")
    (path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="not the file that was saved"):  # its words were hashed
        read_manifest(path)
    wordless = Path(shutil.copytree(whole.parent / "pretrain", tmp_path / "wordless"))
    manifest = json.loads((wordless / "manifest.json").read_text())
    for field in ("words", "left_out", "exported_from"):
        assert not manifest.pop(field)
    (wordless / "manifest.json").write_text(json.dumps(manifest))
    assert load_checkpoint(wordless).manifest.trained() == ("pretrain",)


def test_training_goes_on_from_it_and_says_what_starts_fresh(
    exported: Path, toy_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = {"steps": 1, "learning_rate": 1e-9}
    config = toy.config(action=slow, heads=slow, pretrain={"steps": 2})
    last = run_pipeline(config, toy_store, tmp_path / "tuned", ("action",), init_from=exported, progress=False)
    assert f"{exported} is for planning only: target, predictor, dechunker start fresh" in capsys.readouterr().out
    tuned, given = load_checkpoint(last), load_checkpoint(exported)
    assert tuned.manifest.left_out == () and tuned.manifest.exported_from == ""
    assert tuned.manifest.trained() == given.manifest.trained() and tuned.manifest.words == given.manifest.words
    for name, tensor in given.model.named_parameters():
        if not given.manifest.lacks(name):
            torch.testing.assert_close(tuned.model.get_parameter(name), tensor, atol=1e-5, rtol=1e-4, msg=name)
    again = run_pipeline(config, toy_store, tmp_path / "again", ("pretrain",), init_from=exported, progress=False)
    model = load_checkpoint(again).model
    target, student = model.target.state_dict(), model.backbone.state_dict()  # the target began as the backbone
    assert all(torch.allclose(target[name], student[name], atol=0.05) for name in target)


def test_what_is_refused(toy_run: Path, exported: Path, whole: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no dynamics and can not plan"):
        export(toy_run / "pretrain", tmp_path / "x")
    with pytest.raises(UserError, match="is not a checkpoint"):
        export(tmp_path, tmp_path / "x")
    for out, says in (
        (whole, "holds a checkpoint that training can go on from"),
        (toy_run, "holds something else"),
        (whole / "config.json", "is a file"),
    ):
        with pytest.raises(UserError, match=says):
            export(whole, out)
    mine = Path(shutil.copytree(exported, tmp_path / "mine"))
    (mine / "notes.txt").write_text("kept")
    with pytest.raises(UserError, match="holds something else"):
        export(whole, mine)
    assert (mine / "notes.txt").read_text() == "kept"
