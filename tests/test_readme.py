"""The first plan of the README: its program runs as it stands against the service that it tells to start."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np

from planner_service.client import PlanReply

ROOT = Path(__file__).resolve().parents[1]


def test_the_first_plan_runs_as_written_and_reaches_its_goal() -> None:
    text = (ROOT / "README.md").read_text()
    [program] = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    [command] = re.findall(r"^hnet (serve --model .*)$", text, re.MULTILINE)
    arguments = [sys.executable, "-m", "cli", *command.split(), "--port", "0"]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().split()[-1]
            scope: dict[str, object] = {}
            exec(compile(program.replace("http://127.0.0.1:8000", url), "README.md", "exec"), scope)
        finally:
            server.terminate()
    plan = scope["plan"]
    assert isinstance(plan, PlanReply) and plan.reached
    place = scope["task"].place(scope["robot"].state())  # type: ignore[attr-defined]
    assert place.right < -0.3 and place.up > 0.3, "the upper left, as the simulator has it"
    assert np.isfinite(plan.energy_now)
