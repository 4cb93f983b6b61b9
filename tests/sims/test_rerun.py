"""An evaluation as a Rerun recording, read back by Rerun's own command."""

import re
import subprocess
import sys
from pathlib import Path
from typing import cast

import numpy as np
import pytest

from hnet_vjepa.errors import UserError
from sims.evaluation.pairs import Pair
from sims.evaluation.results import EvaluationResult, MethodResult, Rollout
from sims.reporting.rerun_recording import write_rerun
from tests.sims.test_evaluate import command

STEPS = 4


class Goal:
    """As much of a pair as is shown."""

    index = 7
    goal_frame = np.full((8, 8, 3), 200, np.uint8)


def result() -> EvaluationResult:
    distances = tuple(1.0 / (step + 1) for step in range(STEPS + 1))
    frames = np.zeros((STEPS + 1, 8, 8, 3), np.uint8)
    met = tuple((d < 0.3,) for d in distances)
    shown = Rollout(7, 1, distances, met, (5.0,) * STEPS, {}, (False,) * STEPS, (0.5,) * STEPS, frames)
    unseen = Rollout(8, 2, distances, met, (), {}, (False,) * STEPS)
    methods = (MethodResult("planner", (shown, unseen)),)
    return EvaluationResult("toy", "dev", 0, "image", None, ("30 cm",), "m", STEPS, 0, methods, {})


def test_recorded_episodes_are_written_step_by_step(tmp_path: Path) -> None:
    pytest.importorskip("rerun")
    path = tmp_path / "new" / "out.rrd"
    write_rerun(path, result(), [cast(Pair, Goal())])
    assert [file.name for file in path.parent.iterdir()] == ["out.rrd"]  # nothing half-written is left
    program = Path(sys.executable).with_name("rerun")
    shown = subprocess.run([program, "rrd", "print", "-vvv", path], capture_output=True, text=True, check=True).stdout
    rows = {name: int(count) for count, name in re.findall(r"with (\d+) rows? .* - (/planner/\S+)", shown)}
    where = "/planner/episode\\-7" if "/planner/episode\\-7/camera" in rows else "/planner/episode-7"
    frames = {
        "camera": STEPS + 1,
        "distance": STEPS + 1,
        "met": STEPS + 1,
        "energy": STEPS,
        "plan_ms": STEPS,
        "goal": 1,
    }
    assert rows == {f"{where}/{name}": count for name, count in frames.items()}
    for distance in (1.0, 0.5, 0.25, 0.2):
        assert f"[{distance}]" in shown


def test_what_is_missing_is_said_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rerun", None)
    with pytest.raises(UserError, match=r"pip install 'hnet-vjepa\[rerun\]'"):
        write_rerun(tmp_path / "out.rrd", result(), [])
    code, said = command("--model", "fetch-reach", "--rerun", str(tmp_path / "out.rrd"), "--out", str(tmp_path / "o"))
    assert code != 0 and "hnet-vjepa[rerun]" in said
    assert not list(tmp_path.iterdir())


def test_recorded_episodes_need_frames(tmp_path: Path) -> None:
    code, said = command("--model", "fetch-reach", "--data", str(tmp_path), "--rerun", str(tmp_path / "out.rrd"))
    assert code != 0 and "--rerun" in said
