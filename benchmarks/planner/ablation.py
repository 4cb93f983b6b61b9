"""What each component of the search contributes: it is removed, and the same pairs are played again.

Beside these variants stand the random floor, the scripted ceiling, and the inverse dynamics without any search.
"""

from __future__ import annotations

import contextlib
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from benchmarks.part import Part
from benchmarks.planner.cells import difference, further
from benchmarks.planner.comparison import compare_methods
from benchmarks.planner.instrumented import InstrumentedPlanner, threads, unchanged
from benchmarks.planner.variants import SHIPPED, Variant, build_planner, plan_of
from benchmarks.table import Result, Table, rate
from hnet_vjepa.checkpoint import Checkpoint, load_checkpoint
from hnet_vjepa.config import PlanConfig
from hnet_vjepa.data.batch import normalise_frames
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.interface import PlanQuery
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
from sims.evaluation.results import summary

PAIRS = 40
NO_HOLD = "does not hold at the goal"
COMPONENTS: dict[str, dict[str, float]] = {
    "no policy prior": {"prior_candidates": 0},
    "no behaviour prior": {"behaviour_prior": 0.0},
    "no kept elites": {"kept": 0},
    "white noise": {"noise_colour": 0.0},
    "no momentum": {"momentum": 0.0},
    "no minimum deviation": {"min_std": 1e-6},
    "no early stopping": {"settled": 0.0},
}
PLAIN = {name: value for change in COMPONENTS.values() for name, value in change.items()}
VARIANTS = (
    Variant(SHIPPED),
    Variant("no warm start", warm=False),
    Variant("warm start with the first deviation", narrow=False),
    *(Variant(name, change) for name, change in COMPONENTS.items()),
    Variant("none of these (plain CEM)", PLAIN, warm=False),
    # The threshold below which a goal counts as reached is calibrated for the whole energy, not for one of its terms.
    Variant(NO_HOLD, holds=False),
    Variant("energy: latent only", {"temporal_distance": 0.0}, holds=False, against=NO_HOLD),
    Variant("energy: temporal distance only", {"latent": 0.0}, holds=False, against=NO_HOLD),
)
INVERSE = "inverse dynamics alone"


def variants_of(shipped: PlanConfig) -> list[Variant]:
    """The shipped planner, then the variants that differ from it under this configuration."""
    return [v for v in VARIANTS if v.name == SHIPPED or not (v.warm and v.holds) or plan_of(shipped, v) != shipped]


def without_warm_start(query: PlanQuery) -> PlanQuery:
    """The query with only the executed action of the previous plan, which the dynamics needs."""
    previous = query.previous_actions
    return replace(query, previous_actions=None if previous is None else previous[:1])


@dataclass(frozen=True)
class InversePolicy:
    """No search: the action that the inverse dynamics predicts between the present state and the goal state.

    The inverse dynamics is trained on states one step apart, while the goal is many steps away.
    """

    checkpoint: Checkpoint
    window: int  # frames that are encoded
    name: str = INVERSE

    def begin(self, pair: Pair) -> Actor:
        """Start an episode towards an image goal."""
        assert isinstance(pair.goal, ImageGoal)
        model = self.checkpoint.model
        spec = model.robot.action
        assert spec.mean is not None and spec.std is not None
        with torch.inference_mode():
            goal = model.states(normalise_frames(pair.goal.frame[None, None]))[0][:, 0]  # 1 x S x d

        @torch.inference_mode()
        def act(seen: Observation) -> Decision:
            states = model.states(normalise_frames(seen.frames[None, -self.window :]))[0]  # 1 x T x S x d
            state, prev_state = states[:, -1], states[:, max(0, states.shape[1] - 2)]
            normal = model.world_model.inverse(prev_state, state, goal)[0].double().numpy()  # A
            action = np.zeros(spec.dim, np.float32)
            action[list(spec.active)] = normal * np.array(spec.std) + np.array(spec.mean)
            return Decision(np.clip(action, *spec.inner_bounds()))

        return act


def ablation(task: Task, checkpoint: Path, pairs: int = PAIRS) -> Part:
    """Play the same dev pairs with every variant, the inverse dynamics, the floor and the ceiling, one thread."""
    loaded = load_checkpoint(checkpoint)
    planners = [(v, build_planner(loaded, v)) for v in variants_of(loaded.model.config.plan)]
    card = planners[0][1].card
    check_card(task, card, "image")
    policies: list[Policy] = []
    for variant, planner in planners:
        transform = unchanged if variant.warm else without_warm_start
        policies.append(replace(local_planner(InstrumentedPlanner(planner, transform)), name=variant.name))
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
                m.name: compare_methods(result, against.get(m.name, SHIPPED), m.name)
                for m in result.methods
                if m.name != SHIPPED
            },
        },
    )


def table(result: Result) -> Table:
    """Every variant on every task, at the task's second criterion, compared on the same pairs."""
    names = tuple(name for name in result.parts if name.startswith("ablation-"))
    rows = []
    for name in names:
        part = result.parts[name]
        for i, (method, found) in enumerate(part["summary"].items()):
            criterion = list(found["success"])[1]
            cells = ["–", "–"]
            if compared := part["comparisons"].get(method):
                against = "" if compared["against"] == SHIPPED else compared["against"]
                cells = [
                    difference(compared["success_end"][criterion], against),
                    further(compared["further"], part["settings"]["unit"]),
                ]
            rows.append(
                [
                    f"`{part['settings']['task']}`, within {criterion}" if i == 0 else "",
                    method,
                    rate(found["success"][criterion]["end"]),
                    *cells,
                ]
            )
    note = "Success at the end on dev pairs, one thread; comparisons pair by pair (exact McNemar test)."
    head = ["", "method", "success", "against the planner", "final distance, median difference"]
    return Table(head, rows, note, names)
