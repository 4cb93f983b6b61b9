"""The task protocol: what a simulated robot must provide to be collected from, planned for and evaluated."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.errors import UserError
from hnet_vjepa.specs import ActionSpec, CameraSpec
from sims.core.language import LABELS, Placement
from sims.core.rendering import backend
from sims.core.variation import FACTORS, Factor, Variation

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

    def vary(self, variation: Variation) -> None:
        """Depart from how training looked and felt; strength 0 goes back. Called with factors of Task.factors only."""
        ...

    def close(self) -> None:
        """Give up the graphics context."""
        ...


@dataclass(frozen=True, kw_only=True)
class Task:
    """A simulated robot, its camera, how data is collected with it and what counts as success.

    ``data_policy(rng)`` makes the controller that collects one episode; it may be random or learnt.
    ``distance(state, goal)`` is 0 or more, in ``unit``, and all that success looks at: a task with two conditions
    returns the worse of the two, each as a share of what is allowed.

    Optional: a scripted expert. ``sample_goal(rng)`` draws a state to go to, and ``controller(goal)`` makes the
    controller that goes there knowing the true state; where an object must be moved, it moves it. Goals are then where
    it arrives, and it is the ceiling. Without one, goals are where the data policy leads, and there is no ceiling.
    ``place(state)`` says where ``subject`` is as seen in the picture; without it the task has neither captions nor
    labels. ``start(simulation, rng)`` puts robot and objects into
    a random configuration after a reset, where more than ``walk`` is needed. ``renderer``: what draws the frames;
    'mujoco' stands for the backend that sims.core.rendering chooses.
    """

    name: str
    description: str
    licence: str
    action: ActionSpec
    camera: CameraSpec
    states: tuple[str, ...]
    open: Callable[[], Simulation]
    data_policy: Callable[[np.random.Generator], Controller]
    distance: Callable[[State, State], float]
    sample_goal: Callable[[np.random.Generator], State] | None = None
    controller: Callable[[State], Controller] | None = None
    place: Callable[[State], Placement] | None = None
    start: Callable[[Simulation, np.random.Generator], None] | None = None
    subject: str = "gripper"
    labels: tuple[str, ...] = LABELS
    unit: str = "m"
    tolerances: tuple[float, ...] = (0.05, 0.03, 0.02)  # in ``unit``, from loose to strict
    min_goal_distance: float = 0.08  # between an evaluation's start and its goal
    collect_frames: int = 26  # of an episode: what the script takes and a little; a robot that rests teaches little
    settle_steps: int = 14  # steps of ``walk``, which reach any configuration of the workspace
    evaluation_steps: int = 15
    interval: int = 1  # steps of the underlying environment in one action
    factors: tuple[Factor, ...] = FACTORS
    needs: str = ""  # the command that installs what it needs besides this package
    renderer: str = "mujoco"

    def __post_init__(self) -> None:
        if (self.sample_goal is None) != (self.controller is None):
            raise UserError(f"task {self.name}: sample_goal and controller belong together; give both or neither")
        if self.place is None:
            object.__setattr__(self, "labels", ())  # nothing says which of them hold

    def drawn_by(self) -> str:
        """What draws the frames on this machine, for records of how data and results came about."""
        return backend() if self.renderer == "mujoco" else self.renderer


def walk(task: Task, simulation: Simulation, rng: np.random.Generator) -> State:
    """Go from where things are to somewhere at random, and return the state there.

    The scripted controller goes to a random goal; without one, the data policy goes where it does. The robot goes there
    by itself, so that the configuration is one it can be in; an arm with more joints than it needs arrives in different
    postures.
    """
    if task.controller is None or task.sample_goal is None:
        control = task.data_policy(rng)
    else:
        control = task.controller(task.sample_goal(rng))
    for _ in range(task.settle_steps):
        simulation.step(control(simulation.state()))
    return simulation.state()


def scatter(task: Task, simulation: Simulation, rng: np.random.Generator) -> State:
    """Reset, go to a random configuration of the workspace, and return the state there."""
    simulation.reset()
    if task.start is None:
        return walk(task, simulation, rng)
    task.start(simulation, rng)
    return simulation.state()
