"""Two tokenizers of a clip of 32 x 224 x 224 pixels in front of a ViT-L: V-JEPA 2's tubelets and chunks.

Both have 24 blocks of width 1024 with 16 heads and MLPs of 4096, and random weights, so only their cost is meaningful.
"""

from __future__ import annotations

import contextlib
import importlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from hnet_vjepa.config import AttentionConfig, BackboneConfig, EncoderConfig, PoolingConfig, RoutingConfig, VitConfig
from hnet_vjepa.errors import UserError
from hnet_vjepa.models.transformer import Block
from hnet_vjepa.models.vjepa.vit import HNetViT

Side = Literal["chunks", "tubelets"]

# The tokenizer of the robots' models, larger: a residual encoder of stride 16 (a stem and three stages of two residual
# blocks each, with 64, 128 and 256 channels) whose last stage also sees the previous frame, attention cubes of a
# quarter of a frame, and for each window 100 prototypes, pooled into 49 slots: 196 tokens for four windows.
TOKENIZER = BackboneConfig(
    encoder=EncoderConfig(stem_width=64, stem_stride=4, widths=(64, 128, 256), depths=(2, 2, 2), times=(1, 1, 2)),
    attention=AttentionConfig(heads=4, cube=(1, 7, 7), selected=2, radius=(1, 1, 1)),
    routing=RoutingConfig(grid=(10, 10)),
    pooling=PoolingConfig(grid=(7, 7)),
    vit=VitConfig(depth=1),
)


@dataclass(frozen=True)
class Large:
    """The sizes of both encoders; by default those of V-JEPA 2's ViT-L with the tokenizer above."""

    frames: int = 32
    pixels: int = 224
    width: int = 1024
    depth: int = 24
    heads: int = 16
    mlp_ratio: int = 4
    window: int = 8  # frames that are routed together
    tokenizer: BackboneConfig = TOKENIZER

    def as_json(self) -> dict[str, Any]:
        """The sizes as plain JSON values."""
        return {**asdict(self), "tokenizer": self.tokenizer.model_dump(mode="json")}


def _block(size: Large) -> Block:
    """A block as in V-JEPA 2: ``Block`` with the exact GELU."""
    block = Block(size.width, size.heads, size.mlp_ratio)
    block.mlp[1] = nn.GELU()
    return block


class ChunkViT(HNetViT):
    """HNetViT whose transformer is wider than its tokenizer: a linear layer maps slots to tokens."""

    def __init__(self, size: Large) -> None:
        super().__init__(size.tokenizer)
        self.widen = nn.Linear(self.dim, size.width)
        self.blocks = nn.ModuleList(_block(size) for _ in range(size.depth))
        self.norm = nn.LayerNorm(size.width)
        self.dim = size.width
        self.window = size.window

    def _contextualise(self, tokens: Tensor, sizes: Tensor, mask: Tensor, rows: int, across: bool) -> Tensor:
        return super()._contextualise(self.widen(tokens), sizes, mask, rows, across)

    def tokens(self, video: Tensor) -> Tensor:
        """Video B x T x H x W x 3 to tokens B x (windows * M') x width, with attention across windows."""
        # With bf16 weights, autocast is needed for the layers that to_bf16 leaves in fp32.
        half = torch.autocast(video.device.type, video.dtype) if video.dtype == torch.bfloat16 else None
        with half or contextlib.nullcontext():
            return self(video, self.window, across=True).tokens.flatten(1, 2)

    def to_bf16(self) -> None:
        """Convert the weights to bf16, except routing, pooling and positions, which need more than its 8 bits."""
        for part in (self.encoder, self.sparse_norm, self.sparse_attention, self.widen, self.blocks, self.norm):
            part.bfloat16()

    def parts(self) -> dict[str, list[nn.Module]]:
        """The modules whose time is measured separately."""
        return {
            "encoder": [self.encoder],
            "sparse attention": [self.sparse_norm, self.sparse_attention],
            "routing": [self.routing],
            "pooling": [self.pooling, self.position],
            "transformer": [self.widen, *self.blocks, self.norm],
        }


class TubeletViT(nn.Module):
    """V-JEPA 2's encoder from transformers, with ``scaled_dot_product_attention``, without its predictor.

    Raises UserError when transformers is not installed or too old.
    """

    def __init__(self, size: Large) -> None:
        super().__init__()
        try:
            library = importlib.import_module("transformers")
            config_class, model_class = library.VJEPA2Config, library.VJEPA2Model
        except (ImportError, AttributeError) as error:
            raise UserError("V-JEPA 2 needs transformers 4.53 or newer: pip install 'hnet-vjepa[vjepa2]'") from error
        config = config_class(
            crop_size=size.pixels,
            frames_per_clip=size.frames,
            hidden_size=size.width,
            num_hidden_layers=size.depth,
            num_attention_heads=size.heads,
            mlp_ratio=size.mlp_ratio,
            pred_num_hidden_layers=1,
            attn_implementation="sdpa",
        )
        self.encoder = model_class(config).encoder

    def tokens(self, video: Tensor) -> Tensor:
        """Video B x T x 3 x H x W to tokens B x (T/2 * H/16 * W/16) x width."""
        tokens: Tensor = self.encoder(pixel_values_videos=video).last_hidden_state
        return tokens

    def to_bf16(self) -> None:
        """Convert the weights to bf16."""
        self.bfloat16()

    def parts(self) -> dict[str, list[nn.Module]]:
        """The modules whose time is measured separately."""
        return {
            "tubelets": [self.encoder.embeddings],
            "attention": [layer.attention for layer in self.encoder.layer],
            "MLPs": [layer.mlp for layer in self.encoder.layer],
        }


SIDES: dict[Side, Callable[[Large], ChunkViT | TubeletViT]] = {"chunks": ChunkViT, "tubelets": TubeletViT}

Model = TypeVar("Model", bound=ChunkViT | TubeletViT)


def make(kind: Callable[[Large], Model], size: Large, bf16: bool = False) -> Model:
    """An encoder with random weights, made without a second copy of them in memory."""
    with torch.device("meta"):
        model = kind(size)
    if bf16:
        model.to_bf16()
    model.to_empty(device="cpu")
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.02)
    model.eval()
    return model


def clips(side: Side, size: Large, batch: int, bf16: bool = False) -> Tensor:
    """Random normalised clips in the encoder's layout: channels last for chunks, before the rows for tubelets."""
    picture = (size.pixels, size.pixels)
    shape = (batch, size.frames, *picture, 3) if side == "chunks" else (batch, size.frames, 3, *picture)
    video = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    return video.bfloat16() if bf16 else video
