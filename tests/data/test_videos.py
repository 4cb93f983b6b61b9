"""Videos without actions: plain folders, class folders, Something-Something v2; and what can be trained on them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from hnet_vjepa.checkpoint import load_checkpoint
from hnet_vjepa.config import PhaseName
from hnet_vjepa.data.importers.folder import import_folder
from hnet_vjepa.data.importers.ssv2 import MIRRORED
from hnet_vjepa.errors import UserError
from hnet_vjepa.pipeline import run_pipeline
from tests import toy
from tests.data.recordings import clock_time, clock_video, imported, write_json

TIMES = np.arange(12) / 12
VARIABLE = np.cumsum([0, 0.083, 0.2, 0.05, 0.083, 0.083, 0.15, 0.083, 0.083])


def test_a_folder_of_videos(tmp_path: Path) -> None:
    clock_video(tmp_path / "in" / "a.mp4", TIMES)
    clock_video(tmp_path / "in" / "deep" / "b.mkv", VARIABLE)
    clock_video(tmp_path / "in" / "z.mp4", TIMES)  # the same as a.mp4
    (tmp_path / "in" / "a.txt").write_text("push it\n to the left\n")
    (tmp_path / "in" / "broken.mp4").write_bytes(b"0" * 100)
    store, notes = imported("videos", tmp_path / "in", tmp_path / "store", dt=0.25)
    assert [(e.seed, len(e)) for e in store.episodes] == [(0, 4), (2, 4)]
    assert store.info.action.dim == 0 and store.episodes[0].actions.shape == (3, 0)
    assert store.episodes[0].captions == (("push it to the left",),) * 4
    nearest = [VARIABLE[np.abs(VARIABLE - t).argmin()] for t in (0, 0.25, 0.5, 0.75)]
    assert [clock_time(np.asarray(f)) for f in store.episodes[1].frames] == pytest.approx(nearest, abs=0.001)
    assert "2 episodes are left out" in notes[0] and "broken.mp4" in notes[0]
    assert any("no actions are recorded" in note for note in notes)


def test_class_folders(tmp_path: Path) -> None:
    for name, start in (("riding_a_bike", 0.0), ("juggling balls", 5.0)):
        for number in range(2):
            clock_video(tmp_path / "in" / "train" / name / f"{number}.mp4", TIMES + start + number)
    store, _ = imported("kinetics", tmp_path / "in", tmp_path / "store")
    assert store.info.labels == ("juggling balls", "riding a bike")
    assert [e.labels[0].tolist() for e in store.episodes if e.labels is not None] == [[1, 0]] * 2 + [[0, 1]] * 2
    assert store.episodes[3].captions[0] == ("riding a bike",)
    clock_video(tmp_path / "in" / "loose.mp4", TIMES)
    with pytest.raises(UserError, match=r"loose\.mp4 lies in no class folder"):
        imported("kinetics", tmp_path / "in", tmp_path / "other")


def ssv2(root: Path, prefix: str, folder: str) -> Path:
    """Clips 11, 12 of train and 20 of validation, in either published layout; clip 13 is not there."""
    names = [name for pair in MIRRORED for name in pair] + ["Holding something next to something"]
    write_json(root / folder / f"{prefix}labels.json", {name: str(n) for n, name in enumerate(names)})
    pushing = {"template": "Pushing [something] from left to right", "placeholders": ["a cup"]}
    holding = {"template": "Holding [something] next to [something]", "placeholders": ["potato", "bottle"]}
    train = [
        {"id": "11", "label": "pushing a cup from left to right", **pushing},
        {"id": "12", "label": "holding potato next to bottle", **holding},
        {"id": "13", "label": "holding a next to b", **holding},
    ]
    write_json(root / folder / f"{prefix}train.json", train)
    write_json(root / folder / f"{prefix}validation.json", [{"id": "20", "label": "holding b next to c", **holding}])
    for number, start in (("11", 0.0), ("12", 2.0), ("20", 4.0)):
        clock_video(root / "20bn-something-something-v2" / f"{number}.webm", TIMES + start, "libvpx-vp9")
    return root


@pytest.mark.parametrize(("prefix", "folder"), [("", "labels"), ("something-something-v2-", "")])
def test_something_something(tmp_path: Path, prefix: str, folder: str) -> None:
    root = ssv2(tmp_path / "in", prefix, folder)
    store, notes = imported("ssv2", root, tmp_path / "store")
    assert [e.seed for e in store.episodes] == [11, 12, 20]
    assert store.info.camera.dt == pytest.approx(1 / 12, abs=0.001)
    assert store.episodes[0].captions[0] == ("pushing a cup from left to right",)
    first, last = (e.labels[0].tolist() for e in (store.episodes[0], store.episodes[2]) if e.labels is not None)
    assert first == [0, 0, 1, 0, 0, 0, 0] and last == [0] * 6 + [1]
    assert any("1 clips of the label files are not there" in note for note in notes)
    assert any("6 of 7 classes name left or right" in note for note in notes)
    store, _ = imported("ssv2", root / folder / f"{prefix}validation.json", tmp_path / "validation")
    assert [e.seed for e in store.episodes] == [20]


def test_something_something_with_parts_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"has no labels/train\.json"):
        imported("ssv2", tmp_path, tmp_path / "store")
    root = ssv2(tmp_path / "in", "", "labels")
    answers = root / "labels" / "test-answers.csv"
    write_json(root / "labels" / "test.json", [{"id": "30"}])
    answers.write_text("30;Holding something next to something\n")
    clock_video(root / "20bn-something-something-v2" / "30.webm", TIMES + 6, "libvpx-vp9")
    store, _ = imported("ssv2", root / "labels" / "test.json", tmp_path / "store")
    assert store.episodes[0].labels is not None and store.episodes[0].labels[0].tolist() == [0] * 6 + [1]
    answers.write_text("30;Eating something\n")
    with pytest.raises(UserError, match=r"clip 30 has the template 'Eating something', which labels"):
        imported("ssv2", root / "labels" / "test.json", tmp_path / "other")


def test_recordings_without_actions_pretrain_and_nothing_else(tmp_path: Path) -> None:
    """Our own folder layout, videos alone: the first phase trains, the action phase is refused by name."""
    for number in range(10):
        clock_video(tmp_path / "in" / f"episode-{number}" / "camera.mp4", np.arange(8) / 10 + number)
    notes: list[str] = []
    out = import_folder(tmp_path / "in", tmp_path / "store", (toy.HEIGHT, toy.WIDTH), 0.1, report=notes.append)
    assert any("no actions are recorded" in note for note in notes)
    with pytest.raises(UserError, match=r"can not train 'action' \(it has no actions\); give --phases pretrain"):
        run_pipeline(toy.config(), out, tmp_path / "run", ("pretrain", "action"), progress=False)


@pytest.mark.slow
def test_what_was_learnt_from_videos_starts_a_robot(tmp_path: Path, toy_store: Path) -> None:
    """Pretraining, language and probe on classes alone; then the action phase on a robot's data, encoder frozen."""
    for number in range(20):
        name = "turn left" if number % 2 else "turn right"
        clock_video(tmp_path / "in" / name / f"{number}.mp4", np.arange(8) / 10 + number)
    store, _ = imported("kinetics", tmp_path / "in", tmp_path / "store", size=(toy.HEIGHT, toy.WIDTH))
    phases: tuple[PhaseName, ...] = ("pretrain", "language", "probe")
    videos = run_pipeline(toy.config(), store.path, tmp_path / "videos", phases, progress=False)
    assert load_checkpoint(videos).model.robot.action.dim == 0
    config = toy.config(action={"frozen_encoder": True})
    robot = run_pipeline(config, toy_store, tmp_path / "robot", ("action",), init_from=videos, progress=False)
    before, after = (load_checkpoint(path).model.backbone.state_dict() for path in (videos, robot))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert load_checkpoint(robot).model.robot.action.dim == 7


def test_options_that_do_not_apply_are_refused(tmp_path: Path) -> None:
    clock_video(tmp_path / "in" / "a.mp4", TIMES)
    with pytest.raises(UserError, match=r"videos recordings hold their own times; --rate does not apply"):
        imported("videos", tmp_path / "in", tmp_path / "store", rate=5.0)
    with pytest.raises(UserError, match="videos recordings hold videos alone; --action-key"):
        imported("videos", tmp_path / "in", tmp_path / "store", action_key="x")
    with pytest.raises(UserError, match="records no states, so actions can not be their differences"):
        imported("videos", tmp_path / "in", tmp_path / "store", actions="differences")
