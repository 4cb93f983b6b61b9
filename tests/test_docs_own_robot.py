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
from sims.core.check import check_task
from sims.core.collect import collect
from sims.core.registry import TASKS, get_task
from sims.core.task import Task
from sims.evaluation.evaluate import play
from sims.evaluation.pairs import make_pairs
from sims.evaluation.policies import RandomPolicy

DOCUMENT = Path(__file__).parent.parent / "docs" / "own_robot.md"
NAME = "pendulum:TASK"


@pytest.fixture
def task(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Task]:
    [code] = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (tmp_path / "pendulum.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])  # the current directory is added to it
    yield get_task(NAME)
    del sys.modules["pendulum"]


def test_it_can_be_collected_from_and_played(task: Task, tmp_path: Path) -> None:
    store = EpisodeStore(collect(NAME, 26, 0, tmp_path / "data", workers=2, progress=False))  # each worker imports it
    assert store.info.source == task.name == "pendulum"
    cosines = np.concatenate([np.asarray(episode.states)[:, 0] for episode in store.episodes])
    assert cosines.max() > 0.99 and cosines.min() < -0.99  # both upright and hanging are seen
    with contextlib.closing(task.open()) as robot:
        pairs = make_pairs(task, robot, "dev", 0, 5, "image", progress=False)
        result = play(task, robot, RandomPolicy(task), pairs, task.evaluation_steps, progress=False)
        assert result.end(1).value < 0.5


def test_it_passes_the_check(task: Task) -> None:
    found = list(check_task(task, pairs=5))
    assert [finding for finding in found if not finding.holds] == []
    assert [finding.name for finding in found][-1] == "floor"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("no_such_module:TASK", "can not be imported: No module named 'no_such_module'"),
        ("pendulum:ROBOT", "can not be imported: module 'pendulum' has no attribute 'ROBOT'"),
        (":TASK", "can not be imported"),
        ("pendulum:CAMERA", "is a CameraSpec; it must be a sims.core.task.Task"),
        ("no-robot", "fetch-reach.*or package.module:TASK for one of your own"),
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
    assert len(commands) == 6
    for line in re.findall(r"^hnet (.*?)(?:\s+#.*)?$", text, re.MULTILINE):
        words = line.split()
        command = [word for word in words[:2] if word.isalpha()] if words[0] in ("data", "sims") else words[:1]
        known = CliRunner().invoke(app, [*command, "--help"])
        assert known.exit_code == 0
        for option in (word for word in words if word.startswith("--")):
            assert option in re.sub(r"\x1b\[[0-9;]*m", "", known.output)
    assert task.name not in TASKS
