"""What a task must hold before anything is collected with it: ``hnet sims check``."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.errors import UserError
from sims.core.task import Simulation, Task, scatter
from sims.evaluation.evaluate import criteria_of, play
from sims.evaluation.pairs import Pair, make_pairs
from sims.evaluation.policies import Policy, RandomPolicy, ceilings

STEPS = 6  # actions after which two ways are compared
STARTS = 3  # random configurations that are tried
SEEN = 8  # of 255: a pixel that changes by more is said to change
EASY, HARD = 0.5, 0.8  # random actions must reach fewer goals than EASY, a scripted controller at least HARD

Trace = tuple[NDArray[np.uint8], NDArray[np.float32]]  # frames T x H x W x 3, states T x S


@dataclass(frozen=True)
class Finding:
    """One property, whether it holds, and what was measured."""

    name: str
    holds: bool
    measured: str


def check_task(task: Task, pairs: int = 20) -> Iterator[Finding]:
    """Check a task, one property after another; floor and ceiling on ``pairs`` dev pairs.

    Later properties are not looked at when frames, states or actions have another form than the task says.
    """
    with contextlib.closing(task.open()) as simulation:
        form = _form(task, simulation)
        yield form
        if not form.holds:
            return
        actions = [_recorded(task, simulation, seed) for seed in range(STARTS)]
        yield _restores(task, simulation, actions)
        before = [_from_reset(simulation, each) for each in actions]
        yield _repeats("determinism, after a reset", simulation, actions, before)
    with contextlib.closing(task.open()) as simulation:
        yield _repeats("determinism, opened again", simulation, actions, before)
        yield _visible(task, simulation)
        yield from _bounds(task, simulation, pairs)


def _form(task: Task, simulation: Simulation) -> Finding:
    frame, state = simulation.frame(), simulation.state()
    action = np.asarray(task.data_policy(np.random.default_rng(0))(state))
    wanted = (task.camera.height, task.camera.width, 3), len(task.states), task.action.dim
    found = frame.shape, len(state), len(action) if action.ndim == 1 else action.shape
    holds = found == wanted and frame.dtype == np.uint8 and bool(np.isfinite(state).all())
    shown = f"frame {frame.dtype} {frame.shape}, {len(state)} state numbers, action {action.shape}"
    return Finding("form", holds, shown if holds else f"{shown}; the task says {wanted[0]}, {wanted[1]}, {wanted[2]}")


def _recorded(task: Task, simulation: Simulation, seed: int) -> NDArray[np.float32]:
    """Actions of the data policy in one episode: STEPS x dim."""
    rng = np.random.default_rng(seed)
    scatter(task, simulation, rng)
    act, done = task.data_policy(rng), []
    for _ in range(STEPS):
        action = np.clip(act(simulation.state()), task.action.low, task.action.high).astype(np.float32)
        simulation.step(action)
        done.append(action)
    return np.stack(done)


def _trace(simulation: Simulation, actions: NDArray[np.float32]) -> Trace:
    frames, states = [simulation.frame()], [simulation.state()]
    for action in actions:
        simulation.step(action)
        frames.append(simulation.frame())
        states.append(simulation.state())
    return np.stack(frames), np.stack(states)


def _from_reset(simulation: Simulation, actions: NDArray[np.float32]) -> Trace:
    simulation.reset()
    return _trace(simulation, actions)


def _difference(one: Trace, other: Trace) -> tuple[int, float]:
    """How many pixels differ, and by how much the states do at most."""
    return int((one[0] != other[0]).any(-1).sum()), float(np.abs(one[1] - other[1]).max())


def _compared(name: str, differences: list[tuple[int, float]]) -> Finding:
    pixels, state = max(d[0] for d in differences), max(d[1] for d in differences)
    same = not pixels and not state
    shown = f"{pixels} pixels differ, states by up to {state:.3g}"
    return Finding(name, same, f"bit for bit over {STEPS} actions" if same else shown)


def _restores(task: Task, simulation: Simulation, actions: list[NDArray[np.float32]]) -> Finding:
    """Whether the same actions from a restored configuration lead to the same, also from somewhere else."""
    found = []
    for seed, each in enumerate(actions):
        scatter(task, simulation, np.random.default_rng(100 + seed))
        saved = simulation.save()
        first = _trace(simulation, each)
        simulation.restore(saved)
        found.append(_difference(first, _trace(simulation, each)))
        scatter(task, simulation, np.random.default_rng(200 + seed))
        simulation.restore(saved)
        found.append(_difference(first, _trace(simulation, each)))
    return _compared("save and restore", found)


def _repeats(name: str, simulation: Simulation, actions: list[NDArray[np.float32]], before: list[Trace]) -> Finding:
    again = [_from_reset(simulation, each) for each in actions]
    return _compared(name, [_difference(one, other) for one, other in zip(before, again, strict=True)])


def _visible(task: Task, simulation: Simulation) -> Finding:
    """How many pixels one action of the data policy changes."""
    counts = []
    for seed in range(STARTS):
        scatter(task, simulation, np.random.default_rng(seed))
        frames, _ = _trace(simulation, _recorded(task, simulation, seed))
        counts += [int((np.abs(np.diff(pair.astype(int), axis=0)) > SEEN).any(-1).sum()) for pair in _pairwise(frames)]
    middle = int(np.median(counts))
    of = task.camera.height * task.camera.width
    advice = "" if middle else "; repeat the action, allow a larger one, or move the camera nearer"
    return Finding("an action shows", middle > 0, f"it changes {middle} of {of} pixels (median){advice}")


def _pairwise(frames: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    return (frames[t : t + 2] for t in range(len(frames) - 1))


def _bounds(task: Task, simulation: Simulation, count: int) -> Iterator[Finding]:
    """Goals can be drawn; random actions reach few of them, and the scripted controller, if there is one, most."""
    try:
        pairs: list[Pair] = make_pairs(task, simulation, "dev", 0, count, "image", progress=False)
    except UserError as error:
        yield Finding("goals", False, str(error))
        return
    redrawn = sum(pair.excluded for pair in pairs)
    yield Finding("goals", True, f"{count} pairs drawn, {redrawn} rejected because start and goal were too near")
    criterion = criteria_of(task, "image")[0]

    def reached(policy: Policy) -> float:
        result = play(task, simulation, policy, pairs, task.evaluation_steps, progress=False)
        return float(result.rates(0)["end"].value)

    floor = reached(RandomPolicy(task))
    yield Finding("floor", floor < EASY, f"random actions end within {criterion} of {floor:.0%} of the goals")
    for policy in ceilings(task):
        ceiling = reached(policy)
        yield Finding("ceiling", ceiling >= HARD, f"the scripted controller ends there in {ceiling:.0%}")
