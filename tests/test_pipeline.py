import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from hnet_vjepa.checkpoint import load_checkpoint, save_checkpoint
from hnet_vjepa.errors import UserError
from hnet_vjepa.pipeline import parse_phases, run_pipeline
from hnet_vjepa.trainers import engine
from tests import toy


def test_every_phase_writes_its_checkpoint_and_the_manifest_says_what_was_done(toy_run: Path) -> None:
    done = json.loads((toy_run / "pipeline.json").read_text())
    assert list(done["phases"]) == ["pretrain", "language", "probe", "action"]
    assert done["settings"]["config"]["name"] == "toy"
    assert done["versions"]["torch"]
    for i, (name, phase) in enumerate(done["phases"].items()):
        manifest = load_checkpoint(toy_run / name).manifest
        assert manifest.trained() == tuple(list(done["phases"])[: i + 1])
        assert phase["metrics"] and phase["seconds"] > 0 and phase["data_fingerprint"]
        assert not (toy_run / f"{name}.run" / "resume").exists()


def test_the_metrics_mean_something(toy_run: Path) -> None:
    phases = json.loads((toy_run / "pipeline.json").read_text())["phases"]
    pretrain, language, probe, action = (phases[n]["metrics"] for n in ("pretrain", "language", "probe", "action"))
    assert pretrain["linear_probe_cm"] < pretrain["linear_probe_cm_mean_baseline"]
    assert 1 <= pretrain["effective_rank"] <= pretrain["dimensions"]
    assert language["retrieval_chance"] == pytest.approx(0.5) and language["left_right_pairs"] > 0  # left or right
    assert probe["mean_frequency"] == pytest.approx(0.5) and probe["mean_ap"] > probe["mean_frequency"] - 0.1
    assert action["nothing_moves/1"] < max(action[f"nothing_moves/{h}"] for h in range(2, 11))
    assert {f"open_loop/{h}" for h in range(1, 11)} <= set(action)


def test_each_phase_starts_from_the_one_before(toy_run: Path) -> None:
    models = [load_checkpoint(toy_run / name).model for name in ("pretrain", "language", "probe", "action")]
    same = lambda a, b: all(torch.equal(x, y) for x, y in zip(a.parameters(), b.parameters(), strict=True))  # noqa: E731
    assert same(models[0].backbone, models[1].backbone)
    assert same(models[1].text, models[2].text)
    assert not same(models[0].text, models[1].text)
    assert not same(models[2].backbone, models[3].backbone)


def test_a_finished_run_is_not_trained_again_and_a_phase_can_be_added(toy_store: Path, tmp_path: Path) -> None:
    run_pipeline(toy.config(), toy_store, tmp_path, ("pretrain",), progress=False)
    before = (tmp_path / "pretrain" / "weights.safetensors").stat().st_mtime_ns
    last = run_pipeline(toy.config(), toy_store, tmp_path, ("pretrain", "action"), progress=False)
    assert last == tmp_path / "action"
    assert (tmp_path / "pretrain" / "weights.safetensors").stat().st_mtime_ns == before
    assert load_checkpoint(last).manifest.trained() == ("pretrain", "action")


def test_other_settings_in_the_same_place_are_refused_by_field(toy_store: Path, tmp_path: Path) -> None:
    run_pipeline(toy.config(), toy_store, tmp_path, ("pretrain",), progress=False)
    with pytest.raises(UserError, match=r"other settings \(config\.action\.steps\)"):
        run_pipeline(toy.config(action={"steps": 9}), toy_store, tmp_path, ("pretrain",), progress=False)


def test_how_often_is_saved_or_logged_may_change_within_a_run(toy_store: Path, tmp_path: Path) -> None:
    run_pipeline(toy.config(), toy_store, tmp_path, ("pretrain",), progress=False)
    before = (tmp_path / "pretrain" / "weights.safetensors").stat().st_mtime_ns
    run_pipeline(toy.config(pretrain={"save_every": 1}), toy_store, tmp_path, ("pretrain",), progress=False)
    assert (tmp_path / "pretrain" / "weights.safetensors").stat().st_mtime_ns == before


def test_the_search_may_change_within_a_run_and_the_energy_may_not(
    toy_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_pipeline(toy.config(), toy_store, tmp_path, ("pretrain",), progress=False)
    last = run_pipeline(toy.config(plan={"candidates": 24}), toy_store, tmp_path, ("pretrain", "probe"))
    assert load_checkpoint(last).model.config.plan.candidates == 24
    assert "pretrain: it keeps its search; hnet serve and hnet evaluate change it by --set" in capsys.readouterr().out
    with pytest.raises(UserError, match=r"other settings \(config\.plan\.latent\)"):
        run_pipeline(toy.config(plan={"latent": 0.5}), toy_store, tmp_path, ("pretrain", "probe"), progress=False)


def test_what_the_data_can_not_train_is_said_at_once_with_what_it_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = toy.episode
    monkeypatch.setattr(toy, "LABELS", ())
    monkeypatch.setattr(toy, "episode", lambda i, n: replace(real(i, n), labels=None, captions=((),) * n))
    plain = toy.make_store(tmp_path / "plain")
    with pytest.raises(
        UserError,
        match=r"'language' \(it has no captions\), 'probe' \(it has no labels\); give --phases pretrain,action",
    ):
        run_pipeline(toy.config(), plain, tmp_path / "work", progress=False)


SLOW = {"steps": 1, "learning_rate": 1e-9}


def test_a_run_that_is_killed_in_the_second_half_of_the_action_phase_goes_on_there(
    toy_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = toy.config(action={"steps": 2}, heads={"steps": 6})
    clean = load_checkpoint(run_pipeline(config, toy_store, tmp_path / "clean", ("action",), progress=False))
    record = clean.manifest.phases[-1]
    assert record.steps == 8 and {"open_loop/1", "policy_prior_mse", "policy_prior_mean_mse"} <= record.metrics.keys()
    assert clean.model.world_model.temporal_distance.whitening.fitted
    assert not (tmp_path / "clean" / "heads.run" / "resume").exists()
    real, done = engine._step, list[int]()

    def dies(*args: Any) -> Any:
        done.append(args[-1])
        if len(done) == 2 + 5:
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(engine, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        run_pipeline(config, toy_store, tmp_path / "killed", ("action",), progress=False)
    assert done == [0, 1, 0, 1, 2, 3, 4]
    done.clear()
    monkeypatch.setattr(engine, "_step", lambda *args: (done.append(args[-1]), real(*args))[1])
    again = load_checkpoint(run_pipeline(config, toy_store, tmp_path / "killed", ("action",), progress=False))
    assert done == [0, 1, 4, 5]  # the first half, of which nothing was saved, and what was left of the second
    for (name, x), y in zip(clean.model.state_dict().items(), again.model.state_dict().values(), strict=True):
        assert torch.equal(x, y), name


def test_fine_tuning_starts_from_the_given_weights(toy_store: Path, toy_run: Path, tmp_path: Path) -> None:
    other = toy.make_store(tmp_path / "other", episodes=12)
    config = toy.config(action=SLOW, heads=SLOW)
    last = run_pipeline(config, other, tmp_path / "work", ("action",), init_from=toy_run / "action", progress=False)
    given, tuned = load_checkpoint(toy_run / "action"), load_checkpoint(last)
    for (name, a), b in zip(given.model.named_parameters(), tuned.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4, msg=name)
    assert tuned.manifest.phases[-1].data_fingerprint != given.manifest.phases[-1].data_fingerprint


def test_a_phase_is_trained_again_when_what_it_was_built_on_is_newer(toy_store: Path, tmp_path: Path) -> None:
    run_pipeline(toy.config(), toy_store, tmp_path, ("pretrain", "action"), progress=False)
    without = load_checkpoint(tmp_path / "action").fingerprint
    last = run_pipeline(toy.config(), toy_store, tmp_path, progress=False)
    manifest = load_checkpoint(last).manifest
    assert manifest.trained() == ("pretrain", "language", "probe", "action")
    assert manifest.fingerprint != without


def test_training_an_earlier_phase_again_undoes_the_later_ones(toy_store: Path, toy_run: Path, tmp_path: Path) -> None:
    for phase, left in (
        ("pretrain", ("pretrain",)),
        ("language", ("pretrain", "language")),
        ("probe", ("pretrain", "language", "action", "probe")),
    ):
        last = run_pipeline(toy.config(), toy_store, tmp_path / phase, (phase,), toy_run / "action", progress=False)
        manifest = load_checkpoint(last).manifest
        assert manifest.trained() == left
        assert (manifest.reached_energy is not None) == ("action" in left)


def test_weights_for_another_robot_start_fresh_and_their_phases_do_not_count(
    toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(toy, "LABELS", ("open", "closed"))
    monkeypatch.setattr(toy, "SPEC", toy.SPEC.model_copy(update={"active": (0, 1, 2)}))
    other = toy.make_store(tmp_path / "other")
    last = run_pipeline(toy.config(), other, tmp_path / "work", ("pretrain",), toy_run / "action", progress=False)
    assert load_checkpoint(last).manifest.trained() == ("pretrain",)
    last = run_pipeline(toy.config(), other, tmp_path / "more", ("action",), toy_run / "action", progress=False)
    assert load_checkpoint(last).manifest.trained() == ("pretrain", "language", "action")


def test_a_refused_first_attempt_does_not_spoil_the_place(toy_store: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="not a checkpoint"):
        run_pipeline(toy.config(), toy_store, tmp_path, ("pretrain",), init_from=tmp_path / "typo", progress=False)
    run_pipeline(toy.config(), toy_store, tmp_path, ("pretrain",), progress=False)
    (tmp_path / "pipeline.json").write_text("{")
    with pytest.raises(UserError, match="is damaged"):
        run_pipeline(toy.config(), toy_store, tmp_path, ("pretrain",), progress=False)


def test_a_run_from_before_a_setting_existed_goes_on_where_that_has_its_default(
    toy_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = toy.config(encoder_adaptation={}, pretrain={"steps": 1}, action={"steps": 1})
    run_pipeline(config, toy_store, tmp_path, ("pretrain", "action"), progress=False)
    file = tmp_path / "pipeline.json"
    content = json.loads(file.read_text())
    del content["settings"]["config"]["encoder_adaptation"]["state_supervision"]
    file.write_text(json.dumps(content))
    capsys.readouterr()
    run_pipeline(config, toy_store, tmp_path, ("pretrain", "action"))
    assert "action: was finished before and is kept" in capsys.readouterr().out
    supervised = toy.config(encoder_adaptation={"state_supervision": 1.0}, pretrain={"steps": 1}, action={"steps": 1})
    with pytest.raises(UserError, match=r"other settings \(config.encoder_adaptation.state_supervision\)"):
        run_pipeline(supervised, toy_store, tmp_path, ("pretrain", "action"), progress=False)


def test_an_application_may_train_twice_with_different_settings(toy_store: Path, tmp_path: Path) -> None:
    for precision in ("bf16", "fp32"):
        run_pipeline(toy.config(precision=precision), toy_store, tmp_path / precision, ("probe",), progress=False)
    for bad in ((), ("fly",), ("probe", "probe")):
        with pytest.raises(UserError):
            run_pipeline(toy.config(), toy_store, tmp_path / "x", bad, progress=False)  # type: ignore[arg-type]


def test_phases_are_parsed_in_their_order() -> None:
    assert parse_phases("action, pretrain") == ("pretrain", "action")
    for bad, words in (("pretrain,fly", "unknown phase 'fly'"), ("", "name each"), ("probe,probe", "name each")):
        with pytest.raises(UserError, match=words):
            parse_phases(bad)


def copy(toy_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_run / "action", tmp_path / "copy"))


@pytest.mark.parametrize("name", ["weights.safetensors", "config.json", "robot.json", "manifest.json"])
def test_an_altered_truncated_or_missing_file_is_refused_by_name(name: str, toy_run: Path, tmp_path: Path) -> None:
    path = copy(toy_run, tmp_path)
    content = (path / name).read_bytes()
    middle = len(content) // 2
    for damaged in (content[:middle], content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :], b""):
        (path / name).write_bytes(damaged)
        with pytest.raises(UserError, match=name):
            load_checkpoint(path)
    (path / name).unlink()
    with pytest.raises(UserError, match="no manifest.json" if name == "manifest.json" else f"{name} is missing"):
        load_checkpoint(path)


def test_what_is_no_checkpoint_is_refused(tmp_path: Path, toy_run: Path) -> None:
    with pytest.raises(
        UserError, match="is a work directory; take a checkpoint in it: action, language, pretrain, probe"
    ):
        load_checkpoint(toy_run)
    with pytest.raises(UserError, match="is not a checkpoint"):
        load_checkpoint(tmp_path)
    path = copy(toy_run, tmp_path)
    (path / "manifest.json").write_text("{}}")
    with pytest.raises(UserError, match="damaged"):
        load_checkpoint(path)


def test_a_full_disk_keeps_the_old_checkpoint(toy_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = copy(toy_run, tmp_path)
    checkpoint = load_checkpoint(path)

    def full(self: Path, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(UserError, match="the disk is full"):
        save_checkpoint(path, checkpoint.model, checkpoint.manifest)
    monkeypatch.undo()
    assert load_checkpoint(path).fingerprint == checkpoint.fingerprint
    assert [p.name for p in tmp_path.iterdir()] == ["copy"]


def test_nothing_is_ever_unpickled() -> None:
    root = Path(__file__).resolve().parent.parent
    for package in ("hnet_vjepa", "planner_service", "cli", "sims", "benchmarks"):
        for file in (root / package).rglob("*.py"):
            text = file.read_text()
            text = text.replace("safetensors.torch.load(", "")
            assert "torch.load(" not in text and "import pickle" not in text and "allow_pickle=True" not in text, file
