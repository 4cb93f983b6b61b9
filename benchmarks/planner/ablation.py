"""What each part of the planner is worth: it is taken out, and the same pairs are played again.

Beside that stand the floor, the ceiling, and the inverse dynamics asked for every action without any search.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.part import Part
from benchmarks.planner.instrumented import Watched, as_asked, threads
from hnet_vjepa.checkpoint import Checkpoint, load_checkpoint
from hnet_vjepa.config import PlanConfig
from hnet_vjepa.data.batch import normalise_frames
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.interface import PlanQuery
from hnet_vjepa.planning.planner import WorldModelPlanner
from sims.core.task import Task
from sims.evaluation.evaluate import evaluate
from sims.evaluation.pairs import Pair, make_pairs
from sims.evaluation.policies import (
    Actor,
    Decision,
    Observation,
    Policy,
    RandomPolicy,
    ScriptedPolicy,
    check_card,
    local_planner,
)
from sims.evaluation.results import EvaluationResult, summary
from sims.evaluation.statistics import bootstrap_median

PAIRS = 40
SHIPPED = "planner"


@dataclass(frozen=True)
class Variant:
    """The planner with something taken out.

    ``plan``: fields of the configuration's section that change. ``warm``: the search starts from the plan before.
    ``narrow``: and then it looks no wider than the configuration says. ``holds``: at the goal it holds still.
    ``against``: the method that it is compared with, where that is not the planner as shipped.
    """

    name: str
    plan: Mapping[str, float] = field(default_factory=dict)
    warm: bool = True
    narrow: bool = True
    holds: bool = True
    against: str = SHIPPED


NO_HOLD = "does not hold at the goal"
PARTS: dict[str, dict[str, float]] = {
    "no learnt proposal": {"prior_candidates": 0},
    "no habit": {"behaviour_prior": 0.0},
    "no kept elites": {"kept": 0},
    "white noise": {"noise_colour": 0.0},
    "no momentum": {"momentum": 0.0},
    "no floor of the deviation": {"min_std": 1e-6},
    "no early end": {"settled": 0.0},
}
PLAIN = {name: value for change in PARTS.values() for name, value in change.items()}
VARIANTS = (
    Variant(SHIPPED),
    Variant("no warm start", warm=False),
    Variant("as wide a search after a plan as without", narrow=False),
    *(Variant(name, change) for name, change in PARTS.items()),
    Variant("none of these (plain search)", PLAIN, warm=False),
    # When a goal counts as reached is calibrated for the whole energy: without one of its terms it means nothing.
    Variant(NO_HOLD, holds=False),
    Variant("energy: latent only", {"temporal_distance": 0.0}, holds=False, against=NO_HOLD),
    Variant("energy: steps only", {"latent": 0.0}, holds=False, against=NO_HOLD),
)
INVERSE = "inverse dynamics alone"


def plan_of(shipped: PlanConfig, variant: Variant) -> PlanConfig:
    """The variant's section of the configuration. Raises ValidationError for an unknown field.

    What does not start from the plan before has no reason to look less far than a first search.
    """
    spread = {} if variant.warm and variant.narrow else {"warm_std": shipped.first_std}
    return PlanConfig.model_validate({**shipped.model_dump(), **variant.plan, **spread})


def variants_of(shipped: PlanConfig) -> list[Variant]:
    """The variants that differ from a planner that ships with this configuration, after that one itself."""
    return [v for v in VARIANTS if v.name == SHIPPED or not (v.warm and v.holds) or plan_of(shipped, v) != shipped]


def build(checkpoint: Checkpoint, variant: Variant) -> WorldModelPlanner:
    """A planner of the same weights with the variant's configuration."""
    model = copy.copy(checkpoint.model)  # shares all weights; only the configuration is its own
    model.config = model.config.model_copy(update={"plan": plan_of(model.config.plan, variant)})
    manifest = checkpoint.manifest
    if not variant.holds:
        manifest = manifest.model_copy(update={"reached_energy": None})
    return WorldModelPlanner(replace(checkpoint, model=model, manifest=manifest))


def without_warm_start(query: PlanQuery) -> PlanQuery:
    """The query with no more of the last plan than the action that was done, which the model must know."""
    last = query.previous_actions
    return replace(query, previous_actions=None if last is None else last[:1])


@dataclass(frozen=True)
class InversePolicy:
    """No search: the action that, says the inverse dynamics, leads from what is seen now straight to the goal.

    It was trained on states one step apart; that the goal is further away is what search is for.
    """

    checkpoint: Checkpoint
    window: int  # frames that it looks at
    name: str = INVERSE

    def begin(self, pair: Pair) -> Actor:
        """Start an episode. The goal must be a picture."""
        assert isinstance(pair.goal, ImageGoal)
        model = self.checkpoint.model
        spec = model.robot.action
        assert spec.mean is not None and spec.std is not None
        with torch.inference_mode():
            goal = model.states(normalise_frames(pair.goal.frame[None, None]))[0][:, 0]  # 1 x S x d

        @torch.inference_mode()
        def act(seen: Observation) -> Decision:
            states = model.states(normalise_frames(seen.frames[None, -self.window :]))[0]  # 1 x T x S x d
            now, before = states[:, -1], states[:, max(0, states.shape[1] - 2)]
            normal = model.world_model.inverse(before, now, goal)[0].double().numpy()  # A
            action = np.zeros(spec.dim, np.float32)
            action[list(spec.active)] = normal * np.array(spec.std) + np.array(spec.mean)
            return Decision(np.clip(action, *spec.inner_bounds()))

        return act


def ablation(task: Task, checkpoint: Path, pairs: int = PAIRS) -> Part:
    """Play the same dev pairs with every variant, the inverse dynamics, the floor and the ceiling, one thread."""
    loaded = load_checkpoint(checkpoint)
    planners = [(v, build(loaded, v)) for v in variants_of(loaded.model.config.plan)]
    card = planners[0][1].card
    check_card(task, card, "image")
    policies: list[Policy] = [
        replace(local_planner(Watched(planner, as_asked if variant.warm else without_warm_start)), name=variant.name)
        for variant, planner in planners
    ]
    policies += [InversePolicy(loaded, card.history + 1), RandomPolicy(task), ScriptedPolicy(task)]
    with contextlib.closing(task.open()) as simulation, threads(1):
        drawn = make_pairs(task, simulation, "dev", 0, pairs, "image")
        result = evaluate(task, simulation, policies, drawn, "dev", 0, "image", progress=False)
    against = {variant.name: variant.against for variant, _ in planners}
    return Part(
        {
            "task": task.name,
            "weights": loaded.fingerprint,
            "search": asdict(card.search),
            "split": "dev",
            "pairs": pairs,
            "unit": task.unit,
            "threads": 1,
            "variants": [asdict(variant) for variant, _ in planners],
        },
        {},
        {
            "summary": {m.name: summary(result, m) for m in result.methods},
            "comparisons": {
                m.name: compared(result, against.get(m.name, SHIPPED), m.name)
                for m in result.methods
                if m.name != SHIPPED
            },
        },
    )


def compared(result: EvaluationResult, first: str, second: str) -> dict[str, Any]:
    """Two methods on the same pairs: successes at the end by criterion, and how much further away the second ends.

    ``further``: median over the pairs of second minus first, in the task's unit, with its 95 % interval.
    """
    ends = (result.method(name).final_distances() for name in (first, second))
    further = bootstrap_median([there - here for here, there in zip(*ends, strict=True)])
    assert further is not None  # distances are finite
    return {
        "against": first,
        "success_end": {name: asdict(result.compare(first, second, i)) for i, name in enumerate(result.criteria)},
        "further": asdict(further),
    }
