"""From rollouts to a probability in the manifest, in plans and in the service's answers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from hnet_vjepa.calibration.success import SuccessCurve, features, fit
from hnet_vjepa.checkpoint import amend_manifest, load_checkpoint, read_manifest
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.goals.label import LabelGoal
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.interface import PlanQuery, SearchSettings
from hnet_vjepa.planning.planner import load_planner
from sims.evaluation.calibrate import play_plans
from sims.evaluation.pairs import make_pairs
from tests import toy
from tests.sims.test_diagnose import HORIZON, TASK, Point

CURVE = SuccessCurve(
    task="toy",
    tolerance=2,
    unit="px",
    horizon=4,
    rollouts=100,
    mean=(0.0, 0.0, 0.0),
    scale=(1.0, 1.0, 1.0),
    weights=(0.5, -1.0, 0.2, 0.0),
)


@pytest.fixture
def checkpoint(toy_run: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(toy_run / "action", tmp_path / "action"))


def query(**more: object) -> PlanQuery:
    frames = np.stack([toy.picture(8, 10), toy.picture(9, 10)])
    return PlanQuery(**{"frames": frames, "goal": ImageGoal(toy.picture(24, 24)), **more})  # type: ignore[arg-type]


def test_a_calibrated_checkpoint_says_how_likely_its_plans_are(checkpoint: Path) -> None:
    before = load_checkpoint(checkpoint)
    assert load_planner(checkpoint).plan([query()])[0].success is None
    amend_manifest(checkpoint, success=CURVE)
    after = load_checkpoint(checkpoint)
    assert after.fingerprint == before.fingerprint
    assert after.manifest.model_copy(update={"success": None, "files": before.manifest.files}) == before.manifest
    planner = load_planner(checkpoint)
    [plan] = planner.plan([query()])
    now, end = np.log(plan.energy_now), np.log(plan.energies[-1])
    assert plan.success == pytest.approx(1 / (1 + np.exp(-(0.5 - end + 0.2 * now))), rel=1e-5)
    [label] = planner.plan([query(goal=LabelGoal(("left",)))])
    [short] = planner.plan([query(search=SearchSettings(8, 2, 2, 2))])
    assert label.success is None and short.success is None


def test_a_changed_probability_is_noticed(checkpoint: Path) -> None:
    amend_manifest(checkpoint, success=CURVE)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["success"]["weights"][0] = 9.0
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="not the file that was saved"):
        read_manifest(checkpoint)


class Slow:
    """Plans that go straight to the goal, at a speed that takes a while: the energy is the distance."""

    card = SimpleNamespace(search=SimpleNamespace(horizon=HORIZON), history=0)

    def plan(self, queries: list[PlanQuery]) -> list[SimpleNamespace]:
        [query] = queries
        assert isinstance(query.goal, ImageGoal)
        here, there = query.frames[-1, 0, 0, :2] / 255, query.goal.frame[0, 0, :2] / 255
        way = there - here
        far = np.linalg.norm(way)
        actions = np.zeros((HORIZON, 7), np.float32)
        actions[:, :2] = way / max(far, 1e-9) * min(far, 0.05)
        left = [max(0.0, far - 0.05 * (h + 1)) for h in range(HORIZON)]
        return [SimpleNamespace(actions=actions, energy_now=far, energies=np.array(left, np.float32))]


def test_rollouts_keep_what_plans_promised_and_what_came_of_them() -> None:
    simulation = Point()
    pairs = make_pairs(TASK, simulation, "dev", 0, 30, "image")
    found = play_plans(TASK, simulation, Slow(), pairs, progress=False)  # type: ignore[arg-type]
    assert found.features.shape == (30, 3)
    np.testing.assert_allclose(found.features[3], features(*found.energies[3]))
    promised = np.array([energies[-1] for _, energies in found.energies])
    np.testing.assert_allclose(found.distances, promised, atol=0.02)  # pictures have steps of a 255th
    reached = found.distances <= 0.25
    said = found.probabilities(fit(found.features, reached, "point", 0.25, "m", HORIZON))
    assert said[reached].min() > said[~reached].max()
