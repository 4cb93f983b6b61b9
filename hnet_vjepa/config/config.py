"""A whole configuration: everything that decides what a training run does, apart from the data."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from hnet_vjepa.config.base import Section, Stage, refuse
from hnet_vjepa.config.model import ModelConfig
from hnet_vjepa.config.phases import (
    ActionConfig,
    DataConfig,
    EncoderAdaptationConfig,
    HeadsConfig,
    LanguageConfig,
    PretrainConfig,
    ProbeConfig,
    StageConfig,
)
from hnet_vjepa.config.planning import PlanConfig


class Config(Section):
    """Everything that decides what a training run does, apart from the data."""

    name: str = Field(description="name of the configuration")
    seed: int = Field(default=0, ge=0, le=2**32 - 1, description="seed of everything random in training")
    precision: Literal["auto", "fp32", "bf16"] = Field(
        default="auto", description="auto: bf16 autocast where the hardware multiplies bf16, else fp32"
    )
    data: DataConfig = Field(default=DataConfig(), description="held-out episodes and augmentation")
    model: ModelConfig = Field(default=ModelConfig(), description="sizes and kinds of the modules")
    pretrain: PretrainConfig = Field(default=PretrainConfig(steps=600), description="phase 1")
    language: LanguageConfig = Field(default=LanguageConfig(steps=300), description="phase 2")
    probe: ProbeConfig = Field(default=ProbeConfig(steps=200), description="phase 3")
    encoder_adaptation: EncoderAdaptationConfig | None = Field(
        default=None, description="beginning of phase 4; none: the encoder is not adapted"
    )
    action: ActionConfig = Field(default=ActionConfig(steps=1500), description="phase 4")
    heads: HeadsConfig = Field(default=HeadsConfig(steps=3000), description="end of phase 4")
    plan: PlanConfig = Field(default=PlanConfig(), description="the planner's search")

    @model_validator(mode="after")
    def _something_is_visible(self) -> Config:
        slots, ratio = self.model.backbone.slots, self.pretrain.mask_ratio
        if round(ratio * slots) >= slots:
            most = math.floor(1000 * (slots - 0.5) / slots) / 1000  # what rounds to all but one
            hides = f"hides all of model.backbone.pooling.grid's {slots} slots; one must stay visible"
            refuse([f"pretrain.mask_ratio = {ratio:g}: {hides}, so choose less than {most:g}"])
        return self

    @model_validator(mode="after")
    def _subgoals_need_macro_dynamics(self) -> Config:
        if self.plan.subgoals and not self.model.world_model.macro_latent_dim:
            refuse(
                [
                    f"plan.subgoals = {self.plan.subgoals}: needs macro dynamics, "
                    "so set model.world_model.macro_latent_dim to 4"
                ]
            )
        return self

    @model_validator(mode="after")
    def _decoded_states_need_supervision(self) -> Config:
        if self.plan.decoded_state and not self.learns_states:
            refuse(
                [
                    f"plan.decoded_state = {self.plan.decoded_state}: the state is not supervised; "
                    "set encoder_adaptation.state_supervision to 1"
                ]
            )
        return self

    @property
    def learns_states(self) -> bool:
        """Whether the encoder is supervised by the recorded state."""
        return self.encoder_adaptation is not None and self.encoder_adaptation.state_supervision > 0

    def phase(self, name: Stage) -> StageConfig:
        """The section of one stage."""
        section: StageConfig = getattr(self, name)
        return section
