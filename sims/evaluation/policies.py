"""The methods that an evaluation compares: a planner (local or remote), the random floor, and ceilings."""

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
    """What a policy decides on. Only the scripted controller uses ``state``, the simulator's true state."""

    frames: NDArray[np.uint8]  # T x H x W x 3, all frames since the start; the last is the present
    state: State


@dataclass(frozen=True)
class Decision:
    """The next action, whether the policy reports the goal as reached, and its latency (None: it does not plan)."""

    action: Action
    reached: bool = False
    plan_ms: float | None = None
    server_ms: dict[str, float] | None = None  # as reported by the server
    energy: float | None = None  # of the present state, in the model's own units


Actor = Callable[[Observation], Decision]


class Policy(Protocol):
    """A method. ``begin`` makes the actor of one episode, which may keep state between steps."""

    @property
    def name(self) -> str:
        """Its name in tables."""
        ...

    def begin(self, pair: Pair) -> Actor:
        """Start an episode towards ``pair.goal``."""
        ...


@dataclass(frozen=True)
class Answer:
    """Reply of a planner: actions (H x dim), whether the goal is reached, timings, and the present energy."""

    actions: NDArray[np.float32]
    reached: bool
    server_ms: dict[str, float]
    energy: float | None = None


Ask = Callable[[NDArray[np.uint8], Goal, int, NDArray[np.float32] | None], Answer]


@dataclass(frozen=True)
class PlannerPolicy:
    """Replans at every step and executes the first action; the previous plan warm-starts the next search.

    ``frames``: number of frames that the planner uses; older ones are not sent.
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
    """The policy that queries a service, as a robot would. Its latency is measured here, network included."""

    def ask(frames: NDArray[np.uint8], goal: Goal, seed: int, previous: NDArray[np.float32] | None) -> Answer:
        try:
            reply = client.plan(frames, goal, seed=seed, previous_actions=previous, deadline_ms=deadline_ms)
        except PlanError as error:
            raise UserError(f"the planner refused a request of the evaluation: {error}") from error
        return Answer(reply.actions, reply.reached, reply.timing_ms, reply.energy_now)

    return PlannerPolicy("planner", ask, card.history + 1)


def local_planner(planner: Planner, deadline_ms: float | None = None) -> PlannerPolicy:
    """The policy that plans in this process."""

    def ask(frames: NDArray[np.uint8], goal: Goal, seed: int, previous: NDArray[np.float32] | None) -> Answer:
        deadline = None if deadline_ms is None else time.monotonic() + deadline_ms / 1e3
        [result] = planner.plan([PlanQuery(frames, goal, seed=seed, previous_actions=previous, deadline=deadline)])
        return Answer(result.actions, result.reached, result.timing_ms, result.energy_now)

    return PlannerPolicy("planner", ask, planner.card.history + 1)


@dataclass(frozen=True)
class RandomPolicy:
    """The floor: actions uniform within the robot's bounds, the same for the same pair."""

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
    """The ceiling: the task's scripted controller, which is given the true state of robot and goal."""

    task: Task
    name: str = "scripted"

    def begin(self, pair: Pair) -> Actor:
        """Start an episode. The task must have a controller."""
        assert self.task.controller is not None
        control = self.task.controller(pair.goal_state)
        return lambda seen: Decision(control(seen.state))


def ceilings(task: Task) -> list[Policy]:
    """The scripted controller, where the task has one."""
    return [] if task.controller is None else [ScriptedPolicy(task)]


@dataclass(frozen=True)
class ReplayPolicy:
    """The ceiling for goals at a distance: the recorded actions that led to the goal, then holding still.

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
    """Raise UserError when a model was trained for another robot or camera, or does not take this kind of goal."""
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
