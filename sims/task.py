"""What a simulated robot must say of itself to be collected from, planned for and judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.specs import ActionSpec, CameraSpec
from sims.language import LABELS, Placement

State = NDArray[np.float32]  # S numbers, named by Task.states
Action = NDArray[np.float32]  # dim numbers in the robot's own units
Controller = Callable[[State], Action]


class Simulation(Protocol):
    """One running robot. Nothing in it is random: what happens follows from the actions alone."""

    def reset(self) -> None:
        """Go to the one initial configuration."""
        ...

    def step(self, action: Action) -> None:
        """Do one action (dim numbers, the robot's own units; clipped to its bounds) for one control interval."""
        ...

    def frame(self) -> NDArray[np.uint8]:
        """Return the camera's picture now, H x W x 3."""
        ...

    def state(self) -> State:
        """Return the numbers that Task.states names."""
        ...

    def save(self) -> NDArray[np.float64]:
        """Return everything that the future depends on."""
        ...

    def restore(self, saved: NDArray[np.float64]) -> None:
        """Go back exactly to what ``save`` returned."""
        ...

    def close(self) -> None:
        """Give up the graphics context."""
        ...


@dataclass(frozen=True)
class Task:
    """A simulated robot, its camera, how data is collected with it and what counts as success.

    ``data_policy(rng)`` makes the controller that collects one episode; ``sample_goal(rng)`` draws a state to go to;
    ``controller(goal)`` makes the scripted controller that goes there knowing the true state (the ceiling);
    ``distance(state, goal)`` is in metres; ``place(state)`` says where the robot is as seen in the picture.
    """

    name: str
    description: str
    licence: str
    action: ActionSpec
    camera: CameraSpec
    states: tuple[str, ...]
    open: Callable[[], Simulation]
    data_policy: Callable[[np.random.Generator], Controller]
    sample_goal: Callable[[np.random.Generator], State]
    controller: Callable[[State], Controller]
    distance: Callable[[State, State], float]
    place: Callable[[State], Placement]
    labels: tuple[str, ...] = LABELS
    tolerances: tuple[float, ...] = (0.05, 0.03, 0.02)  # metres, from loose to strict
    min_goal_distance: float = 0.08  # metres between an evaluation's start and its goal
    collect_frames: int = 26
    settle_steps: int = 14  # scripted steps that reach any configuration of the workspace
    evaluation_steps: int = 15


def scatter(task: Task, simulation: Simulation, rng: np.random.Generator) -> State:
    """Move from where the robot is to a random configuration of the workspace, and return the state there.

    The robot goes there by itself, so that the configuration is one it can be in; an arm with more joints than it needs
    arrives in different postures.
    """
    control = task.controller(task.sample_goal(rng))
    for _ in range(task.settle_steps):
        simulation.step(control(simulation.state()))
    return simulation.state()
