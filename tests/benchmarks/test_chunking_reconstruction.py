from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from benchmarks import record
from benchmarks.chunking import reconstruction
from hnet_vjepa.checkpoint import load_checkpoint
from hnet_vjepa.errors import UserError
from hnet_vjepa.pipeline import run_pipeline
from tests import toy


def test_explained_variance_is_one_minus_the_error_s_share() -> None:
    target = torch.randn(50, 7, 3, generator=torch.Generator().manual_seed(0))
    assert reconstruction.explained(target, target) == 1
    assert reconstruction.explained(target, target.mean((0, 1)).expand_as(target)) == pytest.approx(0, abs=1e-6)
    half = target.mean((0, 1)) + 0.5 * (target - target.mean((0, 1)))
    assert reconstruction.explained(target, half) == pytest.approx(0.75)


def test_colours_order_what_differs() -> None:
    """Features along one line: the first colour runs along it from end to end, the same for what is shown beside it."""
    line = torch.linspace(-1, 1, 101)[None, :, None] * torch.tensor([3.0, 4.0, 0.0, 0.0])
    shown = reconstruction.colours(line, line)[0, :, 0].astype(int)
    steps = np.diff(shown)
    assert {int(shown.min()), int(shown.max())} == {0, 255} and ((steps >= 0).all() or (steps <= 0).all())
    assert (reconstruction.colours(line[:, 50:51], line)[0, 0] == reconstruction.colours(line, line)[0, 50]).all()


def test_the_command_measures_and_draws(
    toy_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(record, "RESULTS", tmp_path)
    monkeypatch.setattr(reconstruction, "PLOT", tmp_path / "plot.png")
    checkpoint = run_pipeline(toy.config(), toy_store, tmp_path / "run", ("pretrain",), progress=False)
    reconstruction.main([str(checkpoint), str(toy_store)])
    [metrics] = [record.read_result("chunking")["metrics"]]
    assert metrics["reconstruction_explained_chunks"] <= 1 and metrics["reconstruction_explained_with_residual"] <= 1
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    model = load_checkpoint(checkpoint).model
    video = torch.rand(2, 1, 32, 32, 3) * 2 - 1
    made = reconstruction.reconstruct(model, video)
    cells = model.target(video).cells[:, 0]
    torch.testing.assert_close(made.target, F.layer_norm(cells, cells.shape[-1:]))
    torch.testing.assert_close(made.whole - made.chunks, model.dechunker.residual(model.backbone(video).cells[:, 0]))


def test_another_phase_s_checkpoint_is_refused(toy_run: Path, toy_store: Path) -> None:
    with pytest.raises(UserError, match="needs pretrain alone"):
        reconstruction.main([str(toy_run / "action"), str(toy_store)])
