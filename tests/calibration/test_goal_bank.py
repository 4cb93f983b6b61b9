"""The goal bank: which state text and label goals retrieve, where it is stored, and its effect on plans."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hnet_vjepa.calibration.goal_bank import NEAREST, GoalBank
from hnet_vjepa.checkpoint import GOAL_BANK_FILE, Checkpoint, load_checkpoint
from hnet_vjepa.data.batch import normalise_frames
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.errors import UserError
from hnet_vjepa.export import export
from hnet_vjepa.pipeline import run_pipeline
from hnet_vjepa.planning.goals.combined import AllGoals
from hnet_vjepa.planning.goals.label import LabelGoal, LabelObjective
from hnet_vjepa.planning.goals.retrieved import RetrievedGoal
from hnet_vjepa.planning.goals.state import ImageGoal, LatentGoal
from hnet_vjepa.planning.goals.text import TextGoal, TextObjective
from hnet_vjepa.planning.inspect import Inspector
from hnet_vjepa.planning.interface import Goal, PlanQuery
from hnet_vjepa.planning.planner import WorldModelPlanner
from tests import toy

BANK_SIZE = 40


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, toy_store: Path) -> Path:
    config = toy.config(plan={"goal_bank_size": BANK_SIZE, "behaviour_prior": 1.0, "prior_candidates": 4})
    return run_pipeline(config, toy_store, tmp_path_factory.mktemp("bank"), progress=False)


@pytest.fixture(scope="module")
def checkpoint(run: Path) -> Checkpoint:
    return load_checkpoint(run)


def query(goal: Goal, x: float = 8) -> PlanQuery:
    return PlanQuery(np.stack([toy.picture(x, 10), toy.picture(x + 1, 10)]), goal)


class Near:
    """How far a point is from another, and how fast."""

    goal_states = None

    def __init__(self, goal: Tensor) -> None:
        self.goal = goal

    def __call__(self, states: Tensor, prev_state: Tensor) -> Tensor:
        moves = (states - prev_state).abs().sum((-1, -2))
        return torch.linalg.vector_norm(states[:, :, 0] - self.goal, dim=-1) + 100 * moves

    def reached(self, states: Tensor, prev_state: Tensor, energies: Tensor | None = None) -> Tensor:
        return self(states, prev_state) < 0.1


@pytest.mark.parametrize("count", [5, 60])
def test_what_is_recalled_is_the_medoid_of_what_costs_least_at_rest(count: int) -> None:
    torch.manual_seed(count)
    states, goal, stretch = torch.randn(count, 1, 3), torch.randn(3), torch.tensor([5.0, 1.0, 0.1])
    found = GoalBank(states).retrieve(
        lambda states: Near(goal)(states[None], states[None])[0], lambda these: these[..., 0, :] * stretch
    )
    suiting = sorted(states, key=lambda state: float((state[0] - goal).norm()))[:NEAREST]
    steps = [sum(float(((a - b) * stretch).norm()) for b in suiting) for a in suiting]
    assert torch.equal(found, suiting[int(np.argmin(steps))])


def test_a_goal_with_a_state_to_go_for_stays_what_it_is() -> None:
    states, goal = torch.randn(30, 1, 3), Near(torch.randn(3))
    objective = RetrievedGoal(goal, states[:1])
    assert torch.equal(objective.goal_states, states[:1])
    assert torch.equal(objective(states[None], states[None]), goal(states[None], states[None]))
    at = goal.goal.expand(1, 1, 1, 3)
    assert objective.reached(at, at).all() and not objective.reached(at + 1, at + 1).any()


def test_the_states_are_of_training_pictures(checkpoint: Checkpoint, toy_store: Path) -> None:
    assert checkpoint.goal_bank is not None and checkpoint.goal_bank.states.shape == (BANK_SIZE, 4, 8)
    frames = np.concatenate([episode.frames for episode in EpisodeStore(toy_store).split("train")])
    with torch.no_grad():
        states = checkpoint.model.states(normalise_frames(frames)[:, None])[0][:, 0]
    apart = torch.cdist(checkpoint.goal_bank.states.flatten(1), states.flatten(1))
    assert apart.amin(1).max() < 1e-2 * apart.median()  # half precision
    assert len(set(apart.argmin(1).tolist())) > BANK_SIZE / 2


def asked(checkpoint: Checkpoint, goal: Goal) -> Callable[[Tensor], Tensor]:
    """The energy of a goal at rest in states K x S x d."""
    model = checkpoint.model
    if isinstance(goal, TextGoal):
        text = TextObjective(model.projector, model.text.encode([goal.text]), 0.0)
        return lambda states: text(states[None], states[None])[0]
    assert isinstance(goal, LabelGoal)
    wanted = torch.tensor([[float(name in goal.labels) for name in toy.LABELS]])
    label = LabelObjective(model.probe, wanted)
    return lambda states: label(states[None], states[None])[0]


def suits(checkpoint: Checkpoint, costs: Tensor) -> Tensor:
    """The stored state with the fewest steps to all those of lowest energy."""
    assert checkpoint.goal_bank is not None
    best = checkpoint.goal_bank.states[costs.argsort()[:NEAREST]]
    steps = torch.stack(
        [checkpoint.model.world_model.temporal_distance(best, one.expand_as(best)).sum() for one in best]
    )
    return best[steps.argmin()]


@pytest.mark.parametrize("goal", [TextGoal("go left"), TextGoal("the square is at the right"), LabelGoal(("right",))])
def test_the_first_candidates_are_those_towards_the_retrieved_state(
    checkpoint: Checkpoint, goal: TextGoal | LabelGoal
) -> None:
    assert checkpoint.goal_bank is not None
    known = checkpoint.goal_bank.states
    with torch.no_grad():
        best = suits(checkpoint, asked(checkpoint, goal)(known))
    planner = WorldModelPlanner(checkpoint)
    retrieved = planner.first_candidates(query(goal), 6, 4)
    shown = planner.first_candidates(query(LatentGoal(best.numpy())), 6, 4)
    np.testing.assert_allclose(retrieved, shown, atol=1e-5)
    without = WorldModelPlanner(replace(checkpoint, goal_bank=None)).first_candidates(query(goal), 6, 4)
    assert np.abs(retrieved - without).max() > 1e-2


def test_several_goals_at_once_retrieve_one_state_unless_one_of_them_is_a_state(checkpoint: Checkpoint) -> None:
    assert checkpoint.goal_bank is not None
    known, text, label = checkpoint.goal_bank.states, TextGoal("go left"), LabelGoal(("left",))
    planner = WorldModelPlanner(checkpoint)
    with torch.no_grad():
        costs = 2 * asked(checkpoint, text)(known) + 0.5 * asked(checkpoint, label)(known)
    both = planner.first_candidates(query(AllGoals((text, label), (2.0, 0.5))), 6, 4)
    shown = planner.first_candidates(query(LatentGoal(suits(checkpoint, costs).numpy())), 6, 4)
    np.testing.assert_allclose(both, shown, atol=1e-5)
    image = ImageGoal(toy.picture(24, 24))
    with_picture = planner.first_candidates(query(AllGoals((text, image))), 6, 4)
    np.testing.assert_allclose(with_picture, planner.first_candidates(query(image), 6, 4), atol=1e-5)


def test_energies_and_arrival_are_the_goals_own(checkpoint: Checkpoint) -> None:
    queries = [query(TextGoal("go left"), x) for x in (8, 24)]
    with_bank, without = (WorldModelPlanner(c).plan(queries) for c in (checkpoint, replace(checkpoint, goal_bank=None)))
    for retrieved, plain in zip(with_bank, without, strict=True):
        assert retrieved.energy_now == pytest.approx(plain.energy_now) and retrieved.reached == plain.reached
    inspector, model = Inspector(checkpoint), checkpoint.model
    text = TextObjective(model.projector, model.text.encode(["go left"]), 0.0)
    for retrieved, asks in zip(with_bank, queries, strict=True):  # an independent rollout
        walk = inspector.rollout(inspector.last(asks.frames[None, -inspector.window :]), retrieved.actions[None])
        with torch.no_grad():
            energies = [text(seen.states[None], seen.prev_state[None]).item() for seen in walk]
        np.testing.assert_allclose(retrieved.energies, energies, atol=1e-4)
    alone = [WorldModelPlanner(checkpoint).plan([one])[0] for one in queries]
    for together, one in zip(with_bank, alone, strict=True):
        np.testing.assert_allclose(together.actions, one.actions, atol=1e-5)


def test_it_comes_along_and_is_guarded(run: Path, checkpoint: Checkpoint, tmp_path: Path) -> None:
    exported = export(run, tmp_path / "small")
    prev_state, after = checkpoint.goal_bank, load_checkpoint(exported).goal_bank
    assert prev_state is not None and after is not None and torch.equal(prev_state.states, after.states)
    content = bytearray((exported / GOAL_BANK_FILE).read_bytes())
    content[-1] ^= 1
    (exported / GOAL_BANK_FILE).write_bytes(content)
    with pytest.raises(UserError, match=r"goal_bank\.safetensors is not the file that was saved"):
        load_checkpoint(exported)


def test_nothing_is_remembered_that_no_goal_would_recall(toy_run: Path, toy_store: Path, tmp_path: Path) -> None:
    assert load_checkpoint(toy_run / "action").goal_bank is None  # not asked for
    config = toy.config(plan={"goal_bank_size": 5})
    pictures_only = run_pipeline(config, toy_store, tmp_path / "run", ("pretrain", "action"), progress=False)
    assert load_checkpoint(pictures_only).goal_bank is None and not (pictures_only / GOAL_BANK_FILE).exists()
