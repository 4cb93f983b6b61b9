"""The collapse monitor: what it measures, that it stops a run which collapses, and no other."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hnet_vjepa.checkpoint import load_checkpoint
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.pipeline import describe_robot, run_pipeline
from hnet_vjepa.trainers import engine
from hnet_vjepa.trainers.collapse import (
    LEAST_DEVIATION,
    LEAST_RANK,
    PATIENCE,
    CollapseMonitor,
    Spread,
    collapsed,
    spread,
)
from hnet_vjepa.trainers.engine import TrainingError, train
from hnet_vjepa.trainers.pretrain import Pretrain
from hnet_vjepa.utils.runtime import set_seed
from tests import toy


def tokens(pictures: int = 400, slots: int = 3, dim: int = 8) -> torch.Tensor:
    return torch.randn(pictures, slots, dim, generator=torch.Generator().manual_seed(0))


NONE = torch.zeros(400, 3, dtype=torch.bool)


@pytest.mark.parametrize("sigma", [0.01, 0.3, 2.0])
def test_isotropic_noise_around_a_place_of_its_own_for_every_slot(sigma: float) -> None:
    places = torch.tensor([[1.0], [-1.0], [1.0]]).expand(3, 8)
    found = spread(places + sigma * tokens(), NONE)
    assert found.effective_rank == pytest.approx(8, rel=0.01)
    assert found.deviation == pytest.approx(sigma / math.sqrt(1 + sigma**2), rel=0.05)
    assert 0.8 * found.deviation < found.least_deviation < found.deviation


def test_known_spectra() -> None:
    direction = torch.randn(8, generator=torch.Generator().manual_seed(1))
    assert spread(tokens()[..., :1] * direction, NONE).effective_rank == pytest.approx(1.0, abs=1e-6)
    flat = tokens()
    flat[..., 4:] = 5.0  # half of the numbers never change
    found = spread(flat, NONE)
    assert found.effective_rank == pytest.approx(4, rel=0.01)
    assert found.least_deviation == pytest.approx(0, abs=1e-12)


def test_the_scale_of_the_numbers_does_not_matter() -> None:
    for factor in (1e-4, 1e4):
        a, b = spread(tokens() + 1, NONE), spread(factor * (tokens() + 1), NONE)
        assert b.deviation == pytest.approx(a.deviation) and b.effective_rank == pytest.approx(a.effective_rank)


def test_slots_that_differ_from_each_other_alone_have_collapsed() -> None:
    found = spread(tokens()[:1].expand(400, -1, -1), NONE)
    assert found.deviation == pytest.approx(0, abs=1e-12)


def test_padding_does_not_count() -> None:
    mask = torch.rand(400, 3, generator=torch.Generator().manual_seed(2)) < 0.4
    there = tokens()
    garbage = torch.where(mask[..., None], torch.full_like(there, 1e6), there)
    assert spread(garbage, mask) == spread(there, mask)
    by_hand = torch.cat([slot[~m] - slot[~m].mean(0) for slot, m in zip(there.unbind(1), mask.unbind(1), strict=True)])
    scale = there[~mask].square().mean().sqrt()
    assert spread(there, mask).deviation == pytest.approx(float((by_hand.square().mean(0).sqrt() / scale).mean()))
    nothing = spread(there, torch.ones_like(mask))
    assert (nothing.effective_rank, nothing.deviation) == (1.0, 0.0)


healthy_or_not = st.builds(Spread, st.sampled_from([1.2, 30.0]), st.sampled_from([1e-4, 0.5]), st.just(0.0))


@given(st.lists(healthy_or_not, max_size=8))
def test_it_has_collapsed_when_the_last_measurements_all_say_so(history: list[Spread]) -> None:
    last = history[-PATIENCE:]
    flat = len(last) == PATIENCE and all(found.deviation < LEAST_DEVIATION for found in last)
    thin = len(last) == PATIENCE and all(found.effective_rank < LEAST_RANK for found in last)
    problem = collapsed(history)
    assert (problem is not None) == (flat or thin)
    if problem is not None:
        assert ("look the same" in problem) == flat


def made(store: EpisodeStore, seed: int = 0) -> HNetVJEPA:
    set_seed(seed)
    return HNetVJEPA(toy.config(), describe_robot(store))


@pytest.mark.parametrize("which", ["all weights", "the stem", "the last norm", "what enters the slots"])
def test_a_model_that_is_forced_to_collapse_is_found_out(which: str, toy_store: Path) -> None:
    store = EpisodeStore(toy_store)
    model = made(store)
    backbone = model.backbone
    parts = {
        "all weights": list(backbone.parameters()),
        "the stem": list(backbone.encoder.stem.parameters()),
        "the last norm": [backbone.norm.weight],
        "what enters the slots": [backbone.pooling.value.weight, *backbone.position.parameters()],
    }[which]
    monitor = CollapseMonitor(Pretrain(), model, store)
    for _ in range(PATIENCE):
        monitor.measure()
    assert monitor.problem() is None
    with torch.no_grad():
        for parameter in parts:
            parameter.zero_()
    for _ in range(PATIENCE):
        assert monitor.problem() is None
        monitor.measure()
    problem = monitor.problem()
    assert problem is not None and "different pictures look the same" in problem
    assert "pretrain.vicregl (0.02)" in problem and "\n" not in problem


def test_fresh_models_are_healthy(toy_store: Path) -> None:
    store = EpisodeStore(toy_store)
    for seed in range(8):
        found = CollapseMonitor(Pretrain(), made(store, seed), store).measure()
        assert found.deviation > 10 * LEAST_DEVIATION and found.effective_rank > 3 * LEAST_RANK


def test_a_healthy_run_goes_through_and_is_logged(toy_store: Path, tmp_path: Path) -> None:
    config = toy.config(pretrain={"steps": 40, "learning_rate": 0.003, "log_every": 5})
    run_pipeline(config, toy_store, tmp_path, ["pretrain"], progress=False)
    lines = [json.loads(line) for line in (tmp_path / "pretrain.run" / "spread.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [0, 5, 10, 15, 20, 25, 30, 35, 39]
    assert min(line["deviation"] for line in lines) > 10 * LEAST_DEVIATION
    assert min(line["effective_rank"] for line in lines) > 2 * LEAST_RANK


def test_a_run_that_collapses_is_stopped_and_nothing_is_lost(toy_run: Path, toy_store: Path, tmp_path: Path) -> None:
    """Without what keeps chunks apart, a fast target and a high learning rate: it really collapses."""
    shutil.copytree(toy_run / "pretrain", tmp_path / "before")
    weak = {"vicregl": 0.0, "ratio": 0.0, "reconstruction": 0.0, "ema": 0.05}
    config = toy.config(pretrain={"steps": 200, "learning_rate": 0.01, "log_every": 10, "save_every": 20, **weak})
    with pytest.raises(
        TrainingError, match=r"has collapsed in pretrain at step \d+: .*; raise pretrain\.vicregl"
    ) as raised:
        run_pipeline(config, toy_store, tmp_path / "work", init_from=tmp_path / "before", progress=False)
    assert "\n" not in str(raised.value)
    assert load_checkpoint(tmp_path / "before").fingerprint == load_checkpoint(toy_run / "pretrain").fingerprint
    folder = tmp_path / "work" / "pretrain.run"
    lines = [json.loads(line) for line in (folder / "spread.jsonl").read_text().splitlines()]
    assert lines[-1]["step"] < 200 and lines[-1]["deviation"] < LEAST_DEVIATION
    saved = json.loads(max((folder / "resume").glob("*/progress.json")).read_text())["step"]
    assert saved == lines[-1]["step"] // 20 * 20
    assert not (tmp_path / "work" / "pretrain").exists()


def test_an_interrupted_run_goes_on_counting(toy_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, real_step = EpisodeStore(toy_store), engine._step

    def run(folder: Path) -> list[str]:
        set_seed(0)
        train(Pretrain(), HNetVJEPA(toy.config(pretrain={"steps": 6}), describe_robot(store)), store, folder, "", False)
        return (folder / "spread.jsonl").read_text().splitlines()

    def dies(*args: object) -> object:
        if args[-1] == 5:
            raise KeyboardInterrupt
        return real_step(*args)  # type: ignore[arg-type]

    seen: list[int] = []
    clean = run(tmp_path / "clean")
    monkeypatch.setattr(engine, "_step", dies)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "killed")
    monkeypatch.setattr(engine, "_step", real_step)
    monkeypatch.setattr(
        engine.CollapseMonitor,
        "problem",
        lambda monitor: seen.append(len(monitor.history)),  # type: ignore[func-returns-value]
    )
    assert run(tmp_path / "killed") == clean
    assert seen == [5, 6]  # the four before the save count


def test_looking_changes_nothing(toy_store: Path, tmp_path: Path) -> None:
    store = EpisodeStore(toy_store)
    weights = []
    for every in (1, 100):
        set_seed(0)
        model = HNetVJEPA(toy.config(pretrain={"log_every": every}), describe_robot(store))
        train(Pretrain(), model, store, tmp_path / str(every), progress=False)
        weights.append(model.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(*(w.values() for w in weights), strict=True))
