"""A checkpoint judged on recordings, without a simulator."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import cli.main
from hnet_vjepa.checkpoint import Checkpoint, load_checkpoint
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.errors import UserError
from sims.evaluation.recorded import RecordedResult, as_text, open_recordings, score, time_to_goal, to_json
from tests import toy


@pytest.fixture(scope="module")
def checkpoint(toy_run: Path) -> Checkpoint:
    return load_checkpoint(toy_run / "action")


@pytest.fixture(scope="module")
def result(checkpoint: Checkpoint, toy_store: Path) -> RecordedResult:
    return score(checkpoint, open_recordings(toy_store, checkpoint))


def test_what_is_measured_and_beside_what(checkpoint: Checkpoint, result: RecordedResult, toy_store: Path) -> None:
    store = EpisodeStore(toy_store)
    held_out = store.split("held_out")
    assert result.episodes == len(held_out) == 2
    assert result.trained_on_it
    assert {"open_loop/1", "nothing_moves/1", "open_loop_ratio", "open_loop_cm/1"} <= set(result.open_loop)
    done = np.concatenate([e.actions for e in held_out])[:, :2]
    mean = np.concatenate([e.actions for e in store.split("train")])[:, :2].mean(0)
    assert [a.name for a in result.actions] == list(toy.SPEC.names[:2])
    for i, action in enumerate(result.actions):
        assert action.mean_error == pytest.approx(np.abs(done[:, i] - mean[i]).mean(), rel=1e-4)
        assert action.error >= 0 and action.r2 is not None and action.r2 < 1
    assert result.time_to_goal is not None and result.time_to_goal.episodes == 2


def test_an_energy_that_falls_with_every_step_ranks_perfectly(toy_store: Path) -> None:
    [episode, *_] = EpisodeStore(toy_store).episodes
    for sign in (1, -1):
        seen = np.arange(len(episode), 0, -1.0) * sign
        inspector = SimpleNamespace(
            last=lambda clips: clips, episode=lambda frames, actions, s=seen: s, energy=lambda states, goal: states**3
        )
        assert time_to_goal(inspector, episode) == pytest.approx(sign)  # type: ignore[arg-type]


def test_text_and_json(result: RecordedResult) -> None:
    value = json.loads(json.dumps(to_json(result), allow_nan=False))
    assert value["actions"][0]["name"] == "x"
    text = as_text(result)
    assert "2 held-out episodes (its other episodes were used for training)" in text
    assert "steps ahead" in text and "always the mean" in text and "rank correlation" in text
    still = replace(result.actions[0], r2=None)
    bare = replace(result, open_loop={"open_loop/1": 0.1, "nothing_moves/1": 0.2}, actions=(still,), time_to_goal=None)
    text = as_text(bare)
    assert "[cm]" not in text and "rank correlation" not in text
    assert text.splitlines()[-1].split()[:2] == ["x", "-"]


def test_command(toy_run: Path, toy_store: Path, tmp_path: Path) -> None:
    words = ["evaluate", "--data", str(toy_store), "--out", str(tmp_path / "out")]
    done = CliRunner().invoke(cli.main.app, [*words, "--checkpoint", str(toy_run / "action")])
    assert done.exit_code == 0, (done.output, done.exception)
    assert json.loads((tmp_path / "out" / "result.json").read_text())["episodes"] == 2
    assert (tmp_path / "out" / "table.txt").read_text() == done.output
    for more, says in (
        (["--url", "http://x", "--checkpoint", "c"], "--data scores a model on recordings; give --check"),
        ([], "give --checkpoint, "),
        (["--checkpoint", str(toy_run / "probe")], "planning needs the phase 'action'"),
    ):
        done = CliRunner().invoke(cli.main.app, [*words, *more])
        assert isinstance(done.exception, UserError) and says in str(done.exception)


def test_other_robots_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    few = toy.make_store(tmp_path / "few", episodes=5)
    with pytest.raises(UserError, match="none of its 5 episodes is held out"):
        open_recordings(few, checkpoint)
    robot = checkpoint.model.robot
    for change, says in (
        ({"camera": robot.camera.model_copy(update={"height": 64})}, "trained on 64 x 40 pictures"),
        ({"action": robot.action.model_copy(update={"active": (0,)})}, r"was trained on the actions \(0,\) of x, y"),
    ):
        other = SimpleNamespace(
            path=checkpoint.path,
            manifest=checkpoint.manifest,
            model=SimpleNamespace(config=checkpoint.model.config, robot=robot.model_copy(update=change)),
        )
        with pytest.raises(UserError, match=says):
            open_recordings(few, other)  # type: ignore[arg-type]
