"""Sections of the stages that are trained, and of the data that they are trained on."""

from __future__ import annotations

from pydantic import Field, model_validator

from hnet_vjepa.config.base import Fraction, Positive, Section, Weight, refuse
from hnet_vjepa.errors import UserError

THREE_FRAMES = "frames of a clip: two show the motion, the third what an action did"


class StageConfig(Section):
    """What every stage has: settings of the training loop."""

    steps: Positive = Field(description="optimiser steps; a stage's section in a YAML file must give it")
    batch_size: Positive = Field(default=32, description="clips of one step, over all ranks")
    clip_frames: Positive = Field(default=4, description="frames of a clip")
    learning_rate: float = Field(
        default=1e-3, gt=0, description="peak; linear warm-up, then half a cosine period down to zero"
    )
    weight_decay: Weight = Field(default=0.01, description="of AdamW, on matrices only")
    warmup: Fraction = Field(default=0.1, description="share of the steps in which the learning rate rises")
    clip_norm: float = Field(default=1.0, gt=0, description="largest norm of the gradient")
    accumulate: Positive = Field(default=1, description="parts that a batch is cut into, to save memory")
    save_every: Positive = Field(default=50, description="steps between two saves to resume from")
    log_every: Positive = Field(default=20, description="steps between two lines of the log")

    def check_ranks(self, name: str, ranks: int) -> None:
        """Raise UserError when the batch can not be shared out among ranks and accumulation steps."""
        parts = ranks * self.accumulate
        if self.batch_size % parts:
            raise UserError(
                f"{name}.batch_size = {self.batch_size} can not be shared out among {ranks} ranks "
                f"and {self.accumulate} accumulation steps; it must be a multiple of {parts}"
            )


class PretrainConfig(StageConfig):
    """Masked prediction of chunks against an EMA target."""

    mask_ratio: float = Field(default=0.5, gt=0, lt=1, description="share of the slots whose pixels are hidden")
    future_probability: Fraction = Field(default=0.3, description="how often the last frame is hidden instead")
    ema: float = Field(default=0.99, gt=0, lt=1, description="momentum of the target")
    vicregl: Weight = Field(default=0.02, description="weight of VICRegL")
    ratio: Weight = Field(default=0.03, description="weight of the ratio loss, whose target is compression")
    entropy: Weight = Field(default=0.0, description="weight of the assignment's entropy")
    boundary: Weight = Field(
        default=0.0, description="weight of the boundary loss: similar neighbouring cells share a chunk"
    )
    reconstruction: Weight = Field(default=0.1, description="weight of reconstructing the cells from the chunks")
    compression: float = Field(default=4.0, gt=1, description="cells per live chunk, the target of the ratio loss")


class LanguageConfig(StageConfig):
    """NT-Xent between planning state and captions, and an energy between the two."""

    temperature: float = Field(default=0.1, gt=0, description="of NT-Xent")
    energy: Weight = Field(default=0.5, description="weight of the energy between state and sentence")


class ProbeConfig(StageConfig):
    """Attentive probe on labels."""

    coherence: Weight = Field(
        default=0.05, description="weight of the coherence loss: states with equal labels have similar logits"
    )


class ActionConfig(StageConfig):
    """Dynamics: one step and rollouts, inverse dynamics, variance and covariance."""

    clip_frames: int = Field(default=6, ge=3, description=THREE_FRAMES)
    rollout: Weight = Field(default=1.0, description="weight of the rollout's error; that of one step counts 1")
    inverse: Weight = Field(default=1.0, description="weight of inverse dynamics")
    variance: Weight = Field(default=1.0, description="weight of the variance term, against collapse")
    covariance: Weight = Field(default=0.04, description="weight of the covariance term, against collapse")
    rehearsal: Weight = Field(default=1.0, description="weight of the language and probe losses on detached states")
    frozen_encoder: bool = Field(default=False, description="train the world model alone, on frames encoded once")


class EncoderAdaptationConfig(StageConfig):
    """Optional beginning of the action phase: the encoder learns inverse dynamics and is distilled from itself."""

    clip_frames: Positive = Field(default=4, description=THREE_FRAMES)
    inverse: Weight = Field(default=1.0, description="weight of inverse dynamics; needs clips of 3 frames or more")
    distillation: Weight = Field(
        default=0.5, description="weight of predicting the pretrained encoder's chunks from the adapted ones"
    )
    state_supervision: Weight = Field(
        default=0.0,
        description="weight of decoding the recorded state from the planning state, here and while the dynamics learn",
    )

    @model_validator(mode="after")
    def _something_to_learn(self) -> EncoderAdaptationConfig:
        if self.inverse and self.clip_frames < 3:
            found = f"encoder_adaptation.clip_frames = {self.clip_frames}"
            refuse([f"{found}: inverse dynamics takes 3 frames or more"])
        if not (self.inverse or self.state_supervision):
            both = "encoder_adaptation: inverse and state_supervision are both 0"
            refuse([f"{both}, so it would learn nothing; leave the section out"])
        return self


class HeadsConfig(StageConfig):
    """End of the action phase, on fixed planning states: temporal distance, policy prior and macro dynamics."""

    batch_size: Positive = Field(default=64, description="clips of one step, over all ranks")
    clip_frames: int = Field(default=6, ge=3, description=f"{THREE_FRAMES}; a macro step spans a clip")
    learning_rate: float = Field(
        default=2e-3, gt=0, description="peak; linear warm-up, then half a cosine period down to zero"
    )
    save_every: Positive = Field(default=500, description="steps between two saves to resume from")


class DataConfig(Section):
    """Which episodes are held out, and how the pictures of the others are augmented in training."""

    folds: int = Field(default=10, gt=1, description="one in so many episodes is held out")
    held_out_fold: int = Field(default=9, ge=0, description="remainder of the held-out episodes' numbers by folds")
    shift: int = Field(default=0, ge=0, description="largest random shift of a clip, in pixels")
    brightness: float = Field(
        default=0.0, ge=0, lt=1, description="largest random change of a clip's brightness, as a share"
    )

    @model_validator(mode="after")
    def _fold(self) -> DataConfig:
        if self.held_out_fold >= self.folds:
            refuse([f"held_out_fold = {self.held_out_fold}: must be below folds ({self.folds})"])
        return self
