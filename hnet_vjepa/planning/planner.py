"""The planner: frames and a goal in, the best action sequence found out. A query passes from top to bottom."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hnet_vjepa.checkpoint import Checkpoint, load_checkpoint
from hnet_vjepa.errors import UserError
from hnet_vjepa.losses.state_energy import StateEnergy
from hnet_vjepa.planning.action_space import ActionSpace
from hnet_vjepa.planning.card import model_card
from hnet_vjepa.planning.cem import Found, Score, Search, SearchProblem, search_actions
from hnet_vjepa.planning.checks import check_query
from hnet_vjepa.planning.costs import (
    AvoidTerm,
    BehaviourPriorTerm,
    ControlTerm,
    GoalTerm,
    TemporalConsistencyTerm,
    Term,
    goal_term,
    total,
)
from hnet_vjepa.planning.goals.base import GoalContext, Objective
from hnet_vjepa.planning.goals.factory import goal_group, goal_parts, make_objective
from hnet_vjepa.planning.goals.retrieved import RetrievedGoal
from hnet_vjepa.planning.goals.state import ImageGoal, PartialStateObjective, StateObjective
from hnet_vjepa.planning.goals.subgoal import plan_macro_states, with_subgoals
from hnet_vjepa.planning.goals.text import unknown_words
from hnet_vjepa.planning.imagination import Imagination
from hnet_vjepa.planning.interface import Cost, Goal, ModelCard, Picture, PlanQuery, PlanResult, SearchSettings
from hnet_vjepa.planning.overrides import with_plan
from hnet_vjepa.planning.perception import Perception, Present

CACHED_GOALS = 512  # text and label goals whose retrieved state is cached

OOD_WARNINGS: dict[Picture, str] = {
    "frames": "the last frame is out of distribution of the training pictures; the plan may mean nothing",
    "goal": "the goal picture is out of distribution of the training pictures; it may be out of reach",
}


@dataclass(frozen=True)
class _Plan:
    """The plan for one query."""

    actions: Tensor  # H x A, in -1..1
    energies: Tensor  # H, of the goal
    iterations: int
    inside: Tensor | None = None  # H, probability of being in a place to be avoided; None without such places


class WorldModelPlanner:
    """Plans with one checkpoint. Queries of the same group of goals, cost and settings share a search.

    ``search``: the search method. Raises UserError when the checkpoint has no dynamics.
    """

    def __init__(self, checkpoint: Checkpoint, search: Search = search_actions) -> None:
        if "action" not in checkpoint.manifest.trained():
            raise UserError(
                f"{checkpoint.path} has no dynamics; planning needs the phase 'action' (hnet train --phases action)"
            )
        self._model, self._manifest, self._find = checkpoint.model, checkpoint.manifest, search
        self._card, self._plan_config = model_card(checkpoint), checkpoint.model.config.plan
        self.perception = Perception(checkpoint.model, checkpoint.ood)
        self.actions = ActionSpace(checkpoint.model.robot.action)
        self._imagination = Imagination(checkpoint.model, self.actions)
        self._goal_bank = checkpoint.goal_bank
        self._retrieved = lru_cache(CACHED_GOALS)(self._retrieve)
        self._vocabulary = frozenset(checkpoint.manifest.words)

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        return self._card

    def compile(self) -> None:
        """Compile what a plan for one query with the usual settings needs (half a second); freezes the weights."""
        self._model.requires_grad_(False)
        self._model.world_model.fold()
        self.perception.compile()
        self._imagination.compile()

    def check(self, query: PlanQuery) -> None:
        """Raise UserError when a query can not be answered, naming what is wrong and what is allowed."""
        check_query(query, self._card)

    @torch.inference_mode()
    def plan(self, queries: list[PlanQuery]) -> list[PlanResult]:
        """Answer all queries, in their order. Raises UserError as ``check`` does."""
        for query in queries:
            self.check(query)
        groups: dict[tuple[tuple[str, ...], Cost, SearchSettings, int], list[int]] = {}
        for i, query in enumerate(queries):
            frames = min(len(query.frames), self._card.history + 1)
            key = (goal_group(query.goal), query.cost, query.search or self._card.search, frames)
            groups.setdefault(key, []).append(i)
        results: dict[int, PlanResult] = {}
        for (_, _, search, frames), members in groups.items():
            results.update(zip(members, self._plan_group([queries[i] for i in members], search, frames), strict=True))
        return [results[i] for i in range(len(queries))]

    def _plan_group(self, queries: list[PlanQuery], search: SearchSettings, frames: int) -> list[PlanResult]:
        """Plans of queries with the same group of goals, cost, settings and number of frames."""
        begun = time.monotonic()
        now = self._present(queries, frames)
        objective = self._objective([q.goal for q in queries], now.mask)
        avoid = self._avoid(queries[0].cost)
        energies = objective(now.state[:, None], now.prev_state[:, None])  # B x 1
        reached = _at_goal(now, objective, energies, avoid)
        encoded = time.monotonic()
        plans: dict[int, _Plan] = {}
        for at_goal, decide in ((True, self._hold_still), (False, self._search)):
            rows = [i for i, there in enumerate(reached) if there == at_goal]
            if len(rows) == len(queries):
                plans.update(enumerate(decide(queries, now, objective, search)))
            elif rows:
                some, at = [queries[i] for i in rows], now.rows(rows)
                goals = self._objective([q.goal for q in some], at.mask)
                plans.update(zip(rows, decide(some, at, goals, search), strict=True))
        planned = time.monotonic()
        timing = {"encode": 1e3 * (encoded - begun), "plan": 1e3 * (planned - encoded)}
        return [
            self._result(query, plans[i], float(energies[i, 0]), reached[i], now.rows([i]), timing)
            for i, query in enumerate(queries)
        ]

    def _present(self, queries: list[PlanQuery], frames: int) -> Present:
        """Where the robots are, from the last ``frames`` frames of each query."""
        prev_action = self.actions.to_model(torch.stack([self.actions.prev_action(q) for q in queries]))
        return self.perception.present([q.frames[-frames:] for q in queries], prev_action)

    def _objective(self, goals: Sequence[Goal], mask: Tensor) -> Objective:
        """The objective of goals of one group; ``mask`` B x S of the present states.

        Goals without a state get one from the goal bank, where the checkpoint has one.
        """
        objective = make_objective(goals, self._context(mask))
        if self._goal_bank is None or objective.goal_states is not None:
            return objective
        return RetrievedGoal(objective, torch.stack([self._retrieved(goal) for goal in goals]))

    def _context(self, mask: Tensor) -> GoalContext:
        """What objectives are made of; without a calibration no goal counts as reached."""
        near, near_text = (
            -1.0 if energy is None else energy
            for energy in (self._manifest.reached_energy, self._manifest.reached_text_energy)
        )
        return GoalContext(self._model, self._card, self.perception, mask, near, near_text)

    def _retrieve(self, goal: Goal) -> Tensor:
        """The goal bank's state (S x d) for a goal without one."""
        assert self._goal_bank is not None
        objective = make_objective([goal], self._context(torch.zeros(1, self._card.state_shape[0], dtype=torch.bool)))
        embed = self._model.world_model.temporal_distance.embed
        return self._goal_bank.retrieve(lambda states: objective(states[None], states[None])[0], embed)

    def _avoid(self, cost: Cost) -> AvoidTerm | None:
        return AvoidTerm.of(cost, self._card.labels, self._model.probe)

    def _hold_still(
        self, queries: list[PlanQuery], now: Present, objective: Objective, search: SearchSettings
    ) -> list[_Plan]:
        """The plan where the goal is reached: no search, the robot stays."""
        hold = torch.stack([self.actions.hold(query) for query in queries])[:, None, None]
        last = self.actions.from_model(now.prev_action)
        actions = self.actions.limits.project(hold.expand(-1, 1, search.horizon, -1), last)[:, 0]
        return self._evaluate(actions, (0,) * len(queries), now, GoalTerm(objective), self._avoid(queries[0].cost))

    def _search(
        self, queries: list[PlanQuery], now: Present, objective: Objective, search: SearchSettings
    ) -> list[_Plan]:
        """Search for the actions of least cost towards the goal, or towards a subgoal on the way to a distant one."""
        cost, plan = queries[0].cost, self._plan_config
        target, avoid = self._search_objective(queries, now, objective, search), self._avoid(cost)
        terms: list[Term] = [goal_term(GoalTerm(target), cost, plan.step_weight_exponent)]
        if cost.control:
            terms.append(ControlTerm(cost.control, torch.stack([self.actions.hold(query) for query in queries])))
        terms += [] if avoid is None else [avoid]
        priors = self._prior_terms(now, target)
        terms += priors

        found = self._find_actions(
            queries, now, target, search, lambda actions: total(terms, self._imagination.rollout(now, actions))
        )
        # If the search minimised the goal's energy alone, its energies are already the ones to report.
        if target is objective and cost == Cost() and not priors and not plan.step_weight_exponent:
            return [_Plan(*plan) for plan in zip(found.actions, found.energies, found.iterations, strict=True)]
        return self._evaluate(found.actions, found.iterations, now, GoalTerm(objective), avoid)

    def _search_objective(
        self, queries: list[PlanQuery], now: Present, objective: Objective, search: SearchSettings
    ) -> Objective:
        """The objective of the search: a subgoal where the goal is distant and its energy has no temporal distance.

        Subgoals are searched in at most half of the time that is left.
        """
        world, plan = self._model.world_model, self._plan_config
        guided = isinstance(objective, StateObjective) and plan.temporal_distance
        if world.macro_dynamics is None or not plan.subgoals or guided or isinstance(objective, PartialStateObjective):
            return objective
        deadline, time_now = _first_deadline(queries), time.monotonic()
        half = None if deadline is None else time_now + (deadline - time_now) / 2
        way = plan_macro_states(world.macro_dynamics, now.state, objective, plan, [q.seed for q in queries], half)
        distant = world.temporal_distance(now.state, way[:, -1]) > search.horizon  # B
        near = self._context(now.mask).reached_energy
        subgoal = StateObjective(way[:, 0], now.mask, now.mask, StateEnergy.of(self._model), near)
        return with_subgoals(distant, subgoal, objective)

    def _prior_terms(self, now: Present, objective: Objective) -> list[Term]:
        """Terms that keep plans near recorded behaviour, where they have a weight and the goal has a state."""
        plan, world, terms = self._plan_config, self._model.world_model, list[Term]()
        if plan.behaviour_prior and objective.goal_states is not None:
            past = now.state, now.prev_state, now.prev_action
            goal_states, prior = objective.goal_states, world.policy_prior
            terms.append(BehaviourPriorTerm(plan.behaviour_prior, prior, self.actions.to_model, *past, goal_states))
        if plan.temporal_consistency and objective.goal_states is not None:
            embed = world.temporal_distance.embed
            terms.append(TemporalConsistencyTerm(plan.temporal_consistency, embed, now.state))
        return terms

    def _find_actions(
        self, queries: list[PlanQuery], now: Present, objective: Objective, search: SearchSettings, score: Score
    ) -> Found:
        """Minimise ``score``, starting from each query's previous plan and from the policy prior."""
        plan, last, goal = self._plan_config, self.actions.from_model(now.prev_action), objective.goal_states
        return self._find(
            SearchProblem(
                score=score,
                start=torch.stack([self.actions.first_mean(q, search.horizon) for q in queries]),
                std=torch.tensor([plan.first_std if q.previous_actions is None else plan.warm_std for q in queries]),
                seeds=[q.seed for q in queries],
                settings=search,
                plan=plan,
                deadline=_first_deadline(queries),
                allow=lambda actions: self.actions.limits.project(actions, last),
                sample_prior=None if goal is None else self._imagination.prior_sampler(now, goal),
            )
        )

    def _evaluate(
        self, actions: Tensor, iterations: Sequence[int], now: Present, goal: GoalTerm, avoid: AvoidTerm | None
    ) -> list[_Plan]:
        """Energies of the goal, and probabilities of places to avoid, along plans B x H x A."""
        rollout = self._imagination.rollout(now, actions[:, None])
        inside: list[Tensor | None] = [None] * len(actions)
        if avoid is not None:
            inside = list(avoid.inside(rollout.states[:, 0], rollout.prev_state[:, 0]).amax(-1))
        return [_Plan(*plan) for plan in zip(actions, goal(rollout)[:, 0], iterations, inside, strict=True)]

    def _result(
        self, query: PlanQuery, plan: _Plan, energy_now: float, reached: bool, now: Present, timing: dict[str, float]
    ) -> PlanResult:
        """The answer to one query; ``now`` holds its one robot."""
        parts, ood = goal_parts(query.goal), self._ood_pictures(query.goal, bool(now.ood[0]))
        unknown = unknown_words(parts, self._vocabulary)
        words = (f"unknown words: {', '.join(unknown)}; no training caption had them",) if unknown else ()
        success = None  # the curve is calibrated for these energies and the default cost
        if self._manifest.success is not None and query.cost == Cost() and goal_group(query.goal) == ("state",):
            success = self._manifest.success.probability(energy_now, plan.energies.numpy())
        return PlanResult(
            actions=self.actions.to_robot(plan.actions),
            energies=plan.energies.numpy(),
            energy_now=energy_now,
            reached=reached,
            iterations=plan.iterations,
            state=now.state[0].numpy(),
            success=success,
            timing_ms=timing,
            ood=ood,
            avoid_probability=None if plan.inside is None else plan.inside.numpy(),
            warnings=words + tuple(OOD_WARNINGS[picture] for picture in ood or ()),
        )

    def _ood_pictures(self, goal: Goal, last_frame: bool) -> tuple[Picture, ...] | None:
        """Which pictures of a query are out of distribution; None where that is not known."""
        if not self.perception.detects_ood:
            return None
        found: list[Picture] = ["frames"] if last_frame else []
        pictures = [part.frame for part in goal_parts(goal) if isinstance(part, ImageGoal)]
        if pictures and bool(self.perception.pictures(pictures).ood.any()):
            found.append("goal")
        return tuple(found)

    @torch.inference_mode()
    def first_candidates(self, query: PlanQuery, count: int, horizon: int) -> NDArray[np.float32]:
        """The first candidates of a search: count x horizon x dim in robot units. For measurements."""
        now = self._present([query], min(len(query.frames), self._card.history + 1))
        tried: list[Tensor] = []

        def score(actions: Tensor) -> Tensor:
            tried.append(actions)
            return torch.zeros(actions.shape[:3])

        search = SearchSettings(candidates=count, iterations=1, horizon=horizon, elites=1)
        self._find_actions([query], now, self._objective([query.goal], now.mask), search, score)
        return np.stack([self.actions.to_robot(actions) for actions in tried[0][0]])


def load_planner(
    checkpoint: Path | str, threads: int | None = None, plan: Mapping[str, str] | None = None
) -> WorldModelPlanner:
    """Load a checkpoint for planning. ``threads`` sets torch's; the default leaves them as they are.

    ``plan``: other values for the configuration's section ``plan`` (see with_plan). Raises UserError when one is not
    allowed, and when the checkpoint is missing, damaged, or has no action phase.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    planner = WorldModelPlanner(with_plan(load_checkpoint(checkpoint), plan or {}))
    planner.compile()
    return planner


def _at_goal(now: Present, objective: Objective, energies: Tensor, avoid: AvoidTerm | None) -> list[bool]:
    """Which robots are at their goal and not in a place to be avoided, and hold still. ``energies`` B x 1."""
    state, prev_state = now.state[:, None], now.prev_state[:, None]
    reached = objective.reached(state, prev_state, energies)[:, 0]
    if avoid is not None:
        reached &= (avoid.inside(state, prev_state) <= 0.5).all(-1)[:, 0]
    found: list[bool] = reached.tolist()
    return found


def _first_deadline(queries: list[PlanQuery]) -> float | None:
    return min((q.deadline for q in queries if q.deadline is not None), default=None)
