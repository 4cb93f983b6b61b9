"""Traced functions return what the functions return; what cannot be traced runs untraced."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hnet_vjepa.checkpoint import load_checkpoint
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.interface import PlanQuery
from hnet_vjepa.planning.jit import jit_trace
from hnet_vjepa.planning.planner import WorldModelPlanner
from tests import toy


def test_known_shapes_run_the_trace_and_others_the_function() -> None:
    calls = []

    def function(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        calls.append(x.shape)
        return x @ y, x.sum(0)

    fast = jit_trace(function, [((2, 3), (3, 4)), ((1, 3), (3, 4))])
    before = len(calls)
    for rows, known in ((2, True), (1, True), (5, False)):
        x, y = torch.randn(rows, 3), torch.randn(3, 4)
        product, total = fast(x, y)
        torch.testing.assert_close(product, torch.einsum("ij,jk->ik", x, y))
        torch.testing.assert_close(total, x.sum(0))
        assert (len(calls) == before) == known
    assert len(calls) == before + 1


def test_a_function_with_data_dependent_control_flow_is_not_traced() -> None:
    def function(x: Tensor) -> tuple[Tensor]:
        return (x + 1 if float(x.sum()) > seen[0] else x - 1,)

    torch.manual_seed(0)
    random = torch.Generator().manual_seed(0)
    first, second = (float(torch.randn(3, generator=random).sum()) for _ in range(2))
    seen = [(first + second) / 2]  # so that the inputs of tracing and of its check take different branches
    fast = jit_trace(function, [((3,),)])
    for value in (-10.0, 10.0):
        x = torch.full((3,), value)
        torch.testing.assert_close(fast(x)[0], x + (1 if value > 0 else -1))


def test_what_cannot_be_traced_still_works() -> None:
    def function(x: Tensor) -> tuple[Tensor]:
        return (torch.from_numpy(np.sort(x.numpy())),) if not torch.jit.is_tracing() else _fail()

    x = torch.tensor([3.0, 1.0, 2.0])
    assert jit_trace(function, [((3,),)])(x)[0].tolist() == [1, 2, 3]


def _fail() -> tuple[Tensor]:
    raise RuntimeError("no trace of this")


@pytest.mark.parametrize("reached", [-1.0, 1e9])
def test_a_compiled_planner_plans_as_before(toy_run: Path, reached: float) -> None:
    checkpoint = load_checkpoint(toy_run / "action")
    checkpoint = replace(checkpoint, manifest=checkpoint.manifest.model_copy(update={"reached_energy": reached}))
    slow, fast = WorldModelPlanner(checkpoint), WorldModelPlanner(checkpoint)
    fast.compile()
    for seed in range(5):
        frames = np.stack([toy.picture(8 + seed, 10), toy.picture(9, 10 + seed)])
        query = PlanQuery(frames, ImageGoal(toy.picture(24, 24)), seed)
        [expected], [result] = slow.plan([query]), fast.plan([query])
        assert result.reached == expected.reached == (reached > 0)
        np.testing.assert_allclose(result.actions, expected.actions, atol=1e-4)
        np.testing.assert_allclose(result.energies, expected.energies, rtol=1e-4)
