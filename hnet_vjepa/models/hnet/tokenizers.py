"""Tokenizers: from the cells of a window to its tokens. Dynamic chunks, and the baselines that they are compared with.

Every tokenizer maps cells to a ``Routing``; pooling and all that follows are the same for every one of them. The
baselines see the same normalised cells through a value projection of the same size as ``SparseRouting``'s.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hnet_vjepa.config import RoutingConfig
from hnet_vjepa.models.hnet.routing import Routing, SparseRouting
from hnet_vjepa.models.ops import straight_through

TINY = 1e-6
NOTHING = 1e-2  # size in cells below which a chunk of a padded frame is masked


class Tokenizer(Protocol):
    """Cells B x N x D at positions N x 3 (t, y, x) to tokens; ``padding`` B x N marks cells that are not there."""

    def __call__(self, cells: Tensor, positions: Tensor, padding: Tensor | None = None) -> Routing:
        """Return at most K tokens per window, the cells that each stands for, and where they lie."""
        ...


def make_tokenizer(dim: int, config: RoutingConfig) -> nn.Module:
    """The tokenizer that a configuration names, for cells of ``dim`` numbers; it follows ``Tokenizer``."""
    rows, columns = config.grid
    if config.tokenizer == "grid":
        return UniformGrid(dim, rows, columns)
    if config.tokenizer == "random":
        return RandomTokens(dim, rows * columns)
    if config.tokenizer == "merge":
        return TokenMerging(dim, rows * columns)
    chunks = SparseRouting(dim, rows, columns, config.prior_strength, config.scale)
    return chunks if config.tokens is None else BudgetedChunks(chunks, config.tokens)


def means(assignment: Tensor, values: Tensor, positions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Assignment-weighted means: tokens B x K x D and centroids B x K x 3; and sizes B x K, cells' worth of assignment.

    assignment B x N x K, values B x N x D, positions N x 3. A token without cells is zero and lies at the origin.
    """
    sizes = assignment.sum(1)  # B x K
    shares = assignment / sizes.clamp(min=TINY)[:, None]  # B x N x K, columns sum to 1 (or 0)
    return shares.transpose(1, 2) @ values, shares.transpose(1, 2) @ positions, sizes


def without_padding(assignment: Tensor, padding: Tensor | None) -> Tensor:
    """The assignment B x N x K with zeros in the rows of cells that are not there."""
    return assignment if padding is None else assignment.masked_fill(padding[..., None], 0.0)


class CellValues(nn.Module):
    """The values of cells, normalised and projected as in SparseRouting."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.value = nn.Linear(dim, dim)

    def forward(self, cells: Tensor) -> Tensor:
        """Cells B x N x D -> B x N x D, in single precision at least."""
        return self.value(self.norm(cells)).to(torch.promote_types(cells.dtype, torch.float32))


class UniformGrid(nn.Module):
    """Mean over rectangles: rows x columns of them divide the picture, each through all frames of the window.

    A cell belongs to the rectangle that its centre lies in. A rectangle in which no cell lies is masked.
    """

    def __init__(self, dim: int, rows: int, columns: int) -> None:
        super().__init__()
        self.values = CellValues(dim)
        self.rows, self.columns = rows, columns

    def forward(self, cells: Tensor, positions: Tensor, padding: Tensor | None = None) -> Routing:
        """See Tokenizer. K = rows * columns tokens, in reading order."""
        values = self.values(cells)
        size = torch.tensor([self.rows, self.columns], device=positions.device)
        place = ((positions[:, 1:] + 1) / 2 * size).long().clamp(min=torch.zeros_like(size), max=size - 1)  # N x 2
        owner = (place[:, 0] * self.columns + place[:, 1]).expand(len(cells), -1)  # B x N
        return hard_routing(owner, self.rows * self.columns, values, positions, padding)


def hard_routing(owner: Tensor, count: int, values: Tensor, positions: Tensor, padding: Tensor | None) -> Routing:
    """The routing in which every cell has one owner (B x N, 0 .. count - 1) and tokens are plain means of cells."""
    with torch.autocast(values.device.type, enabled=False):
        assignment = without_padding(F.one_hot(owner, count).to(values.dtype), padding)  # B x N x K
        tokens, centroids, sizes = means(assignment, values, positions.to(values.dtype))
        mask = sizes == 0
        return Routing(tokens, assignment, centroids, sizes, mask, (~mask).to(values.dtype))


class RandomTokens(nn.Module):
    """Keep K cells drawn at random and drop all others, a baseline.

    A token is one kept cell at that cell's position. A dropped cell is assigned to the nearest kept one and counts in
    its size, so that tokens can be put back on the grid, but its features are lost.

    All windows of a call keep the same cells, so that the frames of a clip can be compared with each other. In training
    every call draws anew; in evaluation all draw the same. Draws are a function of a seed and a counter, both saved
    with the weights, so a resumed run draws as an uninterrupted one would.
    """

    seed: Tensor
    calls: Tensor

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.values = CellValues(dim)
        self.count = count
        self.register_buffer("seed", torch.randint(2**31, ()))
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))

    def forward(self, cells: Tensor, positions: Tensor, padding: Tensor | None = None) -> Routing:
        """See Tokenizer. min(K, N) tokens; where fewer cells are there, the rest are masked."""
        values = self.values(cells)
        count = min(self.count, cells.shape[1])
        order = self._draw(cells.shape[1]).to(cells.device).expand(len(cells), -1)  # B x N, lowest are kept
        if padding is not None:
            order = order + padding * cells.shape[1]
        kept = order.argsort(-1)[:, :count]  # B x K
        there = positions[kept]  # B x K x 3
        dead = torch.zeros_like(kept, dtype=torch.bool) if padding is None else padding.gather(1, kept)  # B x K
        with torch.autocast(cells.device.type, enabled=False):
            distance = torch.cdist(positions.expand(len(cells), -1, -1), there)  # B x N x K
            owner = distance.masked_fill(dead[:, None], torch.inf).argmin(-1)  # B x N
            assignment = without_padding(F.one_hot(owner, count).to(values.dtype), padding)  # B x N x K
            chunks = values.gather(1, kept[..., None].expand(-1, -1, values.shape[-1]))  # B x K x D
            alive = ~dead[..., None]
            return Routing(chunks * alive, assignment, there * alive, assignment.sum(1), dead, (~dead).to(values.dtype))

    def _draw(self, cells: int) -> Tensor:
        """A random order of the cells: N."""
        number = 0
        if self.training:
            self.calls += 1
            number = int(self.calls)
        random = torch.Generator().manual_seed((int(self.seed) << 32) + number)
        return torch.randperm(cells, generator=random)


class TokenMerging(nn.Module):
    """Merge the most similar tokens, round by round, until K are left: bipartite soft matching (ToMe, Bolya et al.
    2023, arXiv 2210.09461, section 3).

    In every round each token at an even place is matched with the most similar one (cosine of size-weighted mean
    features) at an odd place, and the most similar of these pairs are merged; a quarter of the tokens goes in a round,
    so that the last token of a pair is chosen among what the merges before it left. The choice of pairs has no
    gradient; their mean has one.
    """

    SHARE = 4  # one in so many tokens goes in a round

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.values = CellValues(dim)
        self.count = count

    def forward(self, cells: Tensor, positions: Tensor, padding: Tensor | None = None) -> Routing:
        """See Tokenizer. min(K, N) tokens; cells that are not there are merged first and cost nothing."""
        values = self.values(cells)
        with torch.autocast(cells.device.type, enabled=False):  # bf16 could not tell similar cells apart
            owner = merged(self.values.norm(cells.float()), self.count, padding)
        return hard_routing(owner, min(self.count, cells.shape[1]), values, positions, padding)


@torch.no_grad()
def merged(features: Tensor, count: int, padding: Tensor | None) -> Tensor:
    """The token that every cell ends up in: B x N, 0 .. count - 1, from features B x N x D (see TokenMerging)."""
    batch, cells = features.shape[:2]
    there = torch.ones_like(features[..., 0]) if padding is None else (~padding).float()  # B x N
    features = features * there[..., None]
    owner = torch.arange(cells, device=features.device).expand(batch, -1)  # B x N
    left = cells
    while left > count:
        members = F.one_hot(owner, left).float() * there[..., None]  # B x N x n
        tokens = F.normalize(members.transpose(1, 2) @ features, dim=-1)  # B x n x D, the mean's direction
        empty = members.sum(1) == 0  # B x n
        removed = min(left // 2, max(1, left // TokenMerging.SHARE), left - count)
        owner = _merge(tokens, empty, removed)[0].gather(1, owner)
        left -= removed
    return owner


def _merge(tokens: Tensor, empty: Tensor, removed: int) -> tuple[Tensor, Tensor]:
    """One round: the new number of every token, B x n, when ``removed`` of the even ones join an odd one.

    tokens B x n x D of unit length; ``empty`` B x n holds no cell: it joins anything and nothing joins it unless all
    are empty. Also returns the even tokens that were removed, B x removed. Those that are left keep their order.
    """
    batch, count = empty.shape
    even, odd = tokens[:, ::2], tokens[:, 1::2]  # B x a x D, B x b x D
    similarity = (even @ odd.transpose(1, 2)).masked_fill(empty[:, None, 1::2], -2.0)  # B x a x b; cosines are above
    best, partner = similarity.max(-1)  # B x a
    best = best.masked_fill(empty[:, ::2], 2.0)
    gone = 2 * best.argsort(stable=True, dim=-1, descending=True)[:, :removed]  # B x r, places among all tokens
    target = 2 * partner.gather(1, gone // 2) + 1  # B x r
    stays = torch.ones(batch, count, dtype=torch.bool, device=tokens.device).scatter(1, gone, False)
    number = stays.long().cumsum(1) - 1  # B x n, of those that stay
    return number.scatter(1, gone, number.gather(1, target)), gone


class BudgetedChunks(nn.Module):
    """Dynamic chunks whose number is ``tokens`` in the mean over frames, more on some and fewer on others.

    Chunks are merged in pairs while the loss, the rise of the sum of squares around the chunks' means, is below a
    threshold (Ward's hierarchical grouping, 1963). The features compared are a chunk's deviations from the running mean
    of its prototype over training frames: static background merges into one chunk, whatever its colours, and the budget
    is spent on what changes. A plain picture therefore has few chunks and a busy one many.

    In a window of several frames each frame is chunked first, and the chunks are then merged over time by the same
    threshold: static content becomes one chunk for the whole window, moving content one per frame.

    The threshold is the same for all windows: while training it follows the value that would have left ``tokens``
    chunks in the mean of each batch. Threshold and what is usual are saved with the weights.
    """

    FOLLOW = 0.2  # of the way to the batch's value in one step

    threshold: Tensor
    usual: Tensor

    def __init__(self, routing: SparseRouting, tokens: float) -> None:
        super().__init__()
        self.routing = routing
        self.tokens = tokens
        self.register_buffer("threshold", torch.zeros(()))  # nothing merges
        self.register_buffer("usual", torch.zeros_like(routing.prototypes))  # K x D

    def forward(self, cells: Tensor, positions: Tensor, padding: Tensor | None = None) -> Routing:
        """See Tokenizer. K prototypes for each of w frames, of which M live; the others are masked."""
        frames = 1 + int(positions[-1, 0])  # cells lie frame after frame, counted from 0
        if frames > 1:
            cells, positions = cells.unflatten(1, (frames, -1)).flatten(0, 1), positions[: len(positions) // frames]
            padding = None if padding is None else padding.unflatten(1, (frames, -1)).flatten(0, 1)
        routing = self.routing(cells, positions, padding)  # of B * w frames
        with torch.autocast(cells.device.type, enabled=False):
            there = routing.sizes.detach().sum(-1, keepdim=True) > 0  # (B*w) x 1, not all padding
            if self.training:
                self._update_usual(routing.chunks.detach()[there.squeeze(1)])
            unlike = replace(routing, chunks=routing.chunks - self.usual)
            partner, loss = ward_merges(unlike.chunks, routing.sizes)
            if self.training:
                self._follow(loss[there.squeeze(1)])
            lives = (loss >= self.threshold) & there
            found = merge_chunks(routing, partner, lives)
            if frames == 1:
                return found
            window = one_after_another(found, frames)
            unlike = one_after_another(merge_chunks(unlike, partner, lives), frames)
            partner, loss = ward_merges(unlike.chunks, window.sizes)
            whole = merge_chunks(
                window, partner, (loss >= self.threshold) & there.view(-1, frames).any(1, keepdim=True)
            )
            return replace(whole, mask=whole.mask | (whole.sizes < NOTHING))

    def _update_usual(self, chunks: Tensor) -> None:
        """Move the running mean towards that of a batch (B x K x D)."""
        if len(chunks):
            self.usual.lerp_(chunks.mean(0), self.FOLLOW if self.threshold > 0 else 1.0)

    def _follow(self, loss: Tensor) -> None:
        """Move the threshold towards the value that leaves ``tokens`` chunks in the mean of a batch (B x K)."""
        if len(loss):
            kept = min(loss.numel(), max(len(loss) + 1, round(self.tokens * len(loss))))  # the first ones always live
            wanted = loss.flatten().kthvalue(loss.numel() - kept + 1).values
            self.threshold.lerp_(wanted, self.FOLLOW if self.threshold > 0 else 1.0)  # the first batch sets it


def one_after_another(routing: Routing, frames: int) -> Routing:
    """The routing of B * w frames as that of B windows of w frames: K of each frame, those of the first frame first."""
    batch, cells, count = len(routing.sizes) // frames, *routing.assignment.shape[1:]
    own = torch.eye(frames, dtype=routing.assignment.dtype, device=routing.assignment.device)
    assignment = routing.assignment.view(batch, frames, cells, 1, count) * own[:, None, :, None]  # B x w x N x w x K
    clock = torch.arange(frames, device=own.device).view(-1, 1) * own.new_tensor([1.0, 0.0, 0.0])  # w x 3
    centroids = routing.centroids.unflatten(0, (batch, frames)) + clock[:, None]
    row = lambda x: x.unflatten(0, (batch, frames)).flatten(1, 2)  # noqa: E731
    return Routing(
        row(routing.chunks),
        assignment.reshape(batch, frames * cells, frames * count),
        centroids.flatten(1, 2),
        row(routing.sizes),
        row(routing.mask),
        row(routing.gate),
    )


@torch.no_grad()
def ward_merges(chunks: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The order of Ward merges: for every chunk the earlier one that it merges into, and the loss.

    ``loss = n_a n_b / (n_a + n_b) |z_a - z_b|^2``, the least of all pairs first; after every merge the losses are
    updated by Lance and Williams (1967). Chunks B x K x D with sizes B x K -> 2 x (B x K); the first chunk never merges
    into another and has an infinite loss.
    """
    batch, count = sizes.shape
    row = torch.arange(batch, device=sizes.device)
    size = sizes.clamp(min=TINY)
    loss = size[:, :, None] * size[:, None] / (size[:, :, None] + size[:, None]) * torch.cdist(chunks, chunks).square()
    loss.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    partner = torch.zeros(batch, count, dtype=torch.long, device=sizes.device)
    lost = torch.full_like(size, torch.inf)
    least = torch.zeros_like(size[:, 0])
    near, mate = loss.min(-1)  # B x K, of every chunk the least loss, and with which
    for _ in range(count - 1):
        found, one = near.min(-1)  # B
        two = mate[row, one]
        stays, goes = torch.minimum(one, two), torch.maximum(one, two)
        least = torch.maximum(least, found)  # in exact numbers it never falls
        partner[row, goes], lost[row, goes] = stays, least
        here, there = size[row, stays, None], size[row, goes, None]  # B x 1
        after = (here + size) * loss[row, stays] + (there + size) * loss[row, goes] - size * found[:, None]
        after = after / (here + there + size)  # B x K
        loss[row, stays], loss[row, :, stays] = after, after
        loss[row, goes], loss[row, :, goes] = torch.inf, torch.inf
        size[row, stays] += there.squeeze(1)
        near[row, goes], mate[row, goes] = torch.inf, -1
        # A merge brings no third chunk nearer than the nearer of the two was, so only rows whose partner merged are
        # updated.
        again = (mate == stays[:, None]) | (mate == goes[:, None])
        again[row, stays] = True
        looks = again.flatten().nonzero().squeeze(1)
        near.view(-1)[looks], mate.view(-1)[looks] = loss.flatten(0, 1)[looks].min(-1)
    return partner, lost


def merge_chunks(routing: Routing, partner: Tensor, lives: Tensor) -> Routing:
    """Merge every chunk that does not live into its partner, or into the one that its partner merged into: B x K each.

    Partners come before the chunks that merge into them, and the first chunk lives where any does. A merged chunk is
    the mean of all its cells; those merged into it are masked.
    """
    count = lives.shape[1]
    goes = torch.where(lives, torch.arange(count, device=lives.device), partner)  # B x K
    for _ in range((count - 1).bit_length()):  # every round doubles how far the way was followed
        goes = goes.gather(1, goes)
    parts = F.one_hot(goes, count).to(routing.sizes.dtype)  # B x K x K, chunk to what it became part of
    sizes = (routing.sizes[:, None] @ parts).squeeze(1)  # B x K
    weights = parts * routing.sizes[..., None] / sizes.clamp(min=TINY)[:, None]  # B x K x K, columns sum to 1 (or 0)
    assignment = routing.assignment @ parts  # B x N x K
    return Routing(
        weights.transpose(1, 2) @ routing.chunks,
        assignment,
        weights.transpose(1, 2) @ routing.centroids,
        sizes,
        ~lives,
        straight_through(lives.to(sizes.dtype), assignment.amax(1)),
    )
