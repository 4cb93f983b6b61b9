"""The section ``plan``: the planner's search and its energy."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from hnet_vjepa.config.base import Fraction, NotNegative, Positive, Section, Weight, refuse

# Fields that say what the energy of states is; a checkpoint is calibrated for them.
ENERGY_FIELDS = ("distance", "latent", "temporal_distance", "decoded_state", "unmatched")
# Fields that training reads. All others can be changed at every load.
TRAINING_FIELDS = ("goal_bank_size", *ENERGY_FIELDS)


class PlanConfig(Section):
    """Search of the planner (cross-entropy method) and its energy."""

    candidates: Positive = Field(default=64, description="action sequences per iteration")
    iterations: Positive = Field(default=5, description="iterations of the search")
    horizon: Positive = Field(default=4, description="actions of a plan")
    elites: Positive = Field(default=8, description="best candidates that an iteration is fitted to")
    momentum: Fraction = Field(default=0.1, description="share of the old mean and spread that is kept")
    min_std: float = Field(default=0.05, gt=0, description="floor of the spread, as a share of half the action range")
    noise_colour: Weight = Field(default=1.0, description="exponent of the coloured noise; 0 is white")
    kept: NotNegative = Field(default=8, description="elites that stay candidates in the next iteration")
    prior_candidates: NotNegative = Field(
        default=8, description="candidates of the first iteration that are sampled from the policy prior"
    )
    behaviour_prior: Weight = Field(
        default=0.0,
        description="weight of the actions' distance from the policy prior, for goals with a state; 30 where objects "
        "must be moved",
    )
    first_std: float = Field(default=0.7, gt=0, description="spread of a search without a previous plan, as min_std")
    warm_std: float = Field(default=0.7, gt=0, description="spread of a search from a previous plan, as min_std")
    settled: Weight = Field(
        default=0.0, description="a search whose mean moves less than this in an iteration ends, as min_std; 0: never"
    )
    goal_bank_size: NotNegative = Field(
        default=0,
        description="training states stored, of which text and label goals retrieve one",
    )
    subgoals: NotNegative = Field(
        default=0,
        description="macro steps to look ahead for a distant text or label goal; 0: no subgoals",
    )
    macro_candidates: Positive = Field(default=96, description="candidates of the search for a subgoal")
    macro_iterations: Positive = Field(default=3, description="its iterations")
    distance: Literal["l1", "smooth_l1", "l2", "cosine"] = Field(
        default="l1", description="latent distance of two states: l1, smooth_l1, l2 or cosine"
    )
    latent: Weight = Field(default=1.0, description="weight of the latent distance in the energy of state goals")
    temporal_distance: Weight = Field(
        default=1.0, description="weight of the temporal distance in it, per control step"
    )
    decoded_state: Weight = Field(
        default=0.0,
        description="weight of the distance of decoded states in it, in standard deviations; needs state supervision",
    )
    temporal_consistency: Weight = Field(
        default=0.0,
        description="weight of imagined steps beyond 1.5 of the temporal distance, for goals with a state; 6 for the "
        "reacher",
    )
    step_weight_exponent: Weight = Field(
        default=0.0, description="weight of the energy after h of H actions: (h / H)^exponent"
    )
    unmatched: Weight = Field(default=1.0, description="cost of a slot that is valid in one of the two states only")

    @model_validator(mode="after")
    def _elites(self) -> PlanConfig:
        if self.elites > self.candidates:
            refuse([f"elites = {self.elites}: must be at most candidates ({self.candidates})"])
        if self.subgoals and self.elites > self.macro_candidates:
            least = f"must be at least elites ({self.elites})"
            refuse([f"macro_candidates = {self.macro_candidates}: {least}"])
        return self
