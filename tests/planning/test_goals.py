"""Kinds of goals: the registry, and that a new kind is one file and nothing else."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from hnet_vjepa.errors import FieldError
from hnet_vjepa.planning.goals import factory
from hnet_vjepa.planning.goals.base import GoalContext, GoalKind
from hnet_vjepa.planning.goals.combined import AllGoals
from hnet_vjepa.planning.goals.state import IMAGE, ImageGoal
from hnet_vjepa.planning.goals.text import TextGoal
from hnet_vjepa.planning.interface import Goal, ModelCard, PlanQuery
from hnet_vjepa.planning.planner import WorldModelPlanner, load_planner
from tests import toy

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class StillGoal(Goal):
    """Do not move for more than ``limit`` per step."""

    limit: float


@dataclass(frozen=True)
class StillObjective:
    """Mean squared change of the planning state."""

    limits: Sequence[float]
    goal_states: None = None

    def __call__(self, states: Tensor, prev_state: Tensor) -> Tensor:
        return (states - prev_state).square().mean((-2, -1))

    def reached(self, states: Tensor, prev_state: Tensor, energies: Tensor | None = None) -> Tensor:
        return self(states, prev_state) < states.new_tensor(list(self.limits))[:, None]


def check(goal: StillGoal, card: ModelCard, where: str) -> None:
    if goal.limit < 0:
        raise FieldError(f"{where}.limit", "must not be negative")


def objective(goals: Sequence[StillGoal], context: GoalContext) -> StillObjective:
    return StillObjective([goal.limit for goal in goals])


@pytest.fixture
def still() -> Iterator[GoalKind]:
    kind = factory.register(
        GoalKind("still", StillGoal, check, lambda goal: ("still",), objective, modules=("nothing",))
    )
    yield kind
    del factory.KINDS["still"]


def query(goal: Goal) -> PlanQuery:
    return PlanQuery(np.stack([toy.picture(8, 10), toy.picture(11, 10)]), goal)


def test_a_new_kind_is_planned_for_checked_listed_and_combined(still: GoalKind, toy_run: Path) -> None:
    planner = load_planner(toy_run / "action")
    assert "still" in planner.card.goals
    alone, both = planner.plan([query(StillGoal(0.0)), query(AllGoals((StillGoal(0.0), TextGoal("go left"))))])
    assert not alone.reached and np.isfinite(alone.energies).all() and (alone.energies >= 0).all()
    assert np.isfinite(both.energies).all()
    [there] = planner.plan([query(StillGoal(1e6))])
    assert there.reached and there.iterations == 0
    with pytest.raises(FieldError, match=r"goal\.goals\.1\.limit: must not be negative"):
        planner.check(query(AllGoals((TextGoal("go left"), StillGoal(-1.0)))))
    assert "nothing" not in factory.unneeded_modules(("pretrain", "action"))
    assert "nothing" in factory.unneeded_modules(("pretrain",))


def test_a_kind_is_registered_once(still: GoalKind) -> None:
    with pytest.raises(ValueError, match="registered already"):
        factory.register(still)
    with pytest.raises(ValueError, match="registered already"):
        factory.register(GoalKind("picture", ImageGoal, check, lambda goal: (), IMAGE.objective))


def test_what_is_no_goal_is_refused_by_name(toy_run: Path) -> None:
    planner = WorldModelPlanner.__new__(WorldModelPlanner)
    planner._card = load_planner(toy_run / "action").card
    with pytest.raises(FieldError, match=r"goal: a str is no goal; give one of: .*ImageGoal"):
        planner.check(query("left"))  # type: ignore[arg-type]
    nested = AllGoals((AllGoals((TextGoal("go left"),)),))
    with pytest.raises(FieldError, match=r"goal\.goals\.0: is itself several goals"):
        planner.check(query(nested))


def test_goals_can_be_stated_without_torch() -> None:
    """A robot's client states goals and checks them on a computer that has no torch."""
    code = (
        "import sys; import planner_service.schemas, hnet_vjepa.planning.checks; "
        "from hnet_vjepa.planning.goals.factory import KINDS; "
        "assert 'torch' not in sys.modules, 'torch'; print(sorted(KINDS))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "['all', 'image', 'label', 'latent', 'text']", done.stderr
