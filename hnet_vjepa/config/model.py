"""The section ``model``: sizes and kinds of all modules."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hnet_vjepa.config.base import (
    Fraction,
    NotNegative,
    Positive,
    Section,
    Stages,
    TransformerSection,
    Weight,
    indivisible,
    refuse,
)


class EncoderConfig(Section):
    """Low-level encoder: pixels to cells."""

    kind: Literal["convolutions", "patches"] = Field(
        default="convolutions",
        description="convolutions, or patches as large as the convolutions' cells, which chunks are compared with",
    )
    stem_width: Positive = Field(default=32, description="channels of the first convolution")
    stem_stride: int = Field(default=4, gt=0, multiple_of=2, description="pixels per cell after the stem")
    widths: Stages = Field(default=(32, 64), description="channels of each stage; every stage after the first halves")
    depths: Stages = Field(default=(1, 1), description="residual blocks of each stage")
    times: Stages = Field(default=(1, 1), description="frames that the blocks of a stage look at")

    @model_validator(mode="after")
    def _stages(self) -> EncoderConfig:
        for name in ("depths", "times"):
            given = getattr(self, name)
            if len(given) != len(self.widths):
                wanted = f"must have one entry per stage, as many as widths ({len(self.widths)})"
                refuse([f"{name} = {list(given)}: {wanted}"])
        if self.kind == "patches" and set(self.times) != {1}:
            refuse([f"times = {list(self.times)}: patches are those of a frame alone, so every entry must be 1"])
        return self


class AttentionConfig(Section):
    """Native sparse attention on the cells."""

    heads: Positive = Field(default=4, description="attention heads; must divide the last of encoder.widths")
    cube: tuple[Positive, Positive, Positive] = Field(
        default=(1, 4, 4), description="frames, rows and columns of a block of cells"
    )
    selected: Positive = Field(default=2, description="blocks that each query selects")
    radius: tuple[NotNegative, NotNegative, NotNegative] = Field(
        default=(1, 1, 1), description="cells of the local window to each side: frames, rows, columns"
    )


class RoutingConfig(Section):
    """Tokens of cells: chunks by routing to prototypes, or one of the tokenizers that they are compared with."""

    tokenizer: Literal["chunks", "grid", "merge", "random"] = Field(
        default="chunks", description="chunks, or a fixed number of tokens: grid, merge, random"
    )
    grid: tuple[Positive, Positive] = Field(default=(5, 5), description="rows and columns of prototypes, or of tokens")
    prior_strength: Weight = Field(
        default=6.0, description="weight of the squared distance between prototype and cell in the routing"
    )
    scale: float = Field(default=2.0, gt=0, description="first value of the learnt cosine scale")
    placed: bool = Field(
        default=False, description="tokens get the embedding of their position and size before pooling"
    )
    tokens: float | None = Field(
        default=None,
        ge=1,
        description="budget: mean number of chunks per frame, reached by Ward merges of similar ones; none keeps all",
    )

    @model_validator(mode="after")
    def _tokens(self) -> RoutingConfig:
        if self.tokens is not None:
            most = self.grid[0] * self.grid[1]
            if self.tokenizer != "chunks":
                refuse([f"tokens = {self.tokens:g}: is for tokenizer = chunks; {self.tokenizer} makes rows * columns"])
            if self.tokens > most:
                refuse([f"tokens = {self.tokens:g}: must be at most grid's {most} prototypes"])
        return self


class PoolingConfig(Section):
    """Slots of chunks: learnt attention pooling or graph pooling."""

    kind: Literal["attention", "graph"] = Field(
        default="attention", description="attention: learnt queries; graph: selection on a graph of neighbours"
    )
    grid: tuple[Positive, Positive] = Field(default=(3, 3), description="rows and columns of slots")
    prior_strength: Weight = Field(
        default=4.0,
        description="weight of the squared distance between slot and chunk; graph: of positions in distances",
    )
    size_weight: Fraction = Field(
        default=1.0, description="attention: 1, a token weighs as much as its cells; 0, all tokens weigh the same"
    )
    neighbours: Positive = Field(default=4, description="graph: neighbours of each chunk")


class VitConfig(Section):
    """Transformer on the chunks."""

    depth: Positive = Field(default=2, description="blocks")
    heads: Positive = Field(default=4, description="attention heads; must divide the last of encoder.widths")
    recompute: bool = Field(default=False, description="recompute activations in the backward pass to save memory")


class BackboneConfig(Section):
    """The chunk encoder."""

    encoder: EncoderConfig = Field(default=EncoderConfig(), description="pixels to cells")
    attention: AttentionConfig = Field(default=AttentionConfig(), description="sparse attention on the cells")
    routing: RoutingConfig = Field(default=RoutingConfig(), description="cells to chunks")
    pooling: PoolingConfig = Field(default=PoolingConfig(), description="chunks to slots")
    vit: VitConfig = Field(default=VitConfig(), description="transformer on the chunks")

    @property
    def slots(self) -> int:
        """M', the number of slots of a window."""
        return self.pooling.grid[0] * self.pooling.grid[1]

    @model_validator(mode="after")
    def _heads(self) -> BackboneConfig:
        width = {"the last of encoder.widths": self.encoder.widths[-1]}
        sparse = indivisible("attention.heads", self.attention.heads, width)
        refuse(sparse + indivisible("vit.heads", self.vit.heads, width))
        return self


class PredictorConfig(TransformerSection):
    """Predictor of masked chunks."""


class WorldModelConfig(TransformerSection):
    """Planning state, dynamics and the heads that plans use."""

    state_dim: Positive = Field(
        default=32, description="numbers per slot of the planning state; heads must divide twice as many"
    )
    dynamics: Literal["transformer", "flat", "prefix"] = Field(
        default="flat",
        description="flat: a residual network on all slots; transformer: slots attend to action tokens; prefix: all "
        "steps of a clip in one pass, each from the actions up to it",
    )
    flat_width: Positive = Field(default=512, description="width of the flat and the prefix dynamics")
    inverse_width: Positive = Field(default=256, description="hidden width of the inverse dynamics")
    policy_prior_width: Positive = Field(default=384, description="hidden width of the policy prior")
    macro_latent_dim: NotNegative = Field(
        default=0, description="numbers of a macro latent, 4 for a small robot; 0: no macro dynamics, no subgoals"
    )

    def _split_among_heads(self) -> dict[str, int]:
        return {"width": self.width, "what the probe reads, twice state_dim": 2 * self.state_dim}


class TextConfig(TransformerSection):
    """Text tower: hashed words and a small transformer, so that word order counts."""

    buckets: int = Field(default=2048, ge=2, description="hash buckets for words, one of them for padding")
    words: Positive = Field(default=24, description="words of a sentence that are used")
    depth: Positive = Field(default=1, description="number of blocks")
    embedding: Positive = Field(default=64, description="size of the common space of sentences and states")


class ModelConfig(Section):
    """All modules."""

    backbone: BackboneConfig = Field(default=BackboneConfig(), description="the chunk encoder")
    predictor: PredictorConfig = Field(default=PredictorConfig(), description="predictor of masked chunks")
    world_model: WorldModelConfig = Field(default=WorldModelConfig(), description="planning state and dynamics")
    text: TextConfig = Field(default=TextConfig(), description="text tower")
