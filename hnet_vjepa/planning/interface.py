"""The planner's interface: queries, results and the model card. Imports no torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.specs import ActionSpec, CameraSpec

Picture = Literal["frames", "goal"]
"""Which picture of a query: the last of its frames, or the goal's."""


@dataclass(frozen=True)
class Goal:
    """What a plan is to reach. Every kind of goal (planning.goals) is a subclass."""


@dataclass(frozen=True)
class SearchSettings:
    """Size of the search; ``planning.checks.check_search`` validates it."""

    candidates: int = 64
    iterations: int = 5
    horizon: int = 4
    elites: int = 8


@dataclass(frozen=True)
class Cost:
    """The cost that the search minimises, on the scale of the goal's energies.

    ``over_steps``: the sum of the energies after all actions, or the closest approach alone. ``control``: cost of an
    action that differs by half the range from holding still, per dimension; it grows with the square. ``avoid``: places
    that no imagined state shall be in; a place is where all of its labels hold. ``avoid_weight``: cost of every
    imagined state that is in one with probability 1.
    """

    over_steps: Literal["sum", "closest"] = "sum"
    control: float = 0.0
    avoid: tuple[tuple[str, ...], ...] = ()
    avoid_weight: float = 10.0


@dataclass(frozen=True)
class PlanQuery:
    """One request for a plan."""

    frames: NDArray[np.uint8]  # T x H x W x 3, oldest first, the last one is now
    goal: Goal
    seed: int = 0
    previous_actions: NDArray[np.float32] | None = None  # H x dim, the last plan; its first action was executed
    deadline: float | None = None  # time.monotonic() at which the best plan so far is returned
    search: SearchSettings | None = None  # None: the checkpoint's own
    cost: Cost = Cost()


@dataclass(frozen=True)
class PlanResult:
    """The best action sequence that was found, and the outcome that the model predicts."""

    actions: NDArray[np.float32]  # H x dim; all zero when the goal is reached
    energies: NDArray[np.float32]  # H, the energy to the goal after each action
    energy_now: float
    reached: bool
    iterations: int  # of the search; 0 when the goal is reached
    state: NDArray[np.float32]  # S x d, the planning state now
    timing_ms: dict[str, float] = field(default_factory=dict)  # encode, plan
    warnings: tuple[str, ...] = ()  # reasons to doubt the plan, one sentence each
    success: float | None = None  # probability of being at the goal when the plan ends; None where not calibrated
    ood: tuple[Picture, ...] | None = None  # out-of-distribution pictures; None where that is not known
    avoid_probability: NDArray[np.float32] | None = None  # H, of being in a place to avoid; None: none was named


@dataclass(frozen=True)
class ModelCard:
    """What a client must know of a loaded model to send queries."""

    name: str
    camera: CameraSpec
    action: ActionSpec
    phases: tuple[str, ...]  # trained, in order
    goals: tuple[str, ...]  # of image, text, label, latent
    labels: tuple[str, ...]
    history: int  # past frames that the model can use; more are ignored
    state_shape: tuple[int, int]
    search: SearchSettings
    parameters: int
    fingerprint: str  # of the checkpoint
    pixel_mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    pixel_std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    task: str = ""  # the task or the format that its last phase's episodes came from; empty: not known


class Planner(Protocol):
    """Answers plan queries in batches; ``planning.planner.load_planner`` makes one from a checkpoint."""

    @property
    def card(self) -> ModelCard:
        """The model's card."""
        ...

    def check(self, query: PlanQuery) -> None:
        """Raise UserError when a query can not be answered: wrong image, unknown label, goal kind not trained."""
        ...

    def plan(self, queries: list[PlanQuery]) -> list[PlanResult]:
        """Answer all queries, together in one batch, in their order. Raises UserError as ``check`` does."""
        ...
