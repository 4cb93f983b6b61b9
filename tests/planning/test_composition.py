"""Goals and costs that are composed: each piece against what it says on paper, then all of them in real plans."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from hnet_vjepa.checkpoint import Checkpoint, load_checkpoint
from hnet_vjepa.config import PlanConfig
from hnet_vjepa.data.batch import normalise_frames
from hnet_vjepa.errors import UserError
from hnet_vjepa.models.policy_prior import PolicyPrior, sample_prior
from hnet_vjepa.models.vjepa.vit import Chunks
from hnet_vjepa.models.world_model import rollout
from hnet_vjepa.planning.costs import (
    LONGEST_STEP,
    AvoidTerm,
    BehaviourPriorTerm,
    ClosestTerm,
    ControlTerm,
    GoalTerm,
    ImaginedRollout,
    StepWeightedTerm,
    TemporalConsistencyTerm,
    total,
)
from hnet_vjepa.planning.goals.combined import AllGoals, AllObjective
from hnet_vjepa.planning.goals.label import LabelGoal
from hnet_vjepa.planning.goals.region import Region, covered, slot_shares
from hnet_vjepa.planning.goals.state import ImageGoal, LatentGoal, PartialStateObjective
from hnet_vjepa.planning.goals.text import TextGoal
from hnet_vjepa.planning.interface import Cost, Goal, PlanQuery, SearchSettings
from hnet_vjepa.planning.planner import WorldModelPlanner
from planner_service.app import create_app
from planner_service.client import PlannerClient
from tests import toy
from tests.service.fakes import serving_ready

FRAMES = np.stack([toy.picture(8, 10), toy.picture(9, 10)])
GOAL = toy.picture(24, 24)
ONCE = SearchSettings(candidates=24, iterations=1, horizon=3, elites=4)


# A region of a picture


@given(st.integers(1, 40), st.integers(1, 12), st.data())
def test_the_cells_that_a_stretch_covers_are_those_of_its_pixels(pixels: int, cells: int, data: st.DataObject) -> None:
    first = data.draw(st.integers(0, pixels - 1))
    last = data.draw(st.integers(first + 1, pixels))
    fine = (np.arange(pixels * cells) // cells >= first) & (np.arange(pixels * cells) // cells < last)
    expected = fine.reshape(cells, pixels).mean(1)  # a pixel cut into as many parts as there are cells
    np.testing.assert_allclose(covered(first, last, pixels, cells), expected, atol=1e-5)


def drawn_chunks(seed: int, rows: int, columns: int) -> Chunks:
    """Chunks of one picture with any assignment (3 chunks) and attention (4 slots, the last of which holds nothing)."""
    random = torch.Generator().manual_seed(seed)
    assignment = torch.rand(1, 1, rows * columns, 3, generator=random).softmax(-1)
    attention = torch.rand(1, 1, 4, 3, generator=random).softmax(-1)
    mask = torch.tensor([False, False, False, True])[None, None]
    fields = {"grid": (1, rows, columns), "assignment": assignment, "attention": attention, "mask": mask}
    return cast(Chunks, SimpleNamespace(**fields))


@settings(max_examples=40)
@given(st.integers(0, 1000), st.integers(0, 5), st.integers(0, 7), st.integers(1, 3), st.integers(1, 5))
def test_a_slots_share_is_counted_cell_by_cell(seed: int, x0: int, y0: int, width: int, height: int) -> None:
    chunks, region = (
        drawn_chunks(seed, 3, 2),
        Region(x0, y0, x0 + width, y0 + height),
    )  # a picture of 12 rows, 8 columns
    expected = np.zeros(4)
    for slot in range(3):
        for chunk in range(3):
            of_chunk = chunks.assignment[0, 0, :, chunk]
            read = 0.0
            for row in range(12):
                for column in range(8):
                    inside = region.x0 <= column < region.x1 and region.y0 <= row < region.y1
                    read += inside * float(of_chunk[row // 4 * 2 + column // 4]) / 16
            expected[slot] += float(chunks.attention[0, 0, slot, chunk]) * read / float(of_chunk.sum())
    np.testing.assert_allclose(slot_shares(chunks, region, 12, 8), expected, atol=1e-5)


@torch.no_grad()
def test_regions_that_tile_a_picture_share_its_slots(checkpoint: Checkpoint) -> None:
    chunks = checkpoint.model.backbone(normalise_frames(GOAL[None, None]))
    whole = Region(0, 0, toy.WIDTH, toy.HEIGHT)
    tiles = [Region(0, 0, 13, 32), Region(13, 0, 40, 7), Region(13, 7, 40, 32)]
    shares = [slot_shares(chunks, region, toy.HEIGHT, toy.WIDTH) for region in (whole, *tiles)]
    held = (~chunks.mask[0, 0]).float()
    torch.testing.assert_close(shares[0], held, rtol=0, atol=1e-5)
    torch.testing.assert_close(sum(shares[1:]), held, rtol=0, atol=1e-5)
    left = slot_shares(chunks, Region(0, 0, 20, 32), toy.HEIGHT, toy.WIDTH)[held > 0]
    x = chunks.centroids[0, 0, held > 0, 2]
    assert left[x.argmin()] > left[x.argmax()]  # slots further to the left read more of the left half


# Terms


def constant(values: Tensor) -> Any:
    """An objective with these energies, B x N x H, whatever it is asked for."""
    return lambda states, prev_state: values.flatten(1)


def imagined(shape: tuple[int, int, int] = (2, 5, 3), seed: int = 0) -> ImaginedRollout:
    """Random states of 4 x 2 numbers and actions of 2."""
    random = torch.Generator().manual_seed(seed)
    states, prev_state = (torch.randn(*shape, 4, 2, generator=random) for _ in range(2))
    return ImaginedRollout(states, prev_state, torch.rand(*shape, 2, generator=random) * 2 - 1)


@given(st.lists(st.lists(st.floats(0, 100, width=32), min_size=3, max_size=3), min_size=4, max_size=4))
def test_the_closest_approach_is_the_least_of_the_steps(rows: list[list[float]]) -> None:
    energies = torch.tensor(rows).view(2, 2, 3)
    term = ClosestTerm(GoalTerm(constant(energies)))(imagined((2, 2, 3)))
    assert term.sum(-1).flatten().tolist() == [min(row) for row in rows]
    assert ((term != 0).sum(-1) <= 1).all()


def test_an_approach_that_is_not_a_number_is_not_the_closest() -> None:
    energies = torch.tensor([[[1.0, torch.nan, 2.0], [3.0, 3.0, 3.0]]])
    assert torch.isnan(ClosestTerm(GoalTerm(constant(energies)))(imagined((1, 2, 3))).sum(-1)).tolist() == [
        [True, False]
    ]


@pytest.mark.parametrize(
    ("late", "weights"), [(0.0, [1, 1, 1, 1]), (1.0, [0.25, 0.5, 0.75, 1]), (0.5, [0.5, 0.5**0.5, 0.75**0.5, 1])]
)
def test_later_states_count_more_by_a_power_of_how_late_they_are(late: float, weights: list[float]) -> None:
    energies = torch.rand(2, 3, 4, generator=torch.Generator().manual_seed(0))
    found = StepWeightedTerm(GoalTerm(constant(energies)), late)(imagined((2, 3, 4)))
    np.testing.assert_allclose(found.numpy(), energies.numpy() * np.array(weights), rtol=1e-6)


def test_control_costs_the_squared_way_from_holding_still() -> None:
    seen, hold = imagined(), torch.tensor([[0.5, -1.0], [0.0, 0.25]])
    found = ControlTerm(3.0, hold)(seen)
    for b in range(2):
        for n in range(5):
            for h in range(3):
                way = seen.actions[b, n, h].numpy() - hold[b].numpy()
                assert float(found[b, n, h]) == pytest.approx(3 * (way[0] ** 2 + way[1] ** 2), rel=1e-5)


def probe(read: Tensor) -> Tensor:
    """Logits of three labels from what is read, M x 4 x 4."""
    return read[:, :3, 0] * 2 + read[:, 3:, 1]


def test_avoiding_costs_the_probability_that_all_labels_of_a_place_hold() -> None:
    seen, places = imagined(), torch.tensor([[1.0, 0, 0], [0, 1, 1]])
    term = AvoidTerm(5.0, probe, places)
    found, inside = term(seen), term.inside(seen.states[:, 0], seen.prev_state[:, 0])
    for b in range(2):
        for n in range(5):
            for h in range(3):
                read = torch.cat([seen.states[b, n, h], seen.states[b, n, h] - seen.prev_state[b, n, h]], -1)
                p = 1 / (1 + np.exp(-probe(read[None])[0].double().numpy()))
                assert float(found[b, n, h]) == pytest.approx(5 * (p[0] + p[1] * p[2]), rel=1e-4)
                if n == 0:
                    np.testing.assert_allclose(inside[b, h], [p[0], p[1] * p[2]], rtol=1e-4)


def test_behaviour_prior_costs_the_squared_deviations_from_the_policy_prior_at_every_state() -> None:
    torch.manual_seed(0)
    seen, policy_prior = imagined(), PolicyPrior(2, 4, 2, 16)
    state, prev_state, goal, prev_action = (
        torch.randn(2, 4, 2),
        torch.randn(2, 4, 2),
        torch.randn(2, 4, 2),
        torch.randn(2, 2),
    )
    normalise = lambda actions: 2 * actions + 0.5  # noqa: E731
    found = BehaviourPriorTerm(3.0, policy_prior, normalise, state, prev_state, prev_action, goal)(seen).detach()
    for b in range(2):
        for n in range(5):
            now, earlier, last = state[b], prev_state[b], prev_action[b]
            for h in range(3):
                mean, log_std = (x.detach() for x in policy_prior(now, earlier, last, goal[b]))
                action = normalise(seen.actions[b, n, h])
                apart = ((action - mean) / log_std.exp()).numpy()
                assert float(found[b, n, h]) == pytest.approx(3 * np.mean(apart**2), rel=1e-4)
                now, earlier, last = seen.states[b, n, h], now, action


def test_a_leap_costs_what_it_skips_from_there_to_the_end() -> None:
    seen, state = imagined(), torch.randn(2, 4, 2)
    embed = lambda states: 2 * states.flatten(-2)  # noqa: E731
    found = TemporalConsistencyTerm(3.0, embed, state)(seen)
    for b in range(2):
        for n in range(5):
            here, skipped = state[b], 0.0
            for h in range(3):
                skipped += max(0.0, 2 * float((seen.states[b, n, h] - here).norm()) - LONGEST_STEP)
                assert float(found[b, n, h]) == pytest.approx(3 * skipped, rel=1e-4, abs=1e-5)
                here = seen.states[b, n, h]
    assert (found[..., -1] > 0).any()
    slow = ImaginedRollout(state[:, None, None].expand(2, 5, 3, 4, 2) + 0.01, seen.prev_state, seen.actions)
    assert (TemporalConsistencyTerm(3.0, embed, state)(slow) == 0).all()


def test_terms_are_added_up() -> None:
    seen, energies = imagined(), torch.rand(2, 5, 3)
    terms = [GoalTerm(constant(energies)), ControlTerm(2.0, torch.zeros(2, 2)), AvoidTerm(1.0, probe, torch.eye(3))]
    torch.testing.assert_close(total(terms, seen), terms[0](seen) + terms[1](seen) + terms[2](seen))
    assert torch.equal(total(terms[:1], seen), energies)


# Goals in part, and several


def part(weights: list[float]) -> tuple[PartialStateObjective, Tensor]:
    random = torch.Generator().manual_seed(5)
    goal, states = torch.randn(1, 4, 2, generator=random), torch.randn(1, 6, 4, 2, generator=random)
    masks = torch.tensor([[False, False, True, True]]), torch.tensor([[False, False, False, True]])
    return PartialStateObjective(goal, *masks, torch.tensor([weights]), PlanConfig(unmatched=0.7)), states


@given(st.lists(st.floats(0, 5, width=32), min_size=4, max_size=4).filter(lambda w: sum(w[:3]) > 0.1))
def test_a_goal_in_part_is_a_weighted_mean_of_slots(weights: list[float]) -> None:
    objective, states = part(weights)
    found = objective(states, states)
    for n in range(6):
        apart = [float((states[0, n, s] - objective.goal[0, s]).abs().mean()) for s in range(2)] + [0.7]  # on one side
        assert float(found[0, n]) == pytest.approx(np.average(apart, weights=weights[:3]), rel=1e-4, abs=1e-5)
    assert not objective.reached(objective.goal[:, None], objective.goal[:, None]).any()


def test_what_has_no_weight_may_be_anything() -> None:
    objective, states = part([1.0, 0.0, 0.0, 0.0])
    changed = states.clone()
    changed[:, :, 1:] += 100
    assert torch.equal(objective(changed, changed), objective(states, states))
    changed[:, :, 0] += 10
    assert not torch.isclose(objective(changed, changed), objective(states, states)).any()


def test_several_goals_are_a_weighted_sum_and_reached_together() -> None:
    class Level:
        goal_states = None

        def __init__(self, energy: float) -> None:
            self.energy = energy

        def __call__(self, states: Tensor, prev_state: Tensor) -> Tensor:
            return states.flatten(2).sum(-1) * self.energy

        def reached(self, states: Tensor, prev_state: Tensor) -> Tensor:
            return states.flatten(2).sum(-1) < self.energy

    states = torch.tensor([[1.0, 2.5], [0.5, 4.0]])[..., None, None]
    both = AllObjective((Level(2.0), Level(3.0)), torch.tensor([[1.0, 10.0], [0.5, 0.0]]))
    torch.testing.assert_close(both(states, states), torch.tensor([[32.0, 80.0], [0.5, 4.0]]))
    assert both.reached(states, states).tolist() == [[True, False], [True, False]]
    assert both.goal_states is None
    objective, _ = part([1.0, 1.0, 1.0, 1.0])
    assert AllObjective((Level(1.0), objective), torch.ones(1, 2)).goal_states is objective.goal


# Plans


@pytest.fixture(scope="module")
def checkpoint(toy_run: Path) -> Checkpoint:
    return load_checkpoint(toy_run / "action")


@pytest.fixture(scope="module")
def planner(checkpoint: Checkpoint) -> WorldModelPlanner:
    """A planner whose probe is surer than a few steps of training make it, and for whom no text is reached at once."""
    model = copy.deepcopy(checkpoint.model)
    with torch.no_grad():
        model.probe.out.weight *= 40
    manifest = checkpoint.manifest.model_copy(update={"reached_text_energy": None})
    return WorldModelPlanner(replace(checkpoint, model=model, manifest=manifest))


def query(**more: Any) -> PlanQuery:
    return PlanQuery(**{"frames": FRAMES, "goal": ImageGoal(GOAL), "seed": 3, "search": ONCE, **more})


def state_of(planner: WorldModelPlanner, frame: np.ndarray) -> np.ndarray:
    return planner.plan([query(frames=frame[None])])[0].state


Energies = Callable[[Tensor, Tensor], list[float]]


def energies_of(planner: WorldModelPlanner, goal: Goal) -> Energies:
    """By hand: the energies of H states H x S x d and those before them."""
    model = planner._model
    pixels = lambda frame: normalise_frames(frame[None, None])  # noqa: E731

    def one(goal: Goal, state: Tensor, prev_state: Tensor) -> float:
        if isinstance(goal, AllGoals):
            weights = goal.weights or (1,) * len(goal.goals)
            return sum(weight * one(each, state, prev_state) for weight, each in zip(weights, goal.goals, strict=True))
        read = torch.cat([state, state - prev_state], -1)[None]
        if isinstance(goal, TextGoal):
            return 1 - float(model.projector(read)[0] @ model.text.encode([goal.text])[0])
        if isinstance(goal, LabelGoal):
            p = model.probe(read)[0].sigmoid()
            return -float(np.mean([np.log(float(p[toy.LABELS.index(name)])) for name in goal.labels]))
        if isinstance(goal, LatentGoal):
            there = torch.from_numpy(goal.state)
        else:
            there = model.states(pixels(goal.frame))[0][0, 0]
        apart = (state - there).abs().mean(-1).tolist()
        weights: list[float] | tuple[float, ...] | None = goal.slot_weights
        if isinstance(goal, ImageGoal) and goal.region is not None:
            weights = slot_shares(model.backbone(pixels(goal.frame)), goal.region, toy.HEIGHT, toy.WIDTH).tolist()
        if weights is not None:
            return float(np.average(apart, weights=weights))
        return float(np.mean(apart)) + float(model.world_model.temporal_distance(state, there))

    return lambda states, prev_state: [one(goal, s, b) for s, b in zip(states, prev_state, strict=True)]


GOALS: dict[str, Goal] = {
    "picture": ImageGoal(GOAL),
    "sentence": TextGoal("the square is at the left"),
    "label": LabelGoal(("left",)),
    "region": ImageGoal(GOAL, Region(16, 16, 32, 32)),
    "weights": ImageGoal(GOAL, slot_weights=(0.0, 2.0, 0.5, 0.0)),
    "state": LatentGoal(np.full((4, 8), 0.1, np.float32), (1.0, 0.0, 0.0, 0.0)),
    "several": AllGoals(
        (ImageGoal(GOAL, Region(16, 0, 32, 32)), TextGoal("go left"), LabelGoal(("left",))), (2, 0.5, 3)
    ),
}
COSTS = {
    "sum": Cost(),
    "closest": Cost("closest"),
    "control": Cost(control=0.3),
    "avoid": Cost(avoid=(("left",), ("left", "right")), avoid_weight=2.0),
    "all": Cost("closest", 0.1, (("right",),), 1.0),
}


@pytest.mark.parametrize("kind", GOALS)
@pytest.mark.parametrize("name", COSTS)
@torch.no_grad()
def test_the_plan_is_the_best_of_the_candidates(planner: WorldModelPlanner, kind: str, name: str) -> None:
    """Every candidate of a search of one round is imagined and judged by hand."""
    asked, cost = query(goal=GOALS[kind], cost=COSTS[name]), COSTS[name]
    [result] = planner.plan([asked])
    tried = planner.first_candidates(asked, ONCE.candidates, ONCE.horizon)[:, :, :2]
    model, spec = planner._model, planner.actions.spec
    states = model.states(normalise_frames(FRAMES[None]))[0][0]
    normal = lambda actions: (torch.tensor(actions) - torch.tensor(spec.mean)) / torch.tensor(spec.std)  # noqa: E731
    held = normal(np.zeros((1, 2), np.float32))
    energies, prices, risks = energies_of(planner, asked.goal), [], []
    for actions in tried:
        seen = rollout(model.world_model.dynamics, states[1:], states[:1], held, normal(actions)[None])[0]
        prev_state = torch.cat([states[1:], seen[:-1]])
        of_goal = energies(seen, prev_state)
        price = min(of_goal) if cost.over_steps == "closest" else sum(of_goal)
        price += cost.control * float(((actions / 3) ** 2).sum())
        p = model.probe(torch.cat([seen, seen - prev_state], -1)).sigmoid().numpy()  # H x L
        places = np.array([np.prod([p[:, toy.LABELS.index(name)] for name in place], 0) for place in cost.avoid])
        price += cost.avoid_weight * float(places.sum())
        prices.append(price)
        risks.append((of_goal, places.max(0) if len(places) else None))
    best = int(np.argmin([np.abs(result.actions[:, :2] - actions).max() for actions in tried]))
    np.testing.assert_allclose(result.actions[:, :2], tried[best], atol=1e-4)
    assert prices[best] <= min(prices) + 1e-4 * abs(min(prices))  # clipped, some begin alike and cost the same
    np.testing.assert_allclose(result.energies, risks[best][0], rtol=1e-3, atol=1e-5)
    if cost.avoid:
        assert result.avoid_probability is not None
        np.testing.assert_allclose(result.avoid_probability, risks[best][1], rtol=1e-3, atol=1e-5)
    else:
        assert result.avoid_probability is None


def test_a_strong_behaviour_prior_gives_the_mean_of_the_policy_prior(checkpoint: Checkpoint) -> None:
    """However the energy ranks them: the plan is the most usual way, clipped to what the robot can do."""
    model = copy.deepcopy(checkpoint.model)
    last = model.world_model.policy_prior.mlp[-1]
    assert isinstance(last, torch.nn.Linear)
    last.weight.data *= 0.2  # so that it stays within what the robot can do
    plan = model.config.plan.model_copy(update={"behaviour_prior": 1e6})
    model.config = model.config.model_copy(update={"plan": plan})
    planner = WorldModelPlanner(replace(checkpoint, model=model))
    asked = query(goal=ImageGoal(GOAL))
    with torch.no_grad():
        states = model.states(normalise_frames(FRAMES[None]))[0]
        there = model.states(normalise_frames(GOAL[None, None]))[0][:, 0]
        spec = model.robot.action
        mean, std = torch.tensor(spec.mean), torch.tensor(spec.std)
        held = (torch.zeros(1, 2) - mean) / std
        world = model.world_model
        way = sample_prior(
            world.policy_prior, world.dynamics, states[:, 1], states[:, 0], held, there, torch.zeros(1, 3, 2)
        )
        usual = (way[0] * std + mean).clamp(-3, 3).numpy()
    [result] = planner.plan([asked])
    [free] = WorldModelPlanner(checkpoint).plan([asked])
    np.testing.assert_allclose(result.actions[:, :2], usual, atol=0.02)
    assert np.abs(free.actions[:, :2] - usual).max() > 0.2
    assert result.energies.sum() > free.energies.sum()  # a plan reports the energy of the goal, not the behaviour prior
    sentence, without = query(goal=TextGoal("go left")), WorldModelPlanner(checkpoint)
    np.testing.assert_allclose(planner.plan([sentence])[0].actions, without.plan([sentence])[0].actions, atol=1e-5)


def test_a_cost_that_costs_nothing_leaves_the_plan_as_it_is(planner: WorldModelPlanner) -> None:
    for goal in GOALS.values():
        plain, free = planner.plan(
            [query(goal=goal), query(goal=goal, cost=Cost(avoid=(("left",),), avoid_weight=0.0))]
        )
        assert np.array_equal(plain.actions, free.actions)
        np.testing.assert_allclose(free.energies, plain.energies, rtol=1e-5)


def test_compositions_are_planned_side_by_side_as_alone(planner: WorldModelPlanner) -> None:
    asked = [query(goal=goal, cost=cost) for goal in GOALS.values() for cost in COSTS.values()]
    asked += [query(goal=AllGoals((GOALS["state"], GOALS["label"]), w)) for w in (None, (0.0, 1.0))]  # type: ignore[arg-type]
    together = planner.plan(asked)
    for one, result in zip(asked, together, strict=True):
        np.testing.assert_allclose(planner.plan([one])[0].actions, result.actions, atol=1e-4)


def test_whole_numbers_are_weights_too(planner: WorldModelPlanner) -> None:
    goals = [ImageGoal(GOAL, slot_weights=w) for w in ((0, 1, 1, 0), (0.0, 1.0, 1.0, 0.0))]
    several = [AllGoals((goals[0], TextGoal("left")), w) for w in ((1, 2), (1.0, 2.0))]
    for whole, real in (goals, several):
        first, second = planner.plan([query(goal=whole), query(goal=real)])
        np.testing.assert_allclose(first.actions, second.actions, atol=1e-5)


def test_a_cost_changes_the_plan(planner: WorldModelPlanner) -> None:
    wide = SearchSettings(64, 4, 3, 8)
    sums, closest = (planner.plan([query(cost=COSTS[name], search=wide)])[0] for name in ("sum", "closest"))
    assert closest.energies.min() <= 1.05 * sums.energies.min()  # each by its own measure, as far as a search goes
    assert closest.energies.sum() > sums.energies.sum()
    changed = []
    for place in toy.LABELS:  # one of them the goal may keep clear of anyway
        costs = [Cost(avoid=((place,),), avoid_weight=weight) for weight in (0.0, 1e5)]
        risks = [planner.plan([query(cost=cost, search=wide)])[0] for cost in costs]
        careless, careful = (float(np.sum(result.avoid_probability)) for result in risks)
        assert careful <= careless
        changed.append(careful < careless)
    assert any(changed)
    control = [planner.plan([query(cost=Cost(control=weight))])[0] for weight in (0.0, 1e5)]
    assert np.abs(control[1].actions).sum() < 0.5 * np.abs(control[0].actions).sum()


def test_a_single_goal_among_several_is_that_goal(planner: WorldModelPlanner) -> None:
    for goal in GOALS.values():
        if not isinstance(goal, AllGoals):
            alone, one = planner.plan([query(goal=goal), query(goal=AllGoals((goal,)))])
            np.testing.assert_allclose(one.actions, alone.actions, atol=1e-4)


def test_who_is_at_the_goal_where_it_must_not_be_has_not_arrived(checkpoint: Checkpoint) -> None:
    model = copy.deepcopy(checkpoint.model)
    with torch.no_grad():
        model.probe.out.bias[:] = torch.tensor([50.0, -50.0])  # always left, never right
    manifest = checkpoint.manifest.model_copy(update={"reached_energy": 1.0})
    easy = WorldModelPlanner(replace(checkpoint, model=model, manifest=manifest))
    here = query(frames=FRAMES[:1], goal=ImageGoal(FRAMES[0]))
    reached = [
        easy.plan([replace(here, cost=Cost(avoid=avoid))])[0].reached
        for avoid in ((), (("right",),), (("left",),), (("left", "right"),), (("right",), ("left",)))
    ]
    assert reached == [True, True, False, True, False]


def test_a_part_is_never_called_reached_and_never_given_a_probability(planner: WorldModelPlanner) -> None:
    here = ImageGoal(FRAMES[0])
    [whole] = planner.plan([query(frames=FRAMES[:1], goal=here)])
    [in_part] = planner.plan([query(frames=FRAMES[:1], goal=replace(here, slot_weights=(1.0, 1.0, 1.0, 1.0)))])
    assert in_part.energy_now == pytest.approx(0, abs=1e-5) == whole.energy_now
    assert not in_part.reached and in_part.success is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"goal": ImageGoal(GOAL, Region(0, 0, 41, 4))}, "goal.region: columns 0 to 41, rows 0 to 4: no rectangle"),
        ({"goal": ImageGoal(GOAL, Region(0, 0, 4, 33))}, "goal.region: columns 0 to 4, rows 0 to 33: no rectangle"),
        ({"goal": ImageGoal(GOAL, Region(-1, 0, 3, 4))}, "goal.region: columns -1"),
        ({"goal": ImageGoal(GOAL, Region(3, 4, 5, 4))}, "goal.region: "),
        ({"goal": ImageGoal(GOAL, Region(0, 0, 3, 4), (1.0,) * 4)}, "goal.region: give a region or slot_weights"),
        ({"goal": ImageGoal(GOAL, slot_weights=(1.0,))}, "goal.slot_weights: 1 numbers for 4 slots"),
        ({"goal": ImageGoal(GOAL, slot_weights=(1.0, -1.0, 0.0, 0.0))}, "every weight must be a number from 0"),
        ({"goal": ImageGoal(GOAL, slot_weights=(1.0, float("nan"), 0.0, 0.0))}, "every weight must be a number from 0"),
        ({"goal": LatentGoal(np.zeros((4, 8), np.float32), (0.0,) * 4)}, "goal.slot_weights: all weights are zero"),
        ({"goal": AllGoals(())}, "goal.goals: is empty"),
        ({"goal": AllGoals((TextGoal("x"), LabelGoal(("up",))))}, "goal.goals.1.labels.0: unknown label 'up'"),
        ({"goal": AllGoals((TextGoal("x"), AllGoals((TextGoal("x"),))))}, "goal.goals.1: is itself several goals"),  # type: ignore[arg-type]
        ({"goal": AllGoals((TextGoal("x"),), (1.0, 2.0))}, "goal.weights: 2 numbers for 1 goals"),
        ({"cost": Cost("last")}, "unknown cost.over_steps 'last'; choose one of: sum, closest"),  # type: ignore[arg-type]
        ({"cost": Cost(control=-1.0)}, "cost.control = -1.0"),
        ({"cost": Cost(control=float("nan"))}, "cost.control = nan"),
        ({"cost": Cost(avoid_weight=float("inf"))}, "cost.avoid_weight = inf"),
        ({"cost": Cost(avoid=(("up",),))}, "cost.avoid: unknown label 'up'; choose one of: left, right"),
        ({"cost": Cost(avoid=((),))}, "cost.avoid: a place needs at least one label"),
        ({"cost": Cost(avoid=("left",))}, "cost.avoid: must be a tuple of places"),  # type: ignore[arg-type]
    ],
)
def test_what_makes_no_sense_is_refused_by_name(planner: WorldModelPlanner, change: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        planner.plan([query(**change)])
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_that_knows_no_labels_avoids_none(planner: WorldModelPlanner) -> None:
    card = replace(planner.card, labels=(), phases=("pretrain", "action"))
    blind = copy.copy(planner)
    blind._card = card
    with pytest.raises(UserError, match=r"cost\.avoid: this model knows no labels .*pretrain, action.*phase 'probe'"):
        blind.check(query(cost=Cost(avoid=(("left",),))))
    blind.check(query(cost=Cost("closest", 1.0)))


def test_the_service_plans_what_the_planner_does(planner: WorldModelPlanner) -> None:
    with serving_ready(create_app(planner)) as url, PlannerClient(url) as client:
        for goal in GOALS.values():
            for cost in COSTS.values():
                reply = client.plan(FRAMES, goal, 3, search=ONCE, cost=cost)
                [expected] = planner.plan([query(goal=goal, cost=cost)])
                assert_same(reply.actions, expected.actions)
                assert_same(reply.energies, expected.energies)
                if cost.avoid:
                    assert reply.avoid_probability is not None and expected.avoid_probability is not None
                    assert_same(reply.avoid_probability, expected.avoid_probability)


def assert_same(sent: np.ndarray, planned: np.ndarray) -> None:
    np.testing.assert_allclose(sent, planned, rtol=1e-5, atol=1e-6)
