"""The speed log: what is waited for and how many clips are done, against sleeps of a known length."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch

from hnet_vjepa.data.batch import ClipSampler
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.pipeline import describe_robot, make_phase
from hnet_vjepa.trainers.engine import train
from hnet_vjepa.trainers.speed import SpeedMeter, peak_memory_mb
from tests import toy


def test_clips_and_waiting_are_counted_between_two_lines() -> None:
    meter = SpeedMeter(torch.device("cpu"))
    for _ in range(2):
        with meter.waiting():
            time.sleep(0.06)
        time.sleep(0.02)
        meter.step(8)
    line = meter.line()
    assert line["step_s"] == pytest.approx(0.08, rel=0.5)
    assert line["clips_per_s"] == pytest.approx(8 / line["step_s"])
    assert line["data_wait_share"] == line["slowest_data_wait_share"] == pytest.approx(0.75, abs=0.15)
    time.sleep(0.02)
    meter.step(8)
    assert meter.line()["data_wait_share"] == 0.0


def test_peak_memory_follows_what_is_held() -> None:
    before = peak_memory_mb()
    held = torch.ones(64, 2**20)  # 256 MB
    assert peak_memory_mb() > before + 200 or before > held.numel() * 4 / 2**20  # or more was held before


def test_a_training_that_waits_for_its_clips_says_so(
    toy_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ClipSampler.batch

    def slow(*args, **kwargs):  # type: ignore[no-untyped-def]
        time.sleep(0.3)
        return real(*args, **kwargs)

    monkeypatch.setattr(ClipSampler, "batch", slow)
    store = EpisodeStore(toy_store)
    train(
        make_phase("probe", (), store), HNetVJEPA(toy.config(), describe_robot(store)), store, tmp_path, progress=False
    )
    lines = [json.loads(line) for line in (tmp_path / "speed.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == list(range(toy.config().probe.steps))
    assert all(line["data_wait_share"] > 0.5 and line["step_s"] >= 0.3 for line in lines)
