"""SIGReg: keep embeddings distributed like an isotropic Gaussian, tested along random directions."""

from __future__ import annotations

import torch
from torch import Tensor

from hnet_vjepa.losses.vicregl import wide
from hnet_vjepa.utils.collectives import gather_rows


def random_directions(dim: int, slices: int, seed: int, like: Tensor) -> Tensor:
    """``slices`` unit columns, D x S. Drawn on the CPU, so that every rank and device gets the same ones."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.randn(dim, slices, generator=generator, dtype=torch.float64)
    return (directions / directions.square().sum(0).sqrt()).to(like)


def sigreg_loss(x: Tensor, slices: int = 256, knots: int = 17, seed: int = 0) -> Tensor:
    """Sketched isotropic Gaussian regularisation with the Epps-Pulley statistic (LeJEPA, arXiv 2511.08544).

    ``u_ns = a_s . x_n`` along unit directions a_s,
    ``phi(t) = exp(-t^2 / 2)``, the characteristic function of N(0, 1), which also weighs the frequencies,
    ``T_s = N int_{-3}^{3} phi(t) |mean_n exp(i t u_ns) - phi(t)|^2 dt``, by the trapezoid rule on [0, 3], doubled,
    ``loss = mean_s T_s``.

    About 1 for a standard Gaussian whatever N is, growing with N otherwise. Its gradient vanishes at a complete
    collapse, as that of VICReg does. Chunks of one clip are correlated: give it few of each.

    Args:
        x: N x D, the valid embeddings of this rank. The means run over the rows of all ranks, with gradient, so every
            rank must call it with the same ``seed``; no row anywhere gives 0.
        slices: number of directions; memory grows with N x slices x knots.
        seed: give the step's number, so that every step draws new directions.

    Raises ValueError when ``slices`` is below 1 or ``knots`` below 2.
    """
    if slices < 1 or knots < 2:
        raise ValueError(f"slices starts at 1 and knots at 2; got {slices}, {knots}")
    x = wide(x)
    with torch.autocast(x.device.type, enabled=False):
        projected = x @ random_directions(x.shape[1], slices, seed, x)  # N x S
        t = torch.linspace(0, 3, knots, dtype=x.dtype, device=x.device)
        phi = (-t.square() / 2).exp()  # knots
        angles = projected[..., None] * t  # N x S x knots
        sums = torch.stack([angles.cos().sum(0), angles.sin().sum(0)])  # 2 x S x knots
        # Sums and count travel together; adding up the ranks' rows is an all-reduce whose gradient is known.
        own = torch.cat([sums.flatten(), sums.new_tensor([float(len(x))])])
        total = gather_rows(own[None]).sum(0)
        count = total[-1].detach()
        real, imaginary = (total[:-1] / count.clamp(min=1)).reshape(sums.shape).unbind()  # S x knots
        gap = (real - phi).square() + imaginary.square()
        step = torch.full_like(t, 2 * 3 / (knots - 1))
        step[0] = step[-1] = 3 / (knots - 1)
        statistic = count * (gap @ (step * phi))  # S
    return statistic.mean()
