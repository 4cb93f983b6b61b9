"""What one step of the training loop does, watched over a short pretraining: rate, clipping, decay, and the target."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.pipeline import describe_robot, make_phase
from hnet_vjepa.trainers.engine import train
from hnet_vjepa.utils.runtime import set_seed
from tests import toy

STEPS, RATE, CLIP, MOMENTUM, DECAY = 6, 0.002, 0.05, 0.8, 0.3


@dataclass
class Seen:
    """What the optimiser was given at each step, and the student's parameters before the first and after each."""

    first: list[Tensor]
    target: list[Tensor] = field(default_factory=list)
    students: list[list[Tensor]] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    norms: list[float] = field(default_factory=list)
    decays: set[tuple[bool, float]] = field(default_factory=set)  # whether a weight is a matrix, and its decay


@pytest.fixture(scope="module")
def seen(toy_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    settings = {"steps": STEPS, "learning_rate": RATE, "clip_norm": CLIP, "weight_decay": DECAY, "warmup": 0.34}
    config = toy.config(pretrain={**settings, "ema": MOMENTUM, "batch_size": 4})
    store = EpisodeStore(toy_store)
    set_seed(0)
    model = HNetVJEPA(config, describe_robot(store))
    copies = lambda: [p.detach().clone() for p in model.backbone.parameters()]  # noqa: E731
    seen, real = Seen(copies()), torch.optim.AdamW.step

    def step(optimizer: torch.optim.AdamW, *args: Any, **kwargs: Any) -> Any:
        groups = optimizer.param_groups
        seen.rates.append(groups[0]["lr"])
        gradients = [p.grad for group in groups for p in group["params"] if p.grad is not None]
        seen.norms.append(math.sqrt(sum(float(g.double().square().sum()) for g in gradients)))
        seen.decays |= {(p.ndim > 1, group["weight_decay"]) for group in groups for p in group["params"]}
        result = real(optimizer, *args, **kwargs)
        seen.students.append(copies())
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.optim.AdamW, "step", step)
        train(make_phase("pretrain", (), store), model, store, tmp_path_factory.mktemp("steps"), progress=False)
    seen.target = [p.detach().clone() for p in model.target.parameters()]
    yield seen


def test_the_learning_rate_of_every_step_is_the_closed_form(seen: Seen) -> None:
    """Two steps of warm-up, then half a cosine over the other four, which is 0 only after the last."""
    cosine = [0.5 * (1 + math.cos(math.pi * k / 4)) for k in range(4)]
    assert seen.rates == pytest.approx([RATE * share for share in (0.5, 1.0, *cosine)])
    assert seen.rates[-1] > 0


def test_the_target_is_the_moving_average_of_the_students(seen: Seen) -> None:
    assert len(seen.students) == STEPS
    expected = seen.first
    for student in seen.students:
        expected = [MOMENTUM * old + (1 - MOMENTUM) * new for old, new in zip(expected, student, strict=True)]
    for target, average in zip(seen.target, expected, strict=True):
        torch.testing.assert_close(target, average, rtol=1e-5, atol=1e-6)
    moved = [float((a - b).abs().max()) for a, b in zip(seen.target, seen.first, strict=True)]
    assert max(moved) > 1e-3  # or this shows nothing


def test_gradients_are_clipped_to_their_norm(seen: Seen) -> None:
    assert max(seen.norms) <= CLIP * 1.001
    assert max(seen.norms) > CLIP * 0.9  # they were longer


def test_matrices_decay_and_vectors_do_not(seen: Seen) -> None:
    assert seen.decays == {(True, DECAY), (False, 0.0)}
