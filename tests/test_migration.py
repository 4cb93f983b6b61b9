"""Files of format 1: read as what they meant, or refused by name; never loaded as they are."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from hnet_vjepa import checkpoint as checkpoints
from hnet_vjepa import zoo
from hnet_vjepa.checkpoint import Manifest, amend_manifest, load_checkpoint, read_manifest
from hnet_vjepa.config import load_config, parse_config
from hnet_vjepa.errors import UserError
from hnet_vjepa.export import export
from hnet_vjepa.migration import FIELDS, FILES, FIRST_LAYER, MODULES, SECTIONS, current_module, rename_metrics
from hnet_vjepa.pipeline import run_pipeline
from hnet_vjepa.utils.files import sha256
from tests import toy

OLD_FIELDS = {new: old for names in FIELDS.values() for old, new in names.items()}
OLD_SECTIONS = {new: old for old, new in SECTIONS.items()}


def old_module(name: str) -> str:
    for old, new in MODULES.items():
        if name == new or name.startswith(f"{new}."):
            return old + name[len(new) :]
    return name


def old_fields(values: dict[str, Any], path: tuple[str, ...] = ()) -> dict[str, Any]:
    """A configuration as format 1 wrote it."""
    names = {new: old for old, new in FIELDS.get(path, {}).items()} if path else OLD_SECTIONS
    return {
        names.get(name, name): old_fields(value, (*path, name)) if isinstance(value, dict) else value
        for name, value in values.items()
    }


def slot_by_slot(weight: torch.Tensor, slots: int, state_dim: int) -> torch.Tensor:
    """Columns in the oldest order, moved one at a time: state, change and goal of slot 0, then of slot 1, ..."""
    moved, column = weight.clone(), 0
    for slot in range(slots):
        for part in range(3):
            for number in range(state_dim):
                moved[:, column] = weight[:, (part * slots + slot) * state_dim + number]
                column += 1
    return moved


def make_old(path: Path, oldest: bool) -> Path:
    """Rewrite a checkpoint as format 1; ``oldest``: from before the policy prior had a whitening."""
    config = json.loads((path / "config.json").read_text())
    weights = safetensors.torch.load((path / "weights.safetensors").read_bytes())
    if oldest:
        rows, columns = config["model"]["backbone"]["pooling"]["grid"]
        state_dim = config["model"]["world_model"]["state_dim"]
        weights[FIRST_LAYER] = slot_by_slot(weights[FIRST_LAYER], rows * columns, state_dim)
        weights = {n: t for n, t in weights.items() if not n.startswith("world_model.policy_prior.whitening.")}
    old = {old_module(name): tensor for name, tensor in weights.items()}
    (path / "weights.safetensors").write_bytes(safetensors.torch.save(old))
    (path / "config.json").write_text(json.dumps(old_fields(config)))
    for name, new in FILES.items():
        if (path / new).is_file():
            (path / new).rename(path / name)
    manifest = Manifest.model_validate_json((path / "manifest.json").read_bytes())
    files = {file.name: sha256(file) for file in path.iterdir() if file.name != "manifest.json"}
    left_out = tuple(map(old_module, manifest.left_out))
    manifest = manifest.model_copy(update={"format": 1, "files": files, "left_out": left_out})
    manifest.files["manifest.json"] = checkpoints._own_hash(manifest)
    (path / "manifest.json").write_text(json.dumps(manifest.model_dump(mode="json")))
    return path


@pytest.fixture
def trained(toy_run: Path, tmp_path: Path) -> Path:
    """A copy of the toy checkpoint that may be rewritten."""
    loaded = load_checkpoint(toy_run / "action")
    checkpoints.save_checkpoint(
        tmp_path / "action", loaded.model, loaded.manifest, ood=loaded.ood, goal_bank=loaded.goal_bank
    )
    return tmp_path / "action"


def test_every_old_name_has_one_new_name() -> None:
    assert len(OLD_FIELDS) == sum(map(len, FIELDS.values()))
    for old, new in MODULES.items():
        assert current_module(f"{old}.x") == f"{new}.x" and current_module(f"{old}x.y") == f"{old}x.y"


def test_a_whole_checkpoint_of_the_newer_order_is_read_as_it_was(trained: Path) -> None:
    before = load_checkpoint(trained)
    after = load_checkpoint(make_old(trained, oldest=False))
    for name, tensor in before.model.state_dict().items():
        assert torch.equal(after.model.state_dict()[name], tensor), name
    assert after.model.config == before.model.config
    assert (after.ood is None) == (before.ood is None) and after.ood is not None
    assert torch.equal(after.ood.whiten, before.ood.whiten)  # type: ignore[union-attr]


def test_a_whole_checkpoint_of_the_oldest_order_is_put_in_order(trained: Path) -> None:
    before = load_checkpoint(trained).model.state_dict()
    after = load_checkpoint(make_old(trained, oldest=True)).model.state_dict()
    assert torch.equal(after[FIRST_LAYER], before[FIRST_LAYER])
    stored = safetensors.torch.load((trained / "weights.safetensors").read_bytes())
    assert not torch.equal(stored["world_model.proposal.mlp.0.weight"], before[FIRST_LAYER])
    assert not after["world_model.policy_prior.whitening.fitted"]


def test_an_exported_checkpoint_of_format_1_is_refused_by_name(toy_run: Path, tmp_path: Path) -> None:
    small = make_old(export(toy_run / "action", tmp_path / "small"), oldest=False)
    with pytest.raises(UserError, match=r"small was exported with format 1, .*hnet export") as refused:
        load_checkpoint(small)
    assert "\n" not in str(refused.value)


def test_a_newer_format_is_refused_by_name(trained: Path) -> None:
    amend_manifest(trained, format=99)
    with pytest.raises(UserError, match=r"has format 99; this version reads formats 1 to 2"):
        read_manifest(trained)


def test_training_goes_on_from_an_old_checkpoint_and_writes_the_present_format(
    trained: Path, toy_store: Path, tmp_path: Path
) -> None:
    old = make_old(trained, oldest=False)
    last = run_pipeline(toy.config(), toy_store, tmp_path / "more", ("probe",), old, progress=False)
    manifest = read_manifest(last)
    assert manifest.format == checkpoints.FORMAT and manifest.trained()[-1] == "probe"
    names = safetensors.torch.load((last / "weights.safetensors").read_bytes())
    assert any(name.startswith("world_model.policy_prior.") for name in names)
    assert not any(current_module(name) != name for name in names)


def test_an_interrupted_run_of_format_1_goes_on(toy_store: Path, tmp_path: Path) -> None:
    """Its pipeline.json and its saved state have old names; it ends with the weights of a run without a break."""
    clean = run_pipeline(toy.config(), toy_store, tmp_path / "clean", ("pretrain",), progress=False)
    stopped = tmp_path / "stopped"
    run_pipeline(toy.config(), toy_store, stopped, ("pretrain",), progress=False)
    pipeline = json.loads((stopped / "pipeline.json").read_text())
    pipeline["settings"]["config"] = old_fields(pipeline["settings"]["config"])
    (stopped / "pipeline.json").write_text(json.dumps(pipeline))
    again = run_pipeline(toy.config(), toy_store, stopped, ("pretrain",), progress=False)
    assert (again / "weights.safetensors").read_bytes() == (clean / "weights.safetensors").read_bytes()


def test_old_field_names_are_accepted_with_one_line(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: fetch_push\nplan: {habit: 7, remembered: 3}\ngrounding: {steps: 5, keep: 0.25}\n")
    with caplog.at_level(logging.WARNING):
        config = load_config(str(file))
    assert (config.plan.behaviour_prior, config.plan.goal_bank_size) == (7, 3)
    assert config.encoder_adaptation is not None and config.encoder_adaptation.distillation == 0.25
    [record] = caplog.records
    said = record.getMessage()
    assert "plan.habit is now called plan.behaviour_prior" in said and "\n" not in said
    assert "grounding is now called encoder_adaptation" in said
    assert "encoder_adaptation.keep is now called encoder_adaptation.distillation" in said


def test_present_names_are_read_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        load_config("push_t")
    assert not caplog.records


def test_both_names_of_a_field_at_once_are_refused() -> None:
    values = {**toy.config().model_dump(mode="json")}
    values["plan"] = {"habit": 1.0, "behaviour_prior": 2.0}
    with pytest.raises(UserError, match=r"plan\.habit is the old name of plan\.behaviour_prior; give only one"):
        parse_config(values, "mine")


def test_old_metric_names_are_read_under_their_present_ones() -> None:
    old = {"readout_cm": 1.0, "state_readout_r2": 2.0, "grounded_readout_cm_mean_baseline": 3.0, "proposal_mse": 4.0}
    new = ("linear_probe_cm", "state_linear_probe_r2", "adapted_linear_probe_cm_mean_baseline", "policy_prior_mse")
    assert rename_metrics(old) == dict(zip(new, old.values(), strict=True))
    assert rename_metrics({"open_loop/1": 1.0, **dict.fromkeys(new, 0.0)}) == {
        "open_loop/1": 1.0,
        **dict.fromkeys(new, 0.0),
    }


def test_a_shipped_manifest_has_present_metric_names() -> None:
    metrics = {name for record in read_manifest(zoo.path("fetch-reach")).phases for name in record.metrics}
    assert "linear_probe_cm" in metrics
    assert not any("readout" in name or "proposal" in name for name in metrics)
