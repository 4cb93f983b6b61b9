"""A transformer whose sequence is sharded over ranks: tokens and gradients of one process, on two and four ranks."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from hnet_vjepa.config import BackboneConfig
from hnet_vjepa.errors import UserError
from hnet_vjepa.models.vjepa.vit import HNetViT
from hnet_vjepa.utils.collectives import check_context, data_rank, gather_rows, lay_out, without_other_ranks
from tests import toy
from tests.models.test_ring_attention import run_ranks

CLIPS, WINDOWS, SLOTS = 4, 3, 3  # 9 chunks: two ranks do not divide them


def backbone(recompute: bool) -> HNetViT:
    torch.manual_seed(0)
    settings = toy.config().model.backbone.model_dump()
    settings["vit"] |= {"depth": 2, "recompute": recompute}
    settings["pooling"]["grid"] = (SLOTS, 1)
    return HNetViT(BackboneConfig.model_validate(settings))


def losses(model: HNetViT, clips: list[int]) -> tuple[Tensor, list[Tensor]]:
    """A loss that mixes all chunks of all clips, and the gradient of every parameter that has one."""
    generator = torch.Generator().manual_seed(1)
    shape = (CLIPS, WINDOWS, *toy.SHAPE)
    video = torch.rand(shape, generator=generator)[clips] * 2 - 1
    weight = torch.randn(CLIPS, WINDOWS, SLOTS, model.dim, generator=generator)[clips]
    tokens = model(video, across=True).tokens
    loss = (tokens * weight).sum((1, 2, 3)).tanh().mean() + gather_rows(tokens.flatten(1)).var(0).mean()
    trained = [p for p in model.parameters() if p.requires_grad]
    return loss.detach(), list(torch.autograd.grad(loss, trained, allow_unused=True))


def worker(rank: int, world: int) -> None:
    for recompute in (False, True):
        model = backbone(recompute)
        with without_other_ranks():
            whole, wanted = losses(model, list(range(CLIPS)))
        lay_out(2)
        place, parts = data_rank()
        assert (place, parts) == (rank // 2, world // 2)
        size = CLIPS // parts
        loss, grads = losses(model, list(range(place * size, (place + 1) * size)))
        dist.all_reduce(loss)
        torch.testing.assert_close(loss / world, whole, rtol=1e-5, atol=1e-6)
        for mine, one in zip(grads, wanted, strict=True):
            assert (mine is None) == (one is None)
            if mine is not None:
                dist.all_reduce(mine)  # the mean over all ranks, as DDP takes it
                torch.testing.assert_close(mine / world, one, rtol=1e-3, atol=1e-6)
        lay_out(1)


@pytest.mark.slow
@pytest.mark.parametrize("world", [2, 4])
def test_a_sharded_transformer_is_that_of_one_process(world: int) -> None:
    run_ranks(worker, world)


@pytest.mark.parametrize(("context", "ranks"), [(2, 1), (3, 4), (0, 2)])
def test_a_context_that_does_not_divide_the_ranks_is_refused(context: int, ranks: int) -> None:
    with pytest.raises(UserError, match=f"--context-parallel {context} does not divide the {ranks} ranks"):
        check_context(context, ranks)
