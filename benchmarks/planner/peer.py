"""A stand-in for a peer's planner: a network of LeWM's size under plain CEM, written from the published description.

LeWM (arXiv 2603.19312) encodes an image of 224 x 224 pixels by a ViT-tiny of patch 14 into one vector of 192 numbers
and predicts the next vector by a causal transformer (6 layers of width 192, 16 heads of 64, MLPs of 2048) over at most
3 steps, each layer conditioned on an action by adaptive layer normalisation. stable-worldmodel plans with it by the
cross-entropy method: 300 candidates of 5 steps, a step being a block of 5 actions; the best 30 give the next mean and
deviation; 10 iterations (30 for Push-T); the cost is the squared distance of the last step to the goal.

The weights are random, so only the cost of planning is meaningful. Where the description leaves a choice, this is
assumed:

- one history image at the start; every step recomputes the (at most 3) last steps and keeps the last of them, as
  their rollout does: 1 + 2 + 3 + 3 + 3 token passes for 5 steps;
- both images, the goal's too, are encoded once per plan, as in their solver;
- fp32, no dropout and no compilation; torch's fused attention; one layer norm before each part of a layer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from hnet_vjepa.models.transformer import Block

CANDIDATES, ELITES, HORIZON, BLOCK = 300, 30, 5, 5
IMAGE = (3, 224, 224)


@dataclass(frozen=True)
class PeerSize:
    """The published sizes."""

    patch: int = 14
    width: int = 192
    encoder_depth: int = 12
    encoder_heads: int = 3
    depth: int = 6
    heads: int = 16
    head_width: int = 64
    hidden: int = 2048
    history: int = 3


class ImageEncoder(nn.Module):
    """ViT: patches and a class token, whose final state is the output."""

    def __init__(self, size: PeerSize) -> None:
        super().__init__()
        width, patches = size.width, (IMAGE[1] // size.patch) * (IMAGE[2] // size.patch)
        self.patches = nn.Conv2d(IMAGE[0], width, size.patch, size.patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.position = nn.Parameter(torch.randn(1, 1 + patches, width) * 0.02)
        self.blocks = nn.Sequential(
            *(Block(width, size.encoder_heads, mlp_ratio=4.0) for _ in range(size.encoder_depth))
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, images: Tensor) -> Tensor:
        """B x 3 x 224 x 224 -> B x D."""
        x = self.patches(images).flatten(2).transpose(1, 2)  # B x P x D
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position  # B x (1 + P) x D
        encoded: Tensor = self.norm(self.blocks(x)[:, 0])
        return encoded


class ConditionedBlock(nn.Module):
    """Transformer layer whose two sublayers an action scales, shifts and gates (DiT's adaptive layer norm)."""

    def __init__(self, size: PeerSize) -> None:
        super().__init__()
        width, inner = size.width, size.heads * size.head_width
        self.heads = size.heads
        self.condition = nn.Linear(width, 6 * width)
        self.attention_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.query_key_value = nn.Linear(width, 3 * inner, bias=False)
        self.out = nn.Linear(inner, width)
        self.mlp_norm = nn.LayerNorm(width, elementwise_affine=False)
        self.mlp = nn.Sequential(nn.Linear(width, size.hidden), nn.GELU(), nn.Linear(size.hidden, width))

    def forward(self, x: Tensor, actions: Tensor) -> Tensor:
        """B x T x D and embedded actions B x T x D -> B x T x D; causal attention."""
        shift, scale, gate, mlp_shift, mlp_scale, mlp_gate = self.condition(F.silu(actions)).chunk(6, -1)
        normal = self.attention_norm(x) * (1 + scale) + shift
        q, k, v = self.query_key_value(normal).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # B x heads x T x d
        x = x + gate * self.out(attended.transpose(1, 2).flatten(2))
        mixed: Tensor = x + mlp_gate * self.mlp(self.mlp_norm(x) * (1 + mlp_scale) + mlp_shift)
        return mixed


class Peer(nn.Module):
    """Encoder, predictor and projectors. ``action_dim``: numbers in a block of actions."""

    def __init__(self, action_dim: int, size: PeerSize = PeerSize()) -> None:
        super().__init__()
        self.size = size
        self.encoder = ImageEncoder(size)
        self.projector = _projector(size)
        self.smooth = nn.Conv1d(action_dim, action_dim, 1)
        self.embed = nn.Sequential(
            nn.Linear(action_dim, 4 * size.width), nn.SiLU(), nn.Linear(4 * size.width, size.width)
        )
        self.position = nn.Parameter(torch.randn(1, size.history, size.width))
        self.blocks = nn.ModuleList(ConditionedBlock(size) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width)
        self.predicted = _projector(size)

    def encode(self, images: Tensor) -> Tensor:
        """B x 3 x 224 x 224 -> B x D."""
        return self.projector(self.encoder(images))

    def predict(self, states: Tensor, actions: Tensor) -> Tensor:
        """Up to ``history`` states and embedded actions, both B x T x D -> each one's next state, B x T x D."""
        x = states + self.position[:, : states.shape[1]]
        for block in self.blocks:
            x = block(x, actions)
        return self.predicted(self.norm(x).flatten(0, 1)).view_as(x)

    def rollout(self, start: Tensor, actions: Tensor) -> Tensor:
        """A state B x D and blocks of actions B x H x A -> the states after each block, B x H x D."""
        embedded = self.embed(self.smooth(actions.transpose(1, 2)).transpose(1, 2))  # B x H x D
        states = [start]
        for step in range(actions.shape[1]):
            first = max(0, step + 1 - self.size.history)
            seen = torch.stack(states[first:], 1)  # B x T x D
            states.append(self.predict(seen, embedded[:, first : step + 1])[:, -1])
        return torch.stack(states[1:], 1)

    @torch.inference_mode()
    def plan(self, image: Tensor, goal: Tensor, horizon: int, search: PlainSearch, seed: int) -> Tensor:
        """Plan from one image to another (both 3 x 224 x 224): blocks of actions H x A, in normalised units."""
        start, target = self.encode(torch.stack([image, goal]))  # D each

        def cost(actions: Tensor) -> Tensor:
            reached = self.rollout(start.expand(len(actions), -1), actions)[:, -1]  # N x D
            return (reached - target).square().sum(-1)

        return plain_cem(cost, horizon, self.smooth.in_channels, search, seed)


@dataclass(frozen=True)
class PlainSearch:
    """Settings of plain CEM, by default the peers' own."""

    candidates: int = CANDIDATES
    iterations: int = 10
    elites: int = ELITES


def plain_cem(cost: Callable[[Tensor], Tensor], horizon: int, dims: int, search: PlainSearch, seed: int) -> Tensor:
    """Minimise a cost of action sequences (N x H x A -> N) by the cross-entropy method as the peers use it: H x A.

    Standard normal noise at first, the mean among the candidates, mean and deviation of the elites without momentum;
    no bounds, no warm start, no kept elites. Returns the last mean.
    """
    generator = torch.Generator().manual_seed(seed)
    mean, std = torch.zeros(horizon, dims), torch.ones(horizon, dims)
    for _ in range(search.iterations):
        noise = torch.randn(search.candidates - 1, horizon, dims, generator=generator)
        candidates = torch.cat([mean[None], mean + std * noise])  # N x H x A
        elites = candidates[cost(candidates).topk(search.elites, largest=False).indices]  # E x H x A
        mean, std = elites.mean(0), elites.std(0)
    return mean


def make_peer(action_dim: int) -> Peer:
    """A peer with random weights from a fixed seed, in evaluation mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Peer(action_dim).eval()


def _projector(size: PeerSize) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(size.width, size.hidden), nn.BatchNorm1d(size.hidden), nn.GELU(), nn.Linear(size.hidden, size.width)
    )
