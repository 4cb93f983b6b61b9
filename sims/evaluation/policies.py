"""The methods that an evaluation compares: a planner, here or behind a URL, the random floor, and ceilings."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.interface import Goal, ModelCard, Planner, PlanQuery
from planner_service.client import PlanError, PlannerClient
from sims.core.seeds import generator
from sims.core.task import Action, State, Task
from sims.evaluation.pairs import Pair


@dataclass(frozen=True)
class Observation:
    """What there is to decide on. Only the scripted controller looks at ``state``, the simulator's own truth."""

    frames: NDArray[np.uint8]  # T x H x W x 3, all frames since the start, the last one is now
    state: State


@dataclass(frozen=True)
class Decision:
    """The action to do now, whether the policy believes to have arrived, and how long it thought (None: it did not)."""

    action: Action
    reached: bool = False
    plan_ms: float | None = None
    server_ms: dict[str, float] | None = None  # as the server says
    energy: float | None = None  # how far from the goal the model believes to be now, in its own scale


Actor = Callable[[Observation], Decision]


class Policy(Protocol):
    """A method. ``begin`` makes the decider for one episode, which may remember what it planned before."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    def begin(self, pair: Pair) -> Actor:
        """Start an episode towards ``pair.goal``."""
        ...


@dataclass(frozen=True)
class Answer:
    """What both kinds of planner give: actions (H x dim), whether the goal is reached, and the energy to it now."""

    actions: NDArray[np.float32]
    reached: bool
    server_ms: dict[str, float]
    energy: float | None = None


Ask = Callable[[NDArray[np.uint8], Goal, int, NDArray[np.float32] | None], Answer]


@dataclass(frozen=True)
class PlannerPolicy:
    """Plans anew at every step and does the first action; the previous plan starts the next search.

    ``frames`` is how many frames the planner can use: more are not sent.
    """

    name: str
    ask: Ask
    frames: int

    def begin(self, pair: Pair) -> Actor:
        """Start an episode. The search's seed follows from the pair and the step, so an episode can be repeated."""
        previous: NDArray[np.float32] | None = None
        step = 0

        def act(seen: Observation) -> Decision:
            nonlocal previous, step
            seed = pair.index * 1000 + step
            started = time.perf_counter()
            answer = self.ask(seen.frames[-self.frames :], pair.goal, seed, previous)
            elapsed = (time.perf_counter() - started) * 1e3
            previous, step = answer.actions, step + 1
            return Decision(answer.actions[0], answer.reached, elapsed, answer.server_ms, answer.energy)

        return act


def remote_planner(client: PlannerClient, card: ModelCard, deadline_ms: float | None = None) -> PlannerPolicy:
    """Make the policy that asks a service, as a robot would. Its latency is measured here, network included."""

    def ask(frames: NDArray[np.uint8], goal: Goal, seed: int, previous: NDArray[np.float32] | None) -> Answer:
        try:
            reply = client.plan(frames, goal, seed=seed, previous_actions=previous, deadline_ms=deadline_ms)
        except PlanError as error:
            raise UserError(f"the planner refused a request of the evaluation: {error}") from error
        return Answer(reply.actions, reply.reached, reply.timing_ms, reply.energy_now)

    return PlannerPolicy("planner", ask, card.history + 1)


def local_planner(planner: Planner, deadline_ms: float | None = None) -> PlannerPolicy:
    """Make the policy that plans in this process."""

    def ask(frames: NDArray[np.uint8], goal: Goal, seed: int, previous: NDArray[np.float32] | None) -> Answer:
        deadline = None if deadline_ms is None else time.monotonic() + deadline_ms / 1e3
        [result] = planner.plan([PlanQuery(frames, goal, seed=seed, previous_actions=previous, deadline=deadline)])
        return Answer(result.actions, result.reached, result.timing_ms, result.energy_now)

    return PlannerPolicy("planner", ask, planner.card.history + 1)


@dataclass(frozen=True)
class RandomPolicy:
    """The floor: actions drawn evenly from the robot's bounds, the same for the same pair."""

    task: Task
    name: str = "random"

    def begin(self, pair: Pair) -> Actor:
        """Start an episode."""
        rng = generator(pair.seed).spawn(2)[1]
        spec = self.task.action

        def act(_: Observation) -> Decision:
            return Decision(rng.uniform(spec.low, spec.high).astype(np.float32))

        return act


@dataclass(frozen=True)
class ScriptedPolicy:
    """The ceiling: the task's own controller, which knows the true positions of robot and goal."""

    task: Task
    name: str = "scripted"

    def begin(self, pair: Pair) -> Actor:
        """Start an episode."""
        control = self.task.controller(pair.goal_state)
        return lambda seen: Decision(control(seen.state))


@dataclass(frozen=True)
class ReplayPolicy:
    """The ceiling of goals at a distance: the recorded actions that led to the goal, then holding still.

    The simulation is deterministic, so it is exactly at the goal when the recording ends.
    """

    task: Task
    name: str = "replay"

    def begin(self, pair: Pair) -> Actor:
        """Start an episode. The pair must have been drawn with a distance."""
        assert pair.actions is not None
        spec, recorded = self.task.action, pair.actions
        hold = np.zeros(spec.dim, np.float32)  # changes are zero; commands (a gripper's) stay
        hold[list(spec.absolute)] = recorded[-1][list(spec.absolute)]
        left = iter([*recorded])
        return lambda _: Decision(next(left, np.clip(hold, spec.low, spec.high).astype(np.float32)))


def check_card(task: Task, card: ModelCard, kind: str) -> None:
    """Raise UserError when a model was made for another robot or camera, or does not take goals of this kind."""
    if (card.camera.height, card.camera.width) != (task.camera.height, task.camera.width):
        raise UserError(
            f"the model was trained on {card.camera.height} x {card.camera.width} pictures; "
            f"{task.name} gives {task.camera.height} x {task.camera.width}"
        )
    if card.action.names != task.action.names or card.action.active != task.action.active:
        raise UserError(
            f"the model plans the actions {card.action.active} of {', '.join(card.action.names)}; "
            f"{task.name} takes {task.action.active} of {', '.join(task.action.names)}"
        )
    if kind not in card.goals:
        raise UserError(f"the model takes no {kind} goals; it was trained for: {', '.join(card.goals)}")
