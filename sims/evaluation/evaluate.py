"""Closed-loop evaluation: every method plays the same pairs, and the simulator's true state decides on success."""

from __future__ import annotations

import datetime
import platform
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.utils.progress import show_progress
from sims.core.task import Simulation, Task
from sims.evaluation.pairs import GoalKind, Pair, Split, fulfils
from sims.evaluation.policies import Observation, Policy
from sims.evaluation.results import EvaluationResult, MethodResult, Rollout
from sims.evaluation.units import length

GOAL_LABELS = "goal labels"  # the criterion of text and label goals: that the labels they ask for hold
RECORDED = 200  # episodes of a method whose frames are kept, to choose successes and failures from


def criteria_of(task: Task, kind: GoalKind) -> tuple[str, ...]:
    """Names of the success criteria: distances for image goals; for text and labels, that the required labels hold."""
    return tuple(length(t, task.unit) for t in task.tolerances) if kind == "image" else (GOAL_LABELS,)


def roll_out(task: Task, simulation: Simulation, policy: Policy, pair: Pair, steps: int, keep_frames: bool) -> Rollout:
    """Play one pair for ``steps`` actions and measure the true state after each. ``keep_frames``: in the result."""
    simulation.restore(pair.start)
    act = policy.begin(pair)
    frames, states, decisions = [simulation.frame()], [simulation.state()], []
    for _ in range(steps):
        decision = act(Observation(np.stack(frames), states[-1]))
        simulation.step(decision.action)
        decisions.append(decision)
        frames.append(simulation.frame())
        states.append(simulation.state())
    distances = [task.distance(state, pair.goal_state) for state in states]
    server = [d.server_ms for d in decisions if d.server_ms]
    return Rollout(
        pair=pair.index,
        seed=pair.seed,
        distances=tuple(distances),
        met=tuple(_met(task, pair, state, d) for state, d in zip(states, distances, strict=True)),
        plan_ms=tuple(d.plan_ms for d in decisions if d.plan_ms is not None),
        server_ms={key: float(np.mean([s[key] for s in server])) for key in (server[0] if server else ())},
        believed=tuple(d.reached for d in decisions),
        energies=tuple(d.energy for d in decisions if d.energy is not None),
        frames=np.stack(frames) if keep_frames else None,
    )


def _met(task: Task, pair: Pair, state: NDArray[np.float32], distance: float) -> tuple[bool, ...]:
    if pair.required:
        return (fulfils(task, state, pair.required),)
    return tuple(distance <= tolerance for tolerance in task.tolerances)


def play(
    task: Task,
    simulation: Simulation,
    policy: Policy,
    pairs: Sequence[Pair],
    steps: int,
    recorded: int = 0,
    progress: bool = True,
) -> MethodResult:
    """Let one policy play every pair, one episode after another so that latencies are those of a single robot.

    One plan is made before and discarded, so that one-off set-up costs are not measured. ``recorded``: number of
    episodes whose frames are kept.
    """
    simulation.restore(pairs[0].start)
    policy.begin(pairs[0])(Observation(simulation.frame()[None], simulation.state()))
    shown = show_progress(pairs, policy.name, "episode", progress)
    rollouts = (
        roll_out(task, simulation, policy, pair, steps, keep_frames=i < recorded) for i, pair in enumerate(shown)
    )
    return MethodResult(policy.name, tuple(rollouts))


def evaluate(
    task: Task,
    simulation: Simulation,
    policies: Sequence[Policy],
    pairs: Sequence[Pair],
    split: Split,
    seed: int,
    kind: GoalKind,
    conditions: dict[str, str] | None = None,
    progress: bool = True,
    steps: int | None = None,
    distance: int | None = None,
) -> EvaluationResult:
    """Let every policy play every pair.

    ``conditions``: further facts to record (model, server). ``steps``: actions per episode, by default the task's.
    ``distance``: the goal distance that the pairs were drawn with, in steps of the environment.
    """
    steps = task.evaluation_steps if steps is None else steps
    methods = tuple(play(task, simulation, policy, pairs, steps, RECORDED, progress) for policy in policies)
    return EvaluationResult(
        task=task.name,
        split=split,
        seed=seed,
        goal=kind,
        distance=distance,
        criteria=criteria_of(task, kind),
        unit=task.unit,
        steps=steps,
        excluded=sum(pair.excluded for pair in pairs),
        methods=methods,
        conditions={
            **(conditions or {}),
            "renderer": task.drawn_by(),
            "machine": f"{platform.machine()}, Python {platform.python_version()}",
            "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        },
    )
