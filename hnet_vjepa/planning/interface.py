"""What a planner is asked and what it answers: the contract between the world model and those who use its plans."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.specs import ActionSpec, CameraSpec

LARGEST = 1e6  # of a stored state's numbers and of weights; what is usual is of the order of 1


@dataclass(frozen=True)
class Region:
    """A rectangle of a picture in pixels: columns x0 up to x1 and rows y0 up to y1, x1 and y1 not included."""

    x0: int
    y0: int
    x1: int
    y1: int


@dataclass(frozen=True)
class ImageGoal:
    """Reach the state that this picture shows, or, of it, what ``region`` or ``slot_weights`` say.

    ``frame``: H x W x 3 uint8, from the robot's own camera. ``slot_weights``: S numbers, how much each slot of the
    planning state counts. ``region``: only what is seen there counts; the weights follow from it.
    """

    frame: NDArray[np.uint8]
    region: Region | None = None
    slot_weights: tuple[float, ...] | None = None


@dataclass(frozen=True)
class TextGoal:
    """Reach a state of which this sentence is true."""

    text: str


@dataclass(frozen=True)
class LabelGoal:
    """Reach a state in which all of these labels hold."""

    labels: tuple[str, ...]


@dataclass(frozen=True)
class LatentGoal:
    """Reach a stored planning state. ``state``: S x d float32, as PlanResult.state gave it; weights as in ImageGoal."""

    state: NDArray[np.float32]
    slot_weights: tuple[float, ...] | None = None


SingleGoal = ImageGoal | TextGoal | LabelGoal | LatentGoal


@dataclass(frozen=True)
class AllGoals:
    """Reach a state that is good by all of several goals: their energies are added, each times its weight.

    ``weights``: one for each goal, by default 1. Energies of different kinds are on different scales.
    """

    goals: tuple[SingleGoal, ...]
    weights: tuple[float, ...] | None = None


Goal = SingleGoal | AllGoals


def single_goals(goal: Goal) -> tuple[SingleGoal, ...]:
    """The goals that a goal consists of: itself, or the several."""
    return goal.goals if isinstance(goal, AllGoals) else (goal,)


def goal_kind(goal: Goal) -> tuple[str, ...]:
    """What goals have in common that one computation can work on."""
    if isinstance(goal, AllGoals):
        return ("all", *(kind for one in goal.goals for kind in goal_kind(one)))
    names = {ImageGoal: "state", LatentGoal: "state", TextGoal: "text", LabelGoal: "label"}
    return ("part of a state" if in_part(goal) else names[type(goal)],)


def in_part(goal: SingleGoal) -> bool:
    """Whether only a part of a goal's state counts."""
    return (isinstance(goal, ImageGoal) and goal.region is not None) or (
        isinstance(goal, ImageGoal | LatentGoal) and goal.slot_weights is not None
    )


Picture = Literal["frames", "goal"]
"""A picture of a query: the last of its frames, or that of its goal."""


@dataclass(frozen=True)
class SearchSettings:
    """How hard the search works. Raises nothing itself; hnet_vjepa.planning.cem checks the values."""

    candidates: int = 64
    iterations: int = 5
    horizon: int = 4
    elites: int = 8


@dataclass(frozen=True)
class Cost:
    """What the search makes of the energies of imagined states, and what a plan costs besides.

    ``over_steps``: the energies after all actions are added up, or only the closest approach counts. ``control``: cost
    of an action that differs by half the range from holding still, in each dimension; it grows with the square.
    ``avoid``: places that no imagined state shall be in; a place is where all of its labels hold. ``avoid_weight``:
    cost of every imagined state that is surely in one. Costs are on the scale of the goal's energies.
    """

    over_steps: Literal["sum", "closest"] = "sum"
    control: float = 0.0
    avoid: tuple[tuple[str, ...], ...] = ()
    avoid_weight: float = 10.0


@dataclass(frozen=True)
class PlanQuery:
    """One question: where the robot is, where it shall go, and how long the answer may take."""

    frames: NDArray[np.uint8]  # T x H x W x 3, oldest first, the last one is now
    goal: Goal
    seed: int = 0
    previous_actions: NDArray[np.float32] | None = (
        None  # H x dim, the last plan; its first action led to the last frame
    )
    deadline: float | None = None  # time.monotonic() at which the best plan so far must be given
    search: SearchSettings | None = None  # None: the checkpoint's own
    cost: Cost = Cost()


@dataclass(frozen=True)
class PlanResult:
    """The best action sequence found, in the robot's own units, and what the model expects of it."""

    actions: NDArray[np.float32]  # H x dim; all zero when the goal is reached
    energies: NDArray[np.float32]  # H, the energy to the goal after each action
    energy_now: float
    reached: bool
    iterations: int  # rounds of the search; 0 when the goal is reached
    state: NDArray[np.float32]  # S x d, the planning state now
    timing_ms: dict[str, float] = field(default_factory=dict)  # encode, plan
    warnings: tuple[str, ...] = ()  # sentences: why the plan may not be what was meant
    success: float | None = None  # probability of standing at the goal when the plan ends; None where not calibrated
    unfamiliar: tuple[Picture, ...] | None = None  # pictures unlike those of the training; None where that is not known
    avoid_probability: NDArray[np.float32] | None = None  # H, of being where the query said to avoid; None: it did not


@dataclass(frozen=True)
class ModelCard:
    """What a client must know of a loaded model to talk to it."""

    name: str
    camera: CameraSpec
    action: ActionSpec
    phases: tuple[str, ...]  # trained, in order
    goals: tuple[str, ...]  # of image, text, label, latent
    labels: tuple[str, ...]
    history: int  # frames of past that the model can use; more are ignored
    state_shape: tuple[int, int]
    search: SearchSettings
    parameters: int
    fingerprint: str  # of the checkpoint
    pixel_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    pixel_std: tuple[float, float, float] = (0.5, 0.5, 0.5)


class Planner(Protocol):
    """Anything that answers plan queries in batches; ``hnet_vjepa.planning.planner.load_planner`` makes one."""

    @property
    def card(self) -> ModelCard:
        """What the model is."""
        ...

    def check(self, query: PlanQuery) -> None:
        """Raise UserError when a query can not be answered: wrong image, unknown label, goal kind not trained."""
        ...

    def plan(self, queries: list[PlanQuery]) -> list[PlanResult]:
        """Answer all queries, together in one batch, in their order. Raises UserError as ``check`` does."""
        ...
