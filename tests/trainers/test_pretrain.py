from pathlib import Path

import numpy as np
import pytest
import torch

from hnet_vjepa.data.batch import ClipSampler
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.pipeline import describe_robot
from hnet_vjepa.trainers.pretrain import Pretrain, blank, content, hidden_slots, slot_places
from tests import toy


def test_what_is_hidden_depends_on_seed_and_sample_alone() -> None:
    together = hidden_slots([3, 8, 11], 5, 4, 9, 0.5, 0.3)
    assert torch.equal(together[1:2], hidden_slots([8], 5, 4, 9, 0.5, 0.3))
    assert not torch.equal(together, hidden_slots([3, 8, 11], 6, 4, 9, 0.5, 0.3))


def test_tubes_or_the_future_are_hidden() -> None:
    hidden = hidden_slots(list(range(400)), 0, 4, 9, 0.5, 0.25)
    future = hidden[:, :3].flatten(1).sum(1) == 0
    assert 0.15 < future.float().mean() < 0.35
    assert hidden[future][:, 3].all()
    tubes = hidden[~future]
    assert (tubes == tubes[:, :1]).all()
    assert (tubes[:, 0].sum(-1) == 4).all()


def test_what_is_masked_is_unseen() -> None:
    """Changing the pixels of hidden chunks cannot change what the student predicts."""
    torch.manual_seed(0)
    config = toy.config()
    model = HNetVJEPA(config, _robot())
    video = torch.rand(2, 3, *toy.SHAPE) * 2 - 1
    target = model.target(video, across=True)
    hidden = hidden_slots([0, 1], 0, *target.mask.shape[1:], 0.5, 0.0)
    seen = blank(video, target, hidden, model.backbone.encoder.stride)
    gone = (seen != video).any(-1)
    assert 0.1 < gone.float().mean() < 0.9
    changed = torch.where(gone[..., None], torch.rand_like(video) * 2 - 1, video)
    assert not torch.allclose(changed, video)
    again = blank(changed, target, hidden, model.backbone.encoder.stride)
    assert torch.equal(seen, again)
    outputs = []
    for pixels in (seen, again):
        tokens, centroids, sizes, mask = model.backbone(pixels, across=True).flat()
        asked = slot_places(model.backbone, model.target(video, across=True))
        outputs.append(model.predictor(tokens, centroids, sizes, mask | hidden.flatten(1), *asked))
    assert torch.equal(*outputs)


def test_where_the_predictor_is_asked_about_does_not_depend_on_the_picture() -> None:
    model = HNetVJEPA(toy.config(), _robot())
    one, two = (model.target(torch.rand(1, 3, *toy.SHAPE), across=True) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(*(slot_places(model.backbone, c) for c in (one, two)), strict=True))
    places, sizes = slot_places(model.backbone, one)
    assert places.shape == (1, 12, 3) and sizes.shape == (1, 12)
    assert places[0, ::4, 0].tolist() == [0.0, 1.0, 2.0]


def test_slots_that_only_differ_from_each_other_have_no_content() -> None:
    constant = torch.randn(1, 4, 8).expand(6, -1, -1)
    assert content(constant).abs().max() < 1e-6
    varied = torch.randn(6, 4, 8)
    torch.testing.assert_close(content(varied).mean(0), torch.zeros(4, 8), atol=1e-6, rtol=0)


def test_hidden_pixels_are_those_of_the_hidden_slots() -> None:
    torch.manual_seed(0)
    model = HNetVJEPA(toy.config(), _robot())
    video = torch.rand(1, 2, *toy.SHAPE) + 0.5
    target = model.target(video, across=True)
    owners = target.cell_slots()  # B x W x N
    slot = int(owners[0, 0, 5])
    hidden = torch.zeros(1, 2, 4, dtype=torch.bool)
    hidden[0, 0, slot] = True
    seen = blank(video, target, hidden, 8)
    for cell in range(20):
        row, column = divmod(cell, 5)
        patch = seen[0, 0, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        assert bool((patch == 0).all()) == bool(owners[0, 0, cell] == slot)
    assert torch.equal(seen[0, 1], video[0, 1])


def test_the_target_gets_no_gradient_and_everything_else_does(tmp_path) -> None:
    store = EpisodeStore(toy.make_store(tmp_path / "store"))
    torch.manual_seed(0)
    model = HNetVJEPA(toy.config(pretrain={"entropy": 0.01, "boundary": 0.01}), describe_robot(store))
    phase = Pretrain()
    batch = ClipSampler(store, model.robot.action, "train", 3, 0).batch(0, 8)
    model.requires_grad_(False)
    for module in phase.modules(model):
        module.requires_grad_(True)
    losses = phase.loss(model, batch)
    assert set(losses) == {"energy", "vicregl", "ratio", "entropy", "boundary", "reconstruction"}
    torch.stack(list(losses.values())).sum().backward()
    without = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    assert all(p.grad is None for p in model.target.parameters())


def test_the_target_follows_the_backbone() -> None:
    torch.manual_seed(0)
    model = HNetVJEPA(toy.config(), _robot())
    before = [p.clone() for p in model.target.parameters()]
    with torch.no_grad():
        for p in model.backbone.parameters():
            p.add_(1.0)
    model.update_target(0.9)
    for old, new in zip(before, model.target.parameters(), strict=True):
        np.testing.assert_allclose(new.detach().numpy(), (old + 0.1).detach().numpy(), atol=1e-5)


def _robot():
    from hnet_vjepa.models.model import Robot

    spec = toy.SPEC.model_copy(update={"mean": (0.0, 0.0), "std": (1.0, 1.0)})
    return Robot(camera=toy.CAMERA, action=spec, labels=toy.LABELS)


def test_only_hidden_slots_are_predicted(toy_store: Path) -> None:
    """A predictor that is right at hidden slots and wrong everywhere else has no error."""
    model = HNetVJEPA(toy.config(), _robot())
    batch = ClipSampler(EpisodeStore(toy_store), describe_robot(EpisodeStore(toy_store)).action, "train", 3, 0).batch(
        0, 4
    )
    target = model.target(batch.video, across=True)
    config = model.config.pretrain
    hidden = hidden_slots(
        batch.keys, model.config.seed, *target.mask.shape[1:], config.mask_ratio, config.future_probability
    ).flatten(1)
    goal = torch.nn.functional.layer_norm(target.flat()[0].float(), target.tokens.shape[-1:])
    assert hidden.any() and not hidden.all()

    class Answers(torch.nn.Module):
        def __init__(self, right: torch.Tensor) -> None:
            super().__init__()
            self.answer = torch.where(right[..., None], goal, goal + 3.0)

        def forward(self, *_: torch.Tensor) -> torch.Tensor:
            return self.answer

    model.predictor = Answers(hidden)  # type: ignore[assignment]
    assert float(Pretrain().loss(model, batch)["energy"]) == pytest.approx(0, abs=1e-6)
    model.predictor = Answers(~hidden)  # type: ignore[assignment]
    assert float(Pretrain().loss(model, batch)["energy"]) == pytest.approx(2.5)  # smooth L1 of 3
