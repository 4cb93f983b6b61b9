"""Native sparse attention on a video grid: compressed, selected and window branches behind three gates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat

import torch
import torch.nn.functional as F
from torch import Tensor, nn, unflatten

from hnet_vjepa.models.ops import attention

Triple = tuple[int, int, int]

# Tokens of a grid below which the dense path is taken. In a forward pass the gathered path is as quick as the dense one
# from the smallest sizes measured on, 196 tokens of one large grid and 64 tokens of 16 small ones (crossover_tokens and
# crossover_tokens_robots in benchmarks/results/chunking.json); with the backward pass it was quicker from about 200
# tokens on (one-off).
DENSE_BELOW = 200

# Cubes along T, H and W whose queries share one box of keys in the window branch. More of them copy fewer keys and
# multiply larger matrices, but look at more keys that the mask then hides. Of (1, 1, 1) to (4, 4, 4) this was quickest
# on 32 x 14 x 14 tokens with cubes of 2 x 4 x 4 and 1 x 7 x 7 (93 ms and 59 ms in fp32, against 110 and 66 ms for a
# cube at a time; torch 2.13 on a CPU).
GROUP: Triple = (1, 2, 2)

# Numbers in a temporary tensor that no gradient keeps. glibc gives larger blocks back to the system after every use;
# to be given them anew took three quarters of the time of a 450 MB copy.
PIECE = 2**21


@dataclass(frozen=True)
class Layout:
    """How a T x H x W grid (N tokens) falls into M cubes of C cells."""

    cube: Triple  # clipped to the grid: a grid of one frame is not padded to the cube's depth
    cube_of: Tensor  # N, the cube of every token
    real: Tensor  # M x C, True where the cell lies inside the grid
    ragged: bool  # the last cubes reach over the grid's edge


@lru_cache(maxsize=64)
def layout(grid: Triple, cube: Triple, device: torch.device) -> Layout:
    """Tile ``grid`` into cubes."""
    # A cached tensor made in inference mode could not take part in a later backward pass.
    with torch.inference_mode(False):
        cube = (min(cube[0], grid[0]), min(cube[1], grid[1]), min(cube[2], grid[2]))
        rows, columns = math.ceil(grid[1] / cube[1]), math.ceil(grid[2] / cube[2])
        axes = [torch.arange(size, device=device) // edge for size, edge in zip(grid, cube, strict=True)]
        cube_of = (axes[0][:, None, None] * rows + axes[1][:, None]) * columns + axes[2]  # T x H x W
        ones = torch.ones(1, *grid, 1, dtype=torch.bool, device=device)
        real = tile(ones, cube).flatten(2).squeeze(0)  # M x C
        return Layout(cube, cube_of.flatten(), real, not bool(real.all()))


@lru_cache(maxsize=256)
def within_reach(
    queries: Triple, keys: Triple, offset: Triple, cube: Triple, radius: Triple, device: torch.device
) -> Tensor | None:
    """Which keys of a box are in the windows of which of its queries: 1 x 1 x q x k; None when all are.

    Both boxes begin at a cube, the queries' ``offset`` cubes after the keys'.
    """
    with torch.inference_mode(False):
        sees = []
        for q, k, start, edge, reach in zip(queries, keys, offset, cube, radius, strict=True):
            seen_from = torch.arange(q, device=device) // edge + start
            sees.append((seen_from[:, None] - torch.arange(k, device=device) // edge).abs() <= reach)
        t, h, w = sees
        along_all = t[:, None, None, :, None, None] & h[:, None, None, :, None] & w[:, None, None, :]
        mask = along_all.flatten(3).flatten(0, 2)  # q x k, each in reading order
        return None if bool(mask.all()) else mask[None, None]


def cut(x: Tensor, axis: int, edge: int, group: int, radius: int) -> Iterator[Tensor]:
    """Cut x along ``axis`` into pieces of ``group`` cubes, each with ``radius`` more on either side where they exist.

    Made of ``split`` and ``cat``: the backward pass of a slice would fill a tensor of the whole size.
    """
    if not radius:
        yield from x.split(edge * group, axis)
        return
    cubes = x.split(edge, axis)
    for first in range(0, len(cubes), group):
        near = cubes[max(0, first - radius) : first + group + radius]
        yield x if len(near) == len(cubes) else torch.cat(near, axis)


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


def unmask_empty_rows(keep: Tensor) -> Tensor:
    """Unmask all keys of a query that has none: its softmax stays finite, and its result is not used."""
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

    Two paths give the same result. The gathered one brings together the keys that a few cubes see, so its cost grows
    with N (selected + window) C, beside the N M of the compressed branch; the dense one masks full attention and is
    quicker on small grids. Source: Native Sparse Attention (arXiv 2502.11089), eq. 5 to 12, made bidirectional and
    three-dimensional.

    Raises ValueError when ``dim`` is no multiple of ``heads`` or a size is below its minimum.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        cube: Triple = (2, 4, 4),
        selected: int = 4,
        radius: Triple = (1, 1, 1),
        dense_below: int = DENSE_BELOW,
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
        plan = layout(grid, self.cube, x.device)
        # One split: the backward of a slice fills a tensor of the whole size with zeros, and there would be a dozen.
        widths = (self.dim, 2 * self.dim, 2 * self.dim, 2 * self.dim, 3 * self.heads)
        q, kv_compressed, kv_selected, kv_window, opening = self.project(x).split(widths, -1)  # B x T x H x W x width
        gates = (unflatten(opening, -1, (3, self.heads)) + self.gate_bias).sigmoid().to(q.dtype)
        gate_compressed, gate_selected, gate_window = gates.flatten(1, 3).unsqueeze(-1).unbind(2)  # B x N x heads x 1

        live = self._live(padding, plan)
        # Without padding every cube holds a token.
        seen = (
            None if padding is None or live is None else unmask_empty_rows(live.any(-1))[:, None, None]
        )  # B x 1 x 1 x M
        keys, values = self._summaries(kv_compressed, live, plan)
        compressed = attention(self._split_heads(q.flatten(1, 3)), keys, values, seen).transpose(1, 2)
        # Nobody needs to choose when everything is selected.
        chosen = None if self.selected >= len(plan.real) else self._choose(tile(q, plan.cube), keys, seen)
        if math.prod(grid) < self.dense_below:
            selected, window = self._dense(q, kv_selected, kv_window, padding, chosen, plan)
        else:
            selected = self._selected(q, kv_selected, padding, chosen, live, plan)
            window = self._window(q, kv_window, None if padding is None else ~padding, plan).flatten(1, 3)
        mixed = torch.addcmul(gate_compressed * compressed, gate_selected, self._as_heads(selected))
        mixed = torch.addcmul(mixed, gate_window, self._as_heads(window))  # B x N x heads x d
        out = unflatten(self.out(mixed.flatten(2)), 1, grid)
        return out if padding is None else out.masked_fill(padding[..., None], 0.0)

    def _as_heads(self, x: Tensor) -> Tensor:
        """... x D -> ... x heads x d."""
        return unflatten(x, -1, (self.heads, self.head_dim))

    def _split_heads(self, x: Tensor) -> Tensor:
        """... x n x D -> ... x heads x n x d."""
        return self._as_heads(x).transpose(-2, -3)

    def _attend(self, q: Tensor, kv: Tensor, mask: Tensor | None) -> Tensor:
        """Queries ... x n x D over keys and values ... x k x 2D, mask ... x 1 x (1 or n) x k: ... x n x D."""
        keys, values = unflatten(kv, -1, (2, self.dim)).unbind(-2)  # ... x k x D
        seen = attention(self._split_heads(q), self._split_heads(keys), self._split_heads(values), mask)
        return seen.transpose(-2, -3).flatten(-2)

    def _live(self, padding: Tensor | None, plan: Layout) -> Tensor | None:
        """The cells of every cube that hold a token, 1 or B x M x C; None when all do."""
        if padding is None:
            return plan.real[None] if plan.ragged else None
        return plan.real & ~tile(padding[..., None], plan.cube).squeeze(-1)

    def _summaries(self, kv: Tensor, live: Tensor | None, plan: Layout) -> tuple[Tensor, Tensor]:
        """One key and one value per cube: 2 x (B x heads x M x d)."""
        cells = tile(kv, plan.cube)  # B x M x C x 2D
        t, h, w = plan.cube
        position = self.cell_position[:t, :h, :w].flatten(0, 2)  # C x heads x d
        # Matrix products in which every head also meets the other heads' numbers, thrown away: less work on a CPU and
        # on a GPU than to go through the cells head by head.
        query = torch.block_diag(*self.pool_query.unsqueeze(-1))  # D x heads
        logits = cells[..., : self.dim] @ query + (position * self.pool_query).sum(-1)  # B x M x C x heads
        if live is not None:
            logits = logits.masked_fill(~unmask_empty_rows(live)[..., None], -math.inf)
        weights = logits.softmax(2).transpose(2, 3).to(cells.dtype)  # B x M x heads x C
        pooled = unflatten(weights @ cells, -1, (2, self.heads, -1))  # B x M x heads x 2 x heads x d
        keys, values = pooled.diagonal(dim1=2, dim2=4).permute(2, 0, 4, 1, 3)  # 2 x (B x heads x M x d)
        moved = self._as_heads(weights @ position.flatten(1).to(cells.dtype))  # B x M x heads x heads x d
        return keys + moved.diagonal(dim1=2, dim2=3).permute(0, 3, 1, 2), values

    @torch.no_grad()
    def _choose(self, q: Tensor, keys: Tensor, seen: Tensor | None) -> Tensor:
        """The cubes that each cube selects, B x M x n.

        From queries B x M x C x D, one key per cube (B x heads x M x d) and which cubes hold a token (B x 1 x 1 x M).
        """
        keys = keys.transpose(-1, -2) * self.head_dim**-0.5  # B x heads x d x M
        batch, count, cells = q.shape[:3]
        chosen, first = [], 0
        for some in q.split(max(1, PIECE // (batch * self.heads * cells * count)), 1):
            queries = self._split_heads(some.flatten(1, 2))  # B x heads x mC x d
            scores = queries @ keys
            if seen is not None:
                scores = scores.masked_fill(~seen, -math.inf)
            # A padded query is a zero vector and adds the same to every live cube, so it does not change the order.
            shares = unflatten(scores.softmax(-1), 2, (-1, cells))  # B x heads x m x C x M
            importance = shares.sum((1, 3), dtype=torch.promote_types(shares.dtype, torch.float32))  # B x m x M
            importance.diagonal(first, 1, 2).fill_(math.inf)
            chosen.append(importance.topk(self.selected, -1).indices)
            first += importance.shape[1]
        return torch.cat(chosen, 1)

    def _dense(
        self,
        q: Tensor,
        kv_selected: Tensor,
        kv_window: Tensor,
        padding: Tensor | None,
        chosen: Tensor | None,
        plan: Layout,
    ) -> tuple[Tensor, Tensor]:
        """Selected and window branches as masked full attention: 2 x (B x N x D)."""
        selected = None  # no mask
        if chosen is not None:
            size = len(plan.real)
            cubes = torch.zeros(len(chosen), size, size, dtype=torch.bool, device=chosen.device)
            cubes.scatter_(-1, chosen, 1)  # TorchScript knows no scatter of True
            selected = cubes[:, plan.cube_of][:, :, plan.cube_of].unsqueeze(1)  # B x 1 x N x N
        grid = (q.shape[1], q.shape[2], q.shape[3])
        window = within_reach(grid, grid, (0, 0, 0), plan.cube, self.radius, q.device)  # 1 x 1 x N x N
        if padding is not None:
            live = ~padding.flatten(1)[:, None, None]  # B x 1 x 1 x N
            selected = unmask_empty_rows(live if selected is None else selected & live)
            window = unmask_empty_rows(live if window is None else window & live)
        q = q.flatten(1, 3)  # B x N x D
        return self._attend(q, kv_selected.flatten(1, 3), selected), self._attend(q, kv_window.flatten(1, 3), window)

    def _selected(
        self, q: Tensor, kv: Tensor, padding: Tensor | None, chosen: Tensor | None, live: Tensor | None, plan: Layout
    ) -> Tensor:
        """The selected branch over copies of the cubes that each cube chose: B x N x D."""
        if chosen is None:
            mask = None if padding is None else unmask_empty_rows(~padding.flatten(1)[:, None, None])
            return self._attend(q.flatten(1, 3), kv.flatten(1, 3), mask)
        batch, count, wanted = chosen.shape
        queries, cells = tile(q, plan.cube).flatten(0, 1), tile(kv, plan.cube).flatten(0, 1)  # BM x C x D and 2D
        rows = (chosen + torch.arange(batch, device=q.device)[:, None, None] * count).flatten(0, 1)  # BM x n
        live = None if live is None else live.expand(batch, -1, -1).flatten(0, 1)  # BM x C
        # With gradients everything is kept anyway, and the backward of every piece would fill a tensor of all cubes.
        step = len(rows) if torch.is_grad_enabled() else max(1, PIECE // (wanted * cells[0].numel()))
        seen = []
        for some, of in zip(queries.split(step), rows.split(step), strict=True):
            copies = unflatten(cells.index_select(0, of.flatten()), 0, of.shape).flatten(1, 2)  # m x nC x 2D
            mask = None if live is None else unmask_empty_rows(live[of].flatten(1))[:, None, None]  # m x 1 x 1 x nC
            seen.append(self._attend(some, copies, mask))
        grid = (q.shape[1], q.shape[2], q.shape[3])
        return untile(unflatten(torch.cat(seen), 0, (batch, count)), grid, plan.cube).flatten(1, 3)

    def _window(
        self, q: Tensor, kv: Tensor, live: Tensor | None, plan: Layout, axis: int = 1, offset: tuple[int, ...] = ()
    ) -> Tensor:
        """The window branch, box by box: B x T x H x W x D. Cuts along T, then H, then W.

        ``offset`` says for the axes that are cut already how many cubes after the keys the queries begin.
        """
        if axis > 3:
            return self._box(q, kv, live, plan, (offset[0], offset[1], offset[2]))
        edge, group, radius = plan.cube[axis - 1], GROUP[axis - 1], self.radius[axis - 1]
        queries = cut(q, axis, edge, group, 0)
        keys = cut(kv, axis, edge, group, radius)
        alive = repeat(None) if live is None else cut(live, axis, edge, group, radius)
        parts = [
            self._window(some, seen, there, plan, axis + 1, (*offset, min(i * group, radius)))
            for i, (some, seen, there) in enumerate(zip(queries, keys, alive, strict=False))
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, axis)

    def _box(self, q: Tensor, kv: Tensor, live: Tensor | None, plan: Layout, offset: Triple) -> Tensor:
        """Window branch of one box of queries, B x t x h x w x D, over the box of keys that they see."""
        boxes = [(x.shape[1], x.shape[2], x.shape[3]) for x in (q, kv)]
        mask = within_reach(boxes[0], boxes[1], offset, plan.cube, self.radius, q.device)
        if live is not None:
            there = live.flatten(1)[:, None, None]  # B x 1 x 1 x k
            mask = unmask_empty_rows(there if mask is None else there & mask)
        return unflatten(self._attend(q.flatten(1, 3), kv.flatten(1, 3), mask), 1, boxes[0])
