"""What a planner is asked and what it answers: the contract between the world model and those who use its plans."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.planning.goals.base import Goal
from hnet_vjepa.specs import ActionSpec, CameraSpec

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
    ood: tuple[Picture, ...] | None = None  # out-of-distribution pictures; None where that is not known
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
