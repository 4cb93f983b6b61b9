import contextlib
import copy
from pathlib import Path

import numpy as np
import torch

from benchmarks.chunking import labelled_push, saliency, small_models
from hnet_vjepa.config import PoolingConfig
from hnet_vjepa.data.batch import ClipSampler
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.models.hnet.routing import SparseRouting
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.models.ops import grid_positions
from hnet_vjepa.pipeline import describe_robot
from sims.core.registry import get_task
from sims.tasks import fetch_push
from tests import toy


def test_a_cell_s_saliency_is_the_share_of_its_pixels() -> None:
    salient = np.zeros((8, 12), bool)
    salient[0, 0] = salient[4:, 8:] = True
    assert labelled_push.cell_shares(salient, (2, 3)).tolist() == [1 / 16, 0, 0, 0, 0, 1]


def test_salient_cells_are_those_of_cube_and_fingers() -> None:
    task = get_task("fetch-push")
    with contextlib.closing(labelled_push.LabelledPush()) as simulation:
        simulation.reset()
        for cube in ((1.30, 0.65), (1.45, 0.85)):
            simulation.put(np.array(cube))
            simulation.saliency.clear()
            simulation.frame()
            [cells] = simulation.saliency
            state = simulation.state().reshape(2, 3)  # cube and gripper
            columns, rows, _ = fetch_push.VIEW.project(state, 64, 64).T
            expected = {(int(row) // 8, int(column) // 8) for row, column in zip(rows, columns, strict=True)}
            found = {divmod(int(i), 8) for i in np.flatnonzero(cells)}
            assert expected <= {(r + dr, c + dc) for r, c in found for dr in (-1, 0, 1) for dc in (-1, 0, 1)}
            assert 1 <= len(found) <= 10 and 0.2 < cells.sum() < 4  # of 64 cells
    assert task.subject == "cube"


@torch.no_grad()
def pooled_by_hand(pooling: saliency.SaliencyMean, chunks, centroids, sizes) -> torch.Tensor:
    """Slots of one sample by loops."""
    salient = torch.sigmoid(pooling.predict(pooling.places.norm(chunks)))[:, 0]
    values = pooling.places.value(pooling.places.norm(chunks))
    slots = []
    for anchor in pooling.anchors:
        weights = [
            float(s * n**pooling.places.size_weight * torch.exp(-4.0 * (anchor - r[1:]).square().sum()))
            for s, n, r in zip(salient, sizes, centroids, strict=True)
        ]
        slots.append(sum(w * v for w, v in zip(weights, values, strict=True)) / sum(weights))
    return torch.stack(slots)


def test_the_saliency_weighted_mean_equals_a_loop() -> None:
    torch.manual_seed(0)
    routing = SparseRouting(8, 3, 3)(torch.randn(2, 64, 8), grid_positions(1, 8, 8))
    for weight in (0.0, 1.0):
        pooling = saliency.SaliencyMean(8, PoolingConfig(grid=(2, 2), size_weight=weight))
        out = pooling(routing)
        for b in range(2):
            by_hand = pooled_by_hand(pooling, routing.chunks[b], routing.centroids[b], routing.sizes[b])
            torch.testing.assert_close(out.slots[b], by_hand)
        plain = pooling.places(routing)
        torch.testing.assert_close(out.sizes, plain.sizes)  # independent of the saliency
    assert not any(name.endswith("queries") for name, _ in pooling.named_parameters())


def test_training_moves_the_attention_to_salient_cells(toy_store: Path) -> None:
    """One cell is always salient: both kinds learn it."""
    store = EpisodeStore(toy_store)
    for kind in ("loss", "mean"):
        torch.manual_seed(0)
        model = HNetVJEPA(toy.config(), describe_robot(store))
        if kind == "mean":
            pooling = saliency.SaliencyMean(model.backbone.dim, model.config.model.backbone.pooling)
            model.backbone.pooling, model.target.pooling = pooling, copy.deepcopy(pooling)
        batch = ClipSampler(store, model.robot.action, "train", 3, 0).clips([0, 1, 2, 3])
        frames = model.backbone(batch.video)
        labels = torch.zeros(*batch.video.shape[:2], frames.cells.shape[2])
        labels[..., 3] = 1.0  # always the same cell
        optimiser = torch.optim.Adam(model.backbone.parameters(), 0.01)
        found = []
        for _ in range(25):
            loss = saliency.divergence(model, model.backbone(batch.video), labels)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            found.append(loss.item())
        assert found[-1] < 0.7 * found[0], (kind, found)


def test_the_phase_adds_the_loss_to_the_shipped_ones(toy_store: Path) -> None:
    store = EpisodeStore(toy_store)
    torch.manual_seed(0)
    model = HNetVJEPA(toy.config(), describe_robot(store))
    batch = ClipSampler(store, model.robot.action, "train", 4, 0).clips([0, 1])
    cells = model.backbone(batch.video).cells.shape[2]
    labels = torch.rand(*batch.states.shape[:2], cells)
    batch = copy.copy(batch)
    object.__setattr__(batch, "states", torch.cat([batch.states, labels], -1))
    plain, more = small_models.ShortAction().loss(model, batch), saliency.SalientAction().loss(model, batch)
    wanted = saliency.WEIGHT * saliency.divergence(model, model.backbone(batch.video), labels)
    torch.testing.assert_close(more.pop("saliency"), wanted)
    assert more.keys() == plain.keys()
    for name, value in plain.items():
        torch.testing.assert_close(more[name], value)
    assert not model.backbone._forward_hooks
