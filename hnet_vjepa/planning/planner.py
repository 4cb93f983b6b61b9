"""A loaded checkpoint that answers plan queries: frames and a goal in, the best action sequence out."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hnet_vjepa.calibration.goal_bank import RetrievedGoal
from hnet_vjepa.checkpoint import Checkpoint, load_checkpoint
from hnet_vjepa.data.batch import PIXEL_MEAN, PIXEL_STD, normalise_frames
from hnet_vjepa.errors import UserError
from hnet_vjepa.models.hnet.encoder import Cache
from hnet_vjepa.models.policy_prior import sample_prior
from hnet_vjepa.models.world_model import rollout
from hnet_vjepa.planning.cem import Found, SamplePrior, Score, Search, check_search, search_actions
from hnet_vjepa.planning.checks import check_cost, check_goal
from hnet_vjepa.planning.costs import (
    AvoidTerm,
    BehaviourPriorTerm,
    ClosestTerm,
    ControlTerm,
    GoalTerm,
    ImaginedRollout,
    StepWeightedTerm,
    TemporalConsistencyTerm,
    Term,
    total,
)
from hnet_vjepa.planning.encoder_cache import EncoderCache
from hnet_vjepa.planning.interface import (
    AllGoals,
    Cost,
    Goal,
    ImageGoal,
    LabelGoal,
    LatentGoal,
    ModelCard,
    Picture,
    PlanQuery,
    PlanResult,
    Region,
    SearchSettings,
    TextGoal,
    goal_kind,
    in_part,
    single_goals,
)
from hnet_vjepa.planning.jit import Function, Shapes, jit_trace
from hnet_vjepa.planning.limits import limits_of
from hnet_vjepa.planning.objectives import (
    AllObjective,
    LabelObjective,
    Objective,
    PartObjective,
    StateEnergy,
    StateObjective,
    TextObjective,
)
from hnet_vjepa.planning.regions import slot_shares
from hnet_vjepa.planning.subgoals import mixed, plan_macro_states
from hnet_vjepa.tokenization import tokenize

REMEMBERED_PICTURES = 512  # goals, and the frames of the robots that are asked for
REMEMBERED_REGIONS = 64

OOD_WARNINGS: dict[Picture, str] = {
    "frames": "the last frame is unlike all that the model was trained on; the plan may mean nothing",
    "goal": "the goal picture is unlike all that the model was trained on; it may be out of reach",
}


@dataclass(frozen=True)
class _Present:
    """Where B robots are, how they came there, and what was told them last."""

    state: Tensor  # B x S x d
    prev_state: Tensor  # B x S x d
    mask: Tensor  # B x S, True = slot that holds nothing
    prev_action: Tensor  # B x A, normalised
    out_of_distribution: (
        Tensor  # B, True = the last frame is unlike those of the training; all false where that is not known
    )

    def of(self, rows: list[int]) -> _Present:
        """Some of the robots."""
        return _Present(
            self.state[rows],
            self.prev_state[rows],
            self.mask[rows],
            self.prev_action[rows],
            self.out_of_distribution[rows],
        )


@dataclass(frozen=True)
class _Plan:
    """What one query is answered with."""

    actions: Tensor  # H x A, in -1..1
    energies: Tensor  # H, to the goal
    iterations: int
    inside: Tensor | None = None  # H, the probability of being where it must not be; None without such places


class WorldModelPlanner:
    """Plans with one checkpoint. Queries are answered in batches; those with like goals and settings share a search."""

    def __init__(self, checkpoint: Checkpoint, search: Search = search_actions) -> None:
        if "action" not in checkpoint.manifest.trained():
            raise UserError(
                f"{checkpoint.path} has no dynamics; planning needs the phase 'action' (hnet train --phases action)"
            )
        self._model, self._find = checkpoint.model, search
        self._robot = checkpoint.model.robot
        manifest = checkpoint.manifest  # without a calibration no goal counts as reached
        self._near = -1.0 if manifest.reached_energy is None else manifest.reached_energy
        self._near_text = -1.0 if manifest.reached_text_energy is None else manifest.reached_text_energy
        self._words, self._success = frozenset(manifest.words), manifest.success
        self._pictures: OrderedDict[bytes, tuple[Tensor, ...]] = OrderedDict()
        self._shares = lru_cache(REMEMBERED_REGIONS)(self._slot_shares)
        self._retrieved = lru_cache(REMEMBERED_PICTURES)(self._retrieve)
        self._ood, self._goal_bank = checkpoint.ood, checkpoint.goal_bank
        spec = self._robot.action
        active = list(spec.active)
        low, high = torch.tensor(spec.low)[active], torch.tensor(spec.high)[active]
        self._centre, self._half = (low + high) / 2, (high - low) / 2
        self._mean, self._std = torch.tensor(spec.mean), torch.tensor(spec.std)
        self._low, self._high = low, high
        self._limits, self._dynamics = limits_of(spec), self._model.world_model.dynamics
        self._encoded: Function = self._encode
        history = checkpoint.model.backbone.encoder.history
        self._encoder_cache = EncoderCache(self._see, history) if history else None
        self._imagined: Function = self._imagine
        self._proposed: Function = self._sample_prior
        self._card = _card(checkpoint)

    def compile(self) -> None:
        """Trace what a plan for one query with the usual settings does most (half a second). Weights are fixed then."""
        self._model.requires_grad_(False)
        self._model.world_model.fold()
        camera, plan, state = self._card.camera, self._model.config.plan, self._card.state_shape
        dims, proposed = len(self._robot.action.active), min(plan.prior_candidates, plan.candidates - 1)

        def moving(rows: int, *more: tuple[int, ...]) -> Shapes:
            """A state, the one before it, the action between them and what else there is, of so many rows."""
            return (rows, *state), (rows, *state), (rows, dims), *((rows, *shape) for shape in more)

        rows = (1, plan.candidates)  # holding still, and a round of the search
        self._encoded = jit_trace(self._encode, [((1, 1, camera.height, camera.width, 3),)])
        self._imagined = jit_trace(self._imagine, [moving(n, (plan.horizon, dims)) for n in rows])
        self._proposed = jit_trace(self._sample_prior, [moving(proposed, state, (plan.horizon, dims))])

    def _encode(self, video: Tensor, cache: Cache | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Normalised video B x T x H x W x 3 -> states B x T x S x d, masks B x T x S and cells B x T x N x D."""
        chunks = self._model.backbone(video, cache=cache)
        return self._model.world_model.readout(chunks.tokens).float(), chunks.mask, chunks.cells

    def _imagine(self, state: Tensor, prev_state: Tensor, prev_action: Tensor, actions: Tensor) -> tuple[Tensor]:
        """See rollout."""
        return (rollout(self._dynamics, state, prev_state, prev_action, actions),)

    def _sample_prior(
        self, state: Tensor, prev_state: Tensor, prev_action: Tensor, goal: Tensor, noise: Tensor
    ) -> tuple[Tensor]:
        """See propose."""
        return (
            sample_prior(
                self._model.world_model.policy_prior, self._dynamics, state, prev_state, prev_action, goal, noise
            ),
        )

    @property
    def card(self) -> ModelCard:
        """What the model is."""
        return self._card

    def check(self, query: PlanQuery) -> None:
        """Raise UserError when a query can not be answered, naming what is wrong and what is allowed."""
        card = self._card
        if query.frames.ndim != 4 or not len(query.frames):
            raise UserError(f"frames: shape {query.frames.shape}; expected T x H x W x 3 with T at least 1")
        card.camera.check(query.frames, "frames")
        check_search(query.search or card.search)
        if query.previous_actions is not None:
            if query.previous_actions.ndim != 2:
                raise UserError(
                    f"previous_actions: shape {query.previous_actions.shape}; expected H x {card.action.dim}"
                )
            card.action.check(query.previous_actions, "previous_actions")
        check_goal(query.goal, card)
        check_cost(query.cost, card)

    @torch.inference_mode()
    def plan(self, queries: list[PlanQuery]) -> list[PlanResult]:
        """Answer all queries, in their order. Raises UserError as ``check`` does."""
        for query in queries:
            self.check(query)
        results: list[PlanResult | None] = [None] * len(queries)
        groups: dict[tuple[tuple[str, ...], Cost, SearchSettings, int], list[int]] = {}
        for i, query in enumerate(queries):
            frames = min(len(query.frames), self._card.history + 1)
            key = (goal_kind(query.goal), query.cost, query.search or self._card.search, frames)
            groups.setdefault(key, []).append(i)
        for (_, _, search, frames), members in groups.items():
            answers = self._plan_alike([queries[i] for i in members], search, frames)
            for i, answer in zip(members, answers, strict=True):
                results[i] = answer
        return [result for result in results if result is not None]

    def _plan_alike(self, queries: list[PlanQuery], search: SearchSettings, frames: int) -> list[PlanResult]:
        """One search for queries with the same kind of goal, cost and settings, and equally many frames."""
        begun = time.monotonic()
        now = self._present(queries, frames)
        objective = self._objective([q.goal for q in queries], now.mask)
        energies_now = objective(now.state[:, None], now.prev_state[:, None])  # B x 1
        energy_now = energies_now[:, 0]
        arrived = objective.reached(now.state[:, None], now.prev_state[:, None], energies_now)[:, 0]
        avoid = self._avoid(queries[0].cost)
        if avoid is not None:  # who is at the goal, but where it must not be, does not stay there
            arrived &= (avoid.inside(now.state[:, None], now.prev_state[:, None]) <= 0.5).all(-1)[:, 0]
        reached = arrived.tolist()
        encoded = time.monotonic()
        plans: dict[int, _Plan] = {}
        for there, decide in ((True, self._stay), (False, self._go)):
            rows = [i for i, arrived in enumerate(reached) if arrived == there]
            if len(rows) == len(queries):
                plans.update(enumerate(decide(queries, now, objective, search)))
            elif rows:
                some, at = [queries[i] for i in rows], now.of(rows)
                goals = self._objective([q.goal for q in some], at.mask)
                plans.update(zip(rows, decide(some, at, goals, search), strict=True))
        planned = time.monotonic()
        timing = {"encode": 1e3 * (encoded - begun), "plan": 1e3 * (planned - encoded)}
        results = []
        for i, query in enumerate(queries):
            plan, unfamiliar = plans[i], self._ood_pictures(query.goal, bool(now.out_of_distribution[i]))
            results.append(
                PlanResult(
                    actions=self._to_robot(plan.actions),
                    energies=plan.energies.numpy(),
                    energy_now=float(energy_now[i]),
                    reached=reached[i],
                    iterations=plan.iterations,
                    state=now.state[i].numpy(),
                    success=self._probability(query, float(energy_now[i]), plan.energies.numpy()),
                    timing_ms=timing,
                    unfamiliar=unfamiliar,
                    avoid_probability=None if plan.inside is None else plan.inside.numpy(),
                    warnings=_unknown_words(query.goal, self._words) + tuple(OOD_WARNINGS[p] for p in unfamiliar or ()),
                )
            )
        return results

    def _stay(
        self, queries: list[PlanQuery], now: _Present, objective: Objective, search: SearchSettings
    ) -> list[_Plan]:
        """Hold still: the answer where the goal is reached, which needs no search."""
        hold = torch.stack([self._hold(query) for query in queries])[:, None, None].expand(-1, 1, search.horizon, -1)
        actions = self._limits.project(hold, self._from_model(now.prev_action))[:, 0]
        return self._report(actions, (0,) * len(queries), now, GoalTerm(objective), self._avoid(queries[0].cost))

    def _go(self, queries: list[PlanQuery], now: _Present, objective: Objective, search: SearchSettings) -> list[_Plan]:
        """Search for the actions whose costs add up to least."""
        cost = queries[0].cost
        goal_states, avoid = self._search_objective(queries, now, objective, search), self._avoid(cost)
        terms = self._terms(queries, GoalTerm(goal_states), avoid)
        told = len(terms)
        terms += self._prior_terms(now, goal_states)
        found = self._search(
            queries, now, goal_states, search, lambda actions: total(terms, self._rollout(now, actions))
        )
        # The search has told the energies of the goal where it minimised these and nothing else.
        if (
            goal_states is objective
            and cost == Cost()
            and len(terms) == told
            and not self._model.config.plan.step_weight_exponent
        ):
            return [_Plan(*plan) for plan in zip(found.actions, found.energies, found.iterations, strict=True)]
        return self._report(found.actions, found.iterations, now, GoalTerm(objective), avoid)

    def _search_objective(
        self, queries: list[PlanQuery], now: _Present, objective: Objective, search: SearchSettings
    ) -> Objective:
        """What the search goes for: where no temporal distance shows the way to a far goal, a sub-goal on it.

        What is sought takes at most half of the time that is left.
        """
        world, plan = self._model.world_model, self._model.config.plan
        shown = isinstance(objective, StateObjective) and plan.temporal_distance
        if world.macro_dynamics is None or not plan.subgoals or shown or isinstance(objective, PartObjective):
            return objective
        deadline, time_now = _first_deadline(queries), time.monotonic()
        half = None if deadline is None else time_now + (deadline - time_now) / 2
        way = plan_macro_states(world.macro_dynamics, now.state, objective, plan, [q.seed for q in queries], half)
        far = world.temporal_distance(now.state, way[:, -1]) > search.horizon  # B
        subgoal = StateObjective(way[:, 0], now.mask, now.mask, StateEnergy.of(self._model), self._near)
        return mixed(far, subgoal, objective)

    def _report(
        self, actions: Tensor, iterations: Sequence[int], now: _Present, goal: GoalTerm, avoid: AvoidTerm | None
    ) -> list[_Plan]:
        """What is said of plans B x H x A, whatever it was that they were found by."""
        imagined = self._rollout(now, actions[:, None])
        inside: list[Tensor | None] = [None] * len(actions)
        if avoid is not None:
            inside = list(avoid.inside(imagined.states[:, 0], imagined.prev_state[:, 0]).amax(-1))
        return [_Plan(*plan) for plan in zip(actions, goal(imagined)[:, 0], iterations, inside, strict=True)]

    def _rollout(self, now: _Present, actions: Tensor) -> ImaginedRollout:
        """What B robots imagine of N candidates each, B x N x H x A in -1..1."""
        batch, candidates = actions.shape[:2]
        starts, pasts, driven = (
            x.repeat_interleave(candidates, 0) for x in (now.state, now.prev_state, now.prev_action)
        )
        [imagined] = self._imagined(starts, pasts, driven, self._to_model(actions.flatten(0, 1)))
        earlier = torch.cat([starts[:, None], imagined[:, :-1]], 1)  # (B*N) x H x S x d
        states, prev_state = (x.unflatten(0, (batch, candidates)) for x in (imagined, earlier))
        return ImaginedRollout(states, prev_state, actions)

    def _probability(self, query: PlanQuery, energy_now: float, energies: NDArray[np.float32]) -> float | None:
        """Of reaching a pictured or stored goal; what is measured holds for no other energies and costs."""
        if self._success is None or query.cost != Cost() or goal_kind(query.goal) != ("state",):
            return None
        return self._success.probability(energy_now, energies)

    @torch.inference_mode()
    def first_candidates(self, query: PlanQuery, count: int, horizon: int) -> NDArray[np.float32]:
        """What a search would try first: count x horizon x dim in robot units. For measurements."""
        now = self._present([query], min(len(query.frames), self._card.history + 1))
        tried: list[Tensor] = []

        def score(actions: Tensor) -> Tensor:
            tried.append(actions)
            return torch.zeros(actions.shape[:3])

        search = SearchSettings(candidates=count, iterations=1, horizon=horizon, elites=1)
        self._search([query], now, self._objective([query.goal], now.mask), search, score)
        return np.stack([self._to_robot(actions) for actions in tried[0][0]])

    def _search(
        self, queries: list[PlanQuery], now: _Present, objective: Objective, search: SearchSettings, score: Score
    ) -> Found:
        """Search for the actions that ``score`` likes best, beginning with what is known of each query."""
        plan, last = self._model.config.plan, self._from_model(now.prev_action)
        return self._find(
            score,
            torch.stack([self._first_mean(q, search.horizon) for q in queries]),
            search,
            [q.seed for q in queries],
            plan,
            torch.tensor([plan.first_std if q.previous_actions is None else plan.warm_std for q in queries]),
            _first_deadline(queries),
            lambda actions: self._limits.project(actions, last),
            None if objective.goal_states is None else self._prior_sampler(now, objective.goal_states),
        )

    def _present(self, queries: list[PlanQuery], frames: int) -> _Present:
        """Where the robots are, of the last ``frames`` frames of each query."""
        if self._encoder_cache is None:  # then a state is that of its frame alone
            seen = self._states_of([frame for q in queries for frame in q.frames[-frames:][-2:]])
            states, masks, out_of_distribution = (x.unflatten(0, (len(queries), -1)) for x in seen)
        else:
            states, masks, out_of_distribution = self._encoder_cache.last_two([q.frames[-frames:] for q in queries])
        past = max(0, states.shape[1] - 2)  # a single frame is taken to be at rest
        prev_action = self._to_model(torch.stack([self._last_action(q) for q in queries]))
        return _Present(states[:, -1], states[:, past], masks[:, -1], prev_action, out_of_distribution[:, -1])

    def _see(self, clips: NDArray[np.uint8], cache: Cache | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """States (B x T x S x d), masks (B x T x S) and what is strange (B x T) of clips B x T x H x W x 3.

        ``cache``: of running streams, whose next frames the clips are.
        """
        video = normalise_frames(clips)
        states, masks, cells = self._encoded(video) if cache is None else self._encode(video, cache)
        out_of_distribution = torch.zeros(masks.shape[:2], dtype=torch.bool)
        if self._ood is not None:
            out_of_distribution = self._ood.out_of_distribution(cells)
        return states, masks, out_of_distribution

    def _prior_sampler(self, now: _Present, goal: Tensor) -> SamplePrior:
        """Candidates that follow the learnt proposal to goal states B x S x d."""

        def proposed(noise: Tensor) -> Tensor:
            count = noise.shape[1]
            if self._model.config.plan.behaviour_prior:
                noise = torch.cat([torch.zeros_like(noise[:, :1]), noise[:, 1:]], 1)  # one does the most usual
            state, prev_state, prev_action, there = (  # (B*P) x ...
                x.repeat_interleave(count, 0) for x in (now.state, now.prev_state, now.prev_action, goal)
            )
            [normal] = self._proposed(state, prev_state, prev_action, there, noise.flatten(0, 1))
            return self._from_model(normal).unflatten(0, (-1, count))

        return proposed

    def _objective(self, goals: list[Goal], mask: Tensor) -> Objective:
        """What goals of one kind cost; ``mask`` B x S of the present states.

        Where none of them is a state, and some are remembered, they go for the one that suits them best.
        """
        objective = self._own_objective(goals, mask)
        if self._goal_bank is None or objective.goal_states is not None:
            return objective
        return RetrievedGoal(objective, torch.stack([self._retrieved(goal) for goal in goals]))

    def _retrieve(self, goal: Goal) -> Tensor:
        """A remembered state (S x d) that suits a goal in words or labels, or several of these at once."""
        assert self._goal_bank is not None
        mask = torch.zeros(1, self._card.state_shape[0], dtype=torch.bool)  # asked by goals that show a state alone
        return self._goal_bank.retrieve(
            self._own_objective([goal], mask), self._model.world_model.temporal_distance.embed
        )

    def _own_objective(self, goals: list[Goal], mask: Tensor) -> Objective:
        """The energy of goals of one kind; ``mask`` B x S of the present states."""
        first, plan = goals[0], self._model.config.plan
        if isinstance(first, AllGoals):
            columns = zip(*(single_goals(goal) for goal in goals), strict=True)
            given = [goal.weights for goal in goals if isinstance(goal, AllGoals)]
            weights = torch.tensor([(1.0,) * len(first.goals) if w is None else w for w in given], dtype=torch.float32)
            return AllObjective(tuple(self._own_objective(list(column), mask) for column in columns), weights)
        if isinstance(first, ImageGoal | LatentGoal):
            encoded = [self._goal_state(goal, mask[row]) for row, goal in enumerate(goals)]
            states, goal_masks = (torch.stack(parts) for parts in zip(*encoded, strict=True))
            if in_part(first):
                weights = torch.stack([self._slot_weights(goal) for goal in goals])
                return PartObjective(states, goal_masks, mask, weights, plan)
            return StateObjective(states, goal_masks, mask, StateEnergy.of(self._model), self._near)
        if isinstance(first, TextGoal):
            texts = [goal.text for goal in goals if isinstance(goal, TextGoal)]
            return TextObjective(self._model.projector, self._model.text.encode(texts), self._near_text)
        wanted = torch.zeros(len(goals), len(self._card.labels))
        for row, goal in enumerate(goals):
            assert isinstance(goal, LabelGoal)
            wanted[row, [self._card.labels.index(name) for name in goal.labels]] = 1
        return LabelObjective(self._model.probe, wanted)

    def _goal_state(self, goal: Goal, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Planning state (S x d) and mask (S) of an image or stored goal.

        A stored state comes without a mask and is compared in the slots that hold something now (``mask``).
        """
        if isinstance(goal, LatentGoal):
            return torch.from_numpy(goal.state), mask
        assert isinstance(goal, ImageGoal)
        states, masks, _ = self._states_of([goal.frame])
        return states[0], masks[0]

    def _slot_weights(self, goal: Goal) -> Tensor:
        """How much each slot of a goal in part counts: S."""
        assert isinstance(goal, ImageGoal | LatentGoal)
        if isinstance(goal, ImageGoal) and goal.region is not None:
            return self._shares(goal.frame.tobytes(), goal.region)
        return torch.tensor(goal.slot_weights, dtype=torch.float32)

    def _slot_shares(self, picture: bytes, region: Region) -> Tensor:
        """See ``slot_shares``. Raises UserError when no slot shows anything of the region."""
        camera = self._robot.camera
        frame = np.frombuffer(picture, np.uint8).reshape(1, 1, camera.height, camera.width, 3)
        shares = slot_shares(self._model.backbone(normalise_frames(frame)), region, camera.height, camera.width)
        if not shares.any():
            raise UserError("goal.region: no slot of the goal picture shows anything of it; take a larger one")
        return shares

    def _avoid(self, cost: Cost) -> AvoidTerm | None:
        """What it costs to be where the robot must not be."""
        if not cost.avoid:
            return None
        places = torch.tensor([[float(label in place) for label in self._card.labels] for place in cost.avoid])
        return AvoidTerm(cost.avoid_weight, self._model.probe, places)

    def _prior_terms(self, now: _Present, objective: Objective) -> list[Term]:
        """What it costs to do what recorded episodes did not, and to imagine leaps, where that has a weight."""
        plan, world, terms = self._model.config.plan, self._model.world_model, list[Term]()
        if plan.behaviour_prior and objective.goal_states is not None:
            past = now.state, now.prev_state, now.prev_action
            terms.append(
                BehaviourPriorTerm(
                    plan.behaviour_prior, world.policy_prior, self._to_model, *past, objective.goal_states
                )
            )
        if plan.temporal_consistency and objective.goal_states is not None:
            terms.append(TemporalConsistencyTerm(plan.temporal_consistency, world.temporal_distance.embed, now.state))
        return terms

    def _terms(self, queries: list[PlanQuery], goal: GoalTerm, avoid: AvoidTerm | None) -> list[Term]:
        """What plans cost; the queries have the same cost."""
        cost = queries[0].cost
        late = self._model.config.plan.step_weight_exponent
        summed: Term = StepWeightedTerm(goal, late) if late else goal
        terms: list[Term] = [ClosestTerm(goal) if cost.over_steps == "closest" else summed]
        if cost.control:
            terms.append(ControlTerm(cost.control, torch.stack([self._hold(query) for query in queries])))
        return terms if avoid is None else [*terms, avoid]

    def _states_of(self, pictures: Sequence[NDArray[np.uint8]]) -> tuple[Tensor, Tensor, Tensor]:
        """States (N x S x d), masks (N x S) and what is strange (N) of single pictures; each is encoded only once."""
        keys = [picture.tobytes() for picture in pictures]
        new = {key: picture for key, picture in zip(keys, pictures, strict=True) if key not in self._pictures}
        if new:
            seen = self._see(np.stack(list(new.values()))[:, None])
            self._pictures.update(zip(new, zip(*(x[:, 0] for x in seen), strict=True), strict=True))
        known = [self._pictures[key] for key in keys]
        for key in keys:
            self._pictures.move_to_end(key)
        while len(self._pictures) > REMEMBERED_PICTURES:
            self._pictures.popitem(last=False)
        states, masks, out_of_distribution = (torch.stack(parts) for parts in zip(*known, strict=True))
        return states, masks, out_of_distribution

    def _ood_pictures(self, goal: Goal, now: bool) -> tuple[Picture, ...] | None:
        """Which pictures of a query are unlike those of the training; None where that is not known."""
        if self._ood is None:
            return None
        out_of_distribution: list[Picture] = ["frames"] if now else []
        pictures = [one.frame for one in single_goals(goal) if isinstance(one, ImageGoal)]
        if pictures and bool(self._states_of(pictures)[2].any()):
            out_of_distribution.append("goal")
        return tuple(out_of_distribution)

    def _hold(self, query: PlanQuery) -> Tensor:
        """The action that keeps the robot as it is: A in -1..1. Changes are zero; commands (a gripper's) stay."""
        action, last = self._robot.action.hold(), query.previous_actions
        if last is not None and len(last):
            absolute = list(self._robot.action.absolute)
            action[absolute] = last[0, absolute]
        return self._active(action)

    def _last_action(self, query: PlanQuery) -> Tensor:
        """What led to the last frame: A in -1..1. Without a plan that began with it, holding still."""
        last = query.previous_actions
        if last is None or not len(last) or len(query.frames) < 2:
            return self._hold(query)
        return self._active(last[0])

    def _first_mean(self, query: PlanQuery, horizon: int) -> Tensor:
        """The previous plan moved on by one step and filled up by holding still: H x A in -1..1."""
        mean = self._hold(query).repeat(horizon, 1)
        if query.previous_actions is not None:
            old = self._active(query.previous_actions[1 : horizon + 1])
            mean[: len(old)] = old
        return mean

    def _active(self, actions: NDArray[np.float32]) -> Tensor:
        """Full action vectors in robot units (... x dim) to the active dimensions in -1..1 (... x A)."""
        return self._to_unit(torch.from_numpy(actions[..., list(self._robot.action.active)]))

    def _to_unit(self, actions: Tensor) -> Tensor:
        """Robot units (active dimensions) to -1..1; a dimension of no width is 0."""
        return ((actions - self._centre) / self._half.clamp(min=1e-12)).clamp(-1, 1) * (self._half > 0)

    def _from_model(self, normal: Tensor) -> Tensor:
        """The model's normalised actions to -1..1, clipped."""
        return self._to_unit(normal * self._std + self._mean)

    def _to_model(self, unit: Tensor) -> Tensor:
        """-1..1 to the model's normalised actions."""
        return (self._centre + unit * self._half - self._mean) / self._std

    def _to_robot(self, unit: Tensor) -> NDArray[np.float32]:
        """-1..1 (H x A) to full action vectors in robot units, H x dim, inside the bounds."""
        spec = self._robot.action
        full = np.zeros((len(unit), spec.dim), np.float32)
        full[:, list(spec.active)] = (self._centre + unit * self._half).numpy()
        return np.clip(full, *spec.inner_bounds())


def load_planner(checkpoint: Path | str, threads: int | None = None) -> WorldModelPlanner:
    """Load a checkpoint for planning. ``threads`` sets torch's; the default leaves them as they are.

    Raises UserError when the checkpoint is missing, damaged, or has no action phase.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    planner = WorldModelPlanner(load_checkpoint(checkpoint))
    planner.compile()
    return planner


def _card(checkpoint: Checkpoint) -> ModelCard:
    model, trained = checkpoint.model, checkpoint.manifest.trained()
    plan = model.config.plan
    goals = ["image", "latent"]
    goals += ["text"] if "language" in trained else []
    goals += ["label"] if "probe" in trained else []
    return ModelCard(
        name=model.config.name,
        camera=model.robot.camera,
        action=model.robot.action,
        phases=trained,
        goals=tuple(goals),
        labels=model.robot.labels if "probe" in trained else (),
        history=model.backbone.encoder.history + 1,  # the dynamics needs the state before, with its own past
        state_shape=(model.config.model.backbone.slots, model.config.model.world_model.state_dim),
        search=SearchSettings(plan.candidates, plan.iterations, plan.horizon, plan.elites),
        parameters=sum(
            p.numel()
            for name, p in model.named_parameters()
            if not (name.startswith("target.") or checkpoint.manifest.lacks(name))
        ),
        fingerprint=checkpoint.fingerprint,
        pixel_mean=(PIXEL_MEAN,) * 3,
        pixel_std=(PIXEL_STD,) * 3,
    )


def _first_deadline(queries: list[PlanQuery]) -> float | None:
    return min((q.deadline for q in queries if q.deadline is not None), default=None)


def _unknown_words(goal: Goal, known: frozenset[str]) -> tuple[str, ...]:
    """A warning about the words of a text goal that no training caption had; none when those are not known."""
    said = [word for one in single_goals(goal) if isinstance(one, TextGoal) for word in tokenize(one.text)]
    unknown = dict.fromkeys(word for word in said if word not in known)
    return (f"unknown words: {', '.join(unknown)}; no training caption had them",) if known and unknown else ()
