"""The file in docs/own_robot.md: it runs as it stands, from where a user would put it."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.errors import UserError
from sims.core.collect import collect
from sims.core.registry import TASKS, get_task
from sims.core.task import Task
from sims.evaluation.evaluate import play
from sims.evaluation.pairs import make_pairs
from sims.evaluation.policies import RandomPolicy, ScriptedPolicy

DOCUMENT = Path(__file__).parent.parent / "docs" / "own_robot.md"
NAME = "cart_pole:TASK"


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Task]:
    [code] = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (tmp_path / "cart_pole.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the current directory is added to it
    yield get_task(NAME)
    del sys.modules["cart_pole"]


def test_it_can_be_collected_from_and_played(task: Task, tmp_path: Path) -> None:
    store = EpisodeStore(collect(NAME, 26, 0, tmp_path / "data", workers=2, progress=False))  # each worker imports it
    assert store.info.source == task.name == "cart-pole"
    angles = np.stack([np.asarray(episode.states)[:, 1] for episode in store.episodes])
    dropped = np.abs(angles).max(1) > 1
    assert 0.1 < dropped.mean() < 0.7  # both are learnt from
    with contextlib.closing(task.open()) as robot:
        pairs = make_pairs(task, robot, "dev", 0, 3, "image")
        for policy, reached in ((ScriptedPolicy(task), 1.0), (RandomPolicy(task), 0.0)):
            result = play(task, robot, policy, pairs, task.evaluation_steps, progress=False)
            assert result.end(1).value == reached
        for _ in range(5):
            robot.step(np.array([2.5], np.float32))
        before, saved = robot.frame(), robot.save()
        for _ in range(2):
            robot.restore(saved)
            np.testing.assert_array_equal(robot.frame(), before)
            robot.step(np.array([-3], np.float32))
            assert (robot.frame() != before).any()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:TASK", "can not be imported: No module named 'no_such_module'"),
        ("cart_pole:ROBOT", "can not be imported: module 'cart_pole' has no attribute 'ROBOT'"),
        (":TASK", "can not be imported"),
        ("cart_pole:CAMERA", "is a CameraSpec; it must be a sims.core.task.Task"),
        ("cart-pole", "fetch-reach.*or package.module:TASK for one of your own"),
    ],
)
def test_what_can_not_be_found_is_said_in_one_line(task: Task, name: str, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        get_task(name)
    assert "\n" not in str(caught.value)


def test_its_commands_exist(task: Task) -> None:
    from typer.testing import CliRunner

    from cli.main import app

    text = DOCUMENT.read_text()
    commands = re.findall(r"^hnet ([a-z]+(?: [a-z]+)?) .*$", text, re.MULTILINE)
    assert len(commands) == 5
    for line in re.findall(r"^hnet (.*?)(?:\s+#.*)?$", text, re.MULTILINE):
        words = line.split()
        command = [word for word in words[:2] if word.isalpha()] if words[0] in ("data", "sims") else words[:1]
        known = CliRunner().invoke(app, [*command, "--help"])
        assert known.exit_code == 0
        for option in (word for word in words if word.startswith("--")):
            assert option in re.sub(r"\x1b\[[0-9;]*m", "", known.output)
    assert task.name not in TASKS
