"""Pictures unlike those of the training are noticed, by the checkpoint, in plans and in the service's answers."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hnet_vjepa.calibration.ood import OODDetector, describe
from hnet_vjepa.checkpoint import OOD_FILE, load_checkpoint, save_checkpoint
from hnet_vjepa.data.batch import normalise_frames
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.errors import UserError
from hnet_vjepa.export import export
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.goals.text import TextGoal
from hnet_vjepa.planning.interface import PlanQuery
from hnet_vjepa.planning.planner import WorldModelPlanner, load_planner
from hnet_vjepa.trainers.calibrate import fit_ood_detector
from planner_service.schemas import PlanResponse
from tests import toy

NOISE = np.random.default_rng(0).integers(0, 256, toy.picture(8, 10).shape).astype(np.uint8)


@pytest.fixture(scope="module")
def planner(toy_run: Path) -> WorldModelPlanner:
    return load_planner(toy_run / "action")


def query(**more: object) -> PlanQuery:
    frames = np.stack([toy.picture(8, 10), toy.picture(9, 10)])
    return PlanQuery(**{"frames": frames, "goal": ImageGoal(toy.picture(24, 24)), **more})  # type: ignore[arg-type]


def test_the_distance_is_the_mahalanobis_distance_of_the_features() -> None:
    torch.manual_seed(0)
    cells = torch.randn(7, 5, 3)
    features = np.concatenate([cells.mean(1), cells.numpy().std(1), cells.amax(1)], 1)
    np.testing.assert_allclose(describe(cells), features, rtol=1e-5)
    covariance, mean = np.cov(np.random.default_rng(1).normal(size=(9, 40))), np.arange(9.0)
    whiten = np.linalg.cholesky(np.linalg.inv(covariance))
    known = OODDetector(torch.tensor(mean).float(), torch.tensor(whiten).float(), 3.0)
    away = features - mean
    expected = np.sqrt(np.einsum("nf,fg,ng->n", away, np.linalg.inv(covariance), away))
    np.testing.assert_allclose(known.distance(cells), expected, rtol=1e-4)
    assert known.out_of_distribution(cells).tolist() == (expected > 3).tolist()
    assert known.out_of_distribution(torch.full((1, 5, 3), torch.nan)).item()


def test_about_a_hundredth_of_held_out_pictures_is_strange(toy_run: Path, toy_store: Path) -> None:
    checkpoint = load_checkpoint(toy_run / "action")
    store = EpisodeStore(toy_store)
    known, again = checkpoint.ood, fit_ood_detector(checkpoint.model, store)
    assert known is not None
    torch.testing.assert_close(again.mean, known.mean)
    assert again.limit == pytest.approx(known.limit, rel=1e-3)
    frames = np.concatenate([episode.frames for episode in store.split("held_out")])
    cells = checkpoint.model.backbone(normalise_frames(frames)[:, None]).cells[:, 0]
    assert 0 <= known.out_of_distribution(cells).float().mean() < 0.1


def test_strange_pictures_are_named_in_the_plan(planner: WorldModelPlanner) -> None:
    usual, goal, now, both = planner.plan(
        [
            query(),
            query(goal=ImageGoal(NOISE)),
            query(frames=np.stack([toy.picture(8, 10), NOISE])),
            query(frames=NOISE[None], goal=ImageGoal(NOISE)),
        ]
    )
    assert (usual.ood, goal.ood, now.ood) == ((), ("goal",), ("frames",))
    assert both.ood == ("frames", "goal")
    assert (
        usual.warnings == ()
        and "goal picture is out of distribution" in goal.warnings[0]
        and "last frame" in now.warnings[0]
    )
    [plan] = planner.plan([query(goal=TextGoal("left"))])
    assert plan.ood == ()


def test_a_checkpoint_without_it_says_that_it_does_not_know(toy_run: Path, tmp_path: Path) -> None:
    checkpoint = load_checkpoint(toy_run / "action")
    save_checkpoint(tmp_path / "older", checkpoint.model, checkpoint.manifest)
    older = load_planner(tmp_path / "older")
    assert not (tmp_path / "older" / OOD_FILE).exists()
    [plan] = older.plan([query(goal=ImageGoal(NOISE))])
    assert plan.ood is None and plan.warnings == ()
    fields = PlanResponse.model_fields["unfamiliar"]
    assert fields.default is None


def test_it_comes_along_and_is_guarded_like_the_other_files(toy_run: Path, tmp_path: Path) -> None:
    exported = export(toy_run / "action", tmp_path / "small")
    before, after = load_checkpoint(toy_run / "action").ood, load_checkpoint(exported).ood
    assert before is not None and after is not None
    assert torch.equal(before.whiten, after.whiten) and before.limit == after.limit
    damaged = Path(shutil.copytree(exported, tmp_path / "damaged"))
    content = bytearray((damaged / OOD_FILE).read_bytes())
    content[-1] ^= 1
    (damaged / OOD_FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"ood\.safetensors is not the file that was saved"):
        load_checkpoint(damaged)
    (damaged / OOD_FILE).unlink()
    with pytest.raises(UserError, match=r"ood\.safetensors is missing"):
        load_checkpoint(damaged)
    manifest = json.loads((exported / "manifest.json").read_text())
    assert OOD_FILE in manifest["files"]
    assert replace(after, limit=0.0).out_of_distribution(torch.zeros(1, 4, len(after.mean) // 3)).item()
