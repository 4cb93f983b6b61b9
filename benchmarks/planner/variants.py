"""The planner with other search settings and the same weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from hnet_vjepa.checkpoint import Checkpoint
from hnet_vjepa.config import PlanConfig
from hnet_vjepa.planning.planner import WorldModelPlanner

SHIPPED = "planner"


@dataclass(frozen=True)
class Variant:
    """One change of the planner.

    ``plan``: fields of the configuration's section ``plan`` that change. ``warm``: the search starts from the previous
    plan. ``narrow``: if so, with the smaller deviation ``warm_std``. ``holds``: the planner holds still once the goal
    counts as reached. ``against``: the method that the variant is compared with.
    """

    name: str
    plan: Mapping[str, float] = field(default_factory=dict)
    warm: bool = True
    narrow: bool = True
    holds: bool = True
    against: str = SHIPPED


def plan_of(shipped: PlanConfig, variant: Variant) -> PlanConfig:
    """The variant's section ``plan``. Raises ValidationError for an unknown field.

    Without a warm start every search uses the deviation of a first search.
    """
    spread = {} if variant.warm and variant.narrow else {"warm_std": shipped.first_std}
    return PlanConfig.model_validate({**shipped.model_dump(), **variant.plan, **spread})


def build_planner(checkpoint: Checkpoint, variant: Variant) -> WorldModelPlanner:
    """A planner with the checkpoint's weights and the variant's configuration; the checkpoint stays as it is."""
    model = copy.copy(checkpoint.model)  # shares all weights; only the configuration is its own
    model.config = model.config.model_copy(update={"plan": plan_of(model.config.plan, variant)})
    manifest = checkpoint.manifest
    if not variant.holds:
        manifest = manifest.model_copy(update={"reached_energy": None})
    return WorldModelPlanner(replace(checkpoint, model=model, manifest=manifest))
