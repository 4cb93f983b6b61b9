"""Native sparse attention on a video grid: compressed, selected and window branches behind three gates."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn, unflatten

from hnet_vjepa.models.ops import attention

Triple = tuple[int, int, int]


@dataclass(frozen=True)
class Layout:
    """How a T x H x W grid (N tokens) falls into M cubes of C cells; a window holds at most m cubes."""

    cube: Triple  # clipped to the grid: a grid of one frame is not padded to the cube's depth
    counts: Triple  # cubes along T, H, W; their product is M
    cube_of: Tensor  # N, the cube of every token
    real: Tensor  # M x C, True where the cell lies inside the grid (false at ragged edges)
    near: Tensor  # M x M, True where cube j is in the window of cube i
    all_near: bool  # the window of every cube holds all cubes
    near_index: Tensor  # M x m, the cubes in the window of every cube, filled up with far ones
    near_valid: Tensor  # M x m, False where filled up


@lru_cache(maxsize=64)
def layout(grid: Triple, cube: Triple, radius: Triple, device: torch.device) -> Layout:
    """Tile ``grid`` into cubes; the window of a cube holds the cubes within ``radius`` cubes along every axis."""
    # A cached tensor made in inference mode could not take part in a later backward pass.
    with torch.inference_mode(False):
        cube = (min(cube[0], grid[0]), min(cube[1], grid[1]), min(cube[2], grid[2]))
        counts = tuple(math.ceil(size / edge) for size, edge in zip(grid, cube, strict=True))
        cubes, cells = math.prod(counts), math.prod(cube)
        axes = [torch.arange(size, device=device) // edge for size, edge in zip(grid, cube, strict=True)]
        cube_of = (axes[0][:, None, None] * counts[1] + axes[1][:, None]) * counts[2] + axes[2]  # T x H x W
        ones = torch.ones(1, *grid, 1, dtype=torch.bool, device=device)
        places = torch.cartesian_prod(*[torch.arange(count, device=device) for count in counts])  # M x 3
        near = ((places[:, None] - places).abs() <= torch.tensor(radius, device=device)).all(-1)  # M x M
        widest = int(near.sum(-1).max())
        near_valid, near_index = near.float().topk(widest, -1)  # M x m
        return Layout(
            cube=cube,
            counts=(counts[0], counts[1], counts[2]),
            cube_of=cube_of.flatten(),
            real=tile(ones, cube).reshape(cubes, cells),
            near=near,
            all_near=bool(near.all()),
            near_index=near_index,
            near_valid=near_valid > 0,
        )


def tile(x: Tensor, cube: Triple) -> Tensor:
    """Cut a grid into cubes: B x T x H x W x E -> B x M x C x E. Ragged edges are padded with zeros (False)."""
    (t, h, w), (frames, height, width) = cube, x.shape[1:4]
    edges = (-frames % t, -height % h, -width % w)
    if any(edges):
        x = F.pad(x, (0, 0, 0, edges[2], 0, edges[1], 0, edges[0]))
    x = unflatten(unflatten(unflatten(x, 3, (-1, w)), 2, (-1, h)), 1, (-1, t))  # B x nT x t x nH x h x nW x w x E
    return x.permute(0, 1, 3, 5, 2, 4, 6, 7).flatten(4, 6).flatten(1, 3)


def untile(x: Tensor, grid: Triple, cube: Triple) -> Tensor:
    """Undo ``tile``: B x M x C x E -> B x T x H x W x E."""
    counts = [math.ceil(size / edge) for size, edge in zip(grid, cube, strict=True)]
    x = unflatten(unflatten(x, 2, cube), 1, counts)  # B x nT x nH x nW x t x h x w x E
    x = x.permute(0, 1, 4, 2, 5, 3, 6, 7).flatten(5, 6).flatten(3, 4).flatten(1, 2)
    return x if x.shape[1:4] == grid else x[:, : grid[0], : grid[1], : grid[2]]


def see_something(keep: Tensor) -> Tensor:
    """Let a query that may see no key see them all: its softmax stays finite, and its result is thrown away."""
    return keep | ~keep.any(-1, keepdim=True)


class NativeSparseAttention(nn.Module):
    """Non-causal native sparse attention over the tokens of a T x H x W grid.

    The grid is tiled into cubes. For head h and token i, with separate keys and values for every branch,

    * compressed: ``k~_m = sum_c a_mc (k_mc + e_c)`` and ``v~_m = sum_c a_mc v_mc`` over the cells c of cube m, with
      ``a_m = softmax_c(u (k_mc + e_c))``; attention over the M pairs ``(k~_m, v~_m)``;
    * selected: attention over the tokens of the ``selected`` cubes with the greatest importance for the cube of i.
      Importance is the compressed branch's probability, summed over the heads and over the queries of the cube; a
      cube always selects itself. The choice has no gradient: the compressed branch trains the scores;
    * window: attention over the tokens of the cubes within ``radius`` cubes along every axis;
    * ``o_i = W_o sum_branch sigmoid(g_i^branch) o_i^branch``, the gates independent of each other.

    Two paths give the same result. The gathered one copies the cubes a query cube sees, so its cost grows with
    N (selected + window) C; the dense one masks full attention and is quicker on small grids. Source: Native Sparse
    Attention (arXiv 2502.11089), eq. 5 to 12, made bidirectional and three-dimensional.

    Raises ValueError when ``dim`` is no multiple of ``heads`` or a size is below its minimum.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        cube: Triple = (2, 4, 4),
        selected: int = 4,
        radius: Triple = (1, 1, 1),
        dense_below: int = 1536,
    ) -> None:
        super().__init__()
        if heads < 1 or dim % heads:
            raise ValueError(f"dim must be a multiple of heads; got dim {dim}, heads {heads}")
        if min(cube) < 1 or selected < 1 or min(radius) < 0:
            raise ValueError(f"cube and selected start at 1, radius at 0; got {cube}, {selected}, {radius}")
        self.dim, self.heads, self.head_dim = dim, heads, dim // heads
        self.cube: Triple = (cube[0], cube[1], cube[2])  # a list from a configuration file would not hash
        self.radius: Triple = (radius[0], radius[1], radius[2])
        self.selected = selected
        self.dense_below = dense_below
        # q, then k and v of the compressed, selected and window branches, then the gates. No bias: on keys the softmax
        # would cancel it.
        self.project = nn.Linear(dim, 7 * dim + 3 * heads, bias=False)
        self.gate_bias = nn.Parameter(torch.zeros(3, heads))
        self.cell_position = nn.Parameter(torch.randn(*self.cube, heads, self.head_dim) * 0.02)
        self.pool_query = nn.Parameter(torch.randn(heads, self.head_dim) * 0.02)
        self.out = nn.Linear(dim, dim, bias=False)

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        """Attend over x: B x T x H x W x D. Tokens under ``padding`` (B x T x H x W) are not seen and give zeros.

        Raises ValueError when the shapes do not fit.
        """
        if x.ndim != 5 or x.shape[-1] != self.dim:
            raise ValueError(f"x must be B x T x H x W x {self.dim}; got {tuple(x.shape)}")
        if padding is not None:
            if padding.shape != x.shape[:-1]:
                raise ValueError(f"padding must be {tuple(x.shape[:-1])}; got {tuple(padding.shape)}")
            x = x.masked_fill(padding[..., None], 0.0)
        grid = (x.shape[1], x.shape[2], x.shape[3])
        plan = layout(grid, self.cube, self.radius, x.device)
        # One split: the backward of a slice fills a tensor of the whole size with zeros, and there would be a dozen.
        widths = (self.dim, 2 * self.dim, 2 * self.dim, 2 * self.dim, 3 * self.heads)
        q, kv_compressed, kv_selected, kv_window, opening = self.project(x).split(widths, -1)  # B x T x H x W x width
        gates = (unflatten(opening, -1, (3, self.heads)) + self.gate_bias).sigmoid()
        gate_compressed, gate_selected, gate_window = gates.flatten(1, 3).unsqueeze(-1).unbind(2)  # B x N x heads x 1

        compressed, chosen = self._compressed(q, kv_compressed, padding, plan)
        path = self._dense if math.prod(grid) < self.dense_below else self._gathered
        selected, window = path(q, kv_selected, kv_window, padding, chosen, plan)
        mixed = gate_compressed * compressed + gate_selected * selected + gate_window * window
        out = unflatten(self.out(mixed.flatten(2)), 1, grid)
        return out if padding is None else out.masked_fill(padding[..., None], 0.0)

    def _split_heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values of one branch: ... x 2D -> 2 x (... x heads x d)."""
        keys, values = unflatten(x, -1, (2, self.heads, self.head_dim)).unbind(-3)
        return keys, values

    def _compressed(self, q: Tensor, kv: Tensor, padding: Tensor | None, plan: Layout) -> tuple[Tensor, Tensor | None]:
        """The compressed branch, B x N x heads x d, and the cubes each cube selects, B x M x n; None means all."""
        keys, values = self._split_heads(tile(kv, plan.cube))  # B x M x C x heads x d
        t, h, w = plan.cube
        keys = keys + self.cell_position[:t, :h, :w].flatten(0, 2)
        live = plan.real[None]  # 1 or B x M x C
        if padding is not None:
            live = live & ~tile(padding[..., None], plan.cube).squeeze(-1)
        logits = (keys * self.pool_query).sum(-1)  # B x M x C x heads
        weights = logits.masked_fill(~see_something(live)[..., None], -math.inf).softmax(2).unsqueeze(-1)
        k = (weights * keys).sum(2).transpose(1, 2).to(q.dtype)  # B x heads x M x d
        v = (weights * values).sum(2).transpose(1, 2).to(q.dtype)
        grid = (q.shape[1], q.shape[2], q.shape[3])
        q = unflatten(q.flatten(1, 3), -1, (self.heads, -1)).transpose(1, 2)  # B x heads x N x d
        cube_live = see_something(live.any(-1))[:, None, None]  # 1 or B x 1 x 1 x M
        count = k.shape[2]
        if self.selected >= count:
            # Everything is selected, so nobody needs the probabilities.
            mask = None if padding is None else cube_live
            return attention(q, k, v, mask).transpose(1, 2), None
        scores = q @ k.transpose(-1, -2) * self.head_dim**-0.5
        probability = scores.masked_fill(~cube_live, -math.inf).softmax(-1)  # B x heads x N x M
        attended = (probability.to(v.dtype) @ v).transpose(1, 2)
        with torch.no_grad():
            # A padded query is a zero vector and adds the same to every live cube: it has no say in the order.
            per_token = probability.sum(1).float()  # B x N x M
            importance = tile(unflatten(per_token, 1, grid), plan.cube).sum(2)  # B x M x M
            importance.diagonal(dim1=1, dim2=2).fill_(math.inf)
            chosen = importance.topk(self.selected, -1).indices  # B x M x n
        return attended, chosen

    def _dense(
        self,
        q: Tensor,
        kv_selected: Tensor,
        kv_window: Tensor,
        padding: Tensor | None,
        chosen: Tensor | None,
        plan: Layout,
    ) -> tuple[Tensor, Tensor]:
        """Selected and window branches as masked full attention: 2 x (B x N x heads x d)."""
        q = unflatten(q.flatten(1, 3), -1, (self.heads, -1)).transpose(1, 2)  # B x heads x N x d
        selected = window = None  # no mask
        if chosen is not None:
            size = len(plan.near)
            cubes = torch.zeros(len(chosen), size, size, dtype=torch.bool, device=chosen.device)
            cubes.scatter_(-1, chosen, True)
            selected = cubes[:, plan.cube_of][:, :, plan.cube_of].unsqueeze(1)  # B x 1 x N x N
        if not plan.all_near:
            window = plan.near[plan.cube_of][:, plan.cube_of][None, None]  # 1 x 1 x N x N
        if padding is not None:
            live = ~padding.flatten(1)[:, None, None]  # B x 1 x 1 x N
            selected = see_something(live if selected is None else selected & live)
            window = see_something(live if window is None else window & live)

        def attend(kv: Tensor, mask: Tensor | None) -> Tensor:
            k, v = self._split_heads(kv.flatten(1, 3))  # B x N x heads x d
            seen = attention(q, k.transpose(1, 2), v.transpose(1, 2), mask)
            return seen.transpose(1, 2)

        return attend(kv_selected, selected), attend(kv_window, window)

    def _gathered(
        self,
        q: Tensor,
        kv_selected: Tensor,
        kv_window: Tensor,
        padding: Tensor | None,
        chosen: Tensor | None,
        plan: Layout,
    ) -> tuple[Tensor, Tensor]:
        """Selected and window branches over copies of the cubes each cube sees: 2 x (B x N x heads x d)."""
        batch, grid = q.shape[0], (q.shape[1], q.shape[2], q.shape[3])
        q = unflatten(tile(q, plan.cube).flatten(0, 1), -1, (self.heads, -1)).transpose(1, 2)  # BM x heads x C x d
        live = plan.real.expand(batch, -1, -1)  # B x M x C
        if padding is not None:
            live = live & ~tile(padding[..., None], plan.cube).squeeze(-1)
        count = len(plan.near)
        offsets = torch.arange(batch, device=q.device)[:, None, None] * count  # B x 1 x 1

        def attend(kv: Tensor, index: Tensor, valid: Tensor | None) -> Tensor:
            """Attention of every cube's queries over the cubes in ``index`` (B or 1 x M x n): B x N x heads x d."""
            rows = (index + offsets).flatten()  # B M n
            copies = tile(kv, plan.cube).flatten(0, 1).index_select(0, rows)  # BMn x C x 2D
            k, v = self._split_heads(unflatten(copies, 0, (batch * count, -1)).flatten(1, 2))  # BM x nC x heads x d
            keep = unflatten(live.flatten(0, 1)[rows], 0, (batch, count, -1))  # B x M x n x C
            if valid is not None:
                keep = keep & valid[..., None]
            mask = see_something(keep.flatten(2).flatten(0, 1))[:, None, None]  # BM x 1 x 1 x nC
            seen = attention(q, k.transpose(1, 2), v.transpose(1, 2), mask)
            seen = unflatten(seen.transpose(1, 2).flatten(2), 0, (batch, count))  # B x M x C x D
            back = untile(seen, grid, plan.cube).flatten(1, 3)  # B x N x D
            return unflatten(back, -1, (self.heads, self.head_dim))

        if chosen is None:
            chosen = torch.arange(count, device=q.device).expand(1, count, count)
        return attend(kv_selected, chosen, None), attend(kv_window, plan.near_index[None], plan.near_valid)
