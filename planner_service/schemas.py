"""The JSON that goes over the wire. The OpenAPI page is made from this file, so the descriptions are the manual."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from hnet_vjepa.errors import FieldError
from hnet_vjepa.planning.goals.checks import LARGEST
from hnet_vjepa.planning.goals.combined import AllGoals
from hnet_vjepa.planning.goals.label import LabelGoal
from hnet_vjepa.planning.goals.region import Region
from hnet_vjepa.planning.goals.state import ImageGoal, LatentGoal
from hnet_vjepa.planning.goals.text import TextGoal
from hnet_vjepa.planning.interface import Picture
from planner_service.images import MAX_IMAGE_CHARS, encode_image

MAX_FRAMES = 64
MAX_ACTION_DIM = 64
MAX_SLOTS = 256
MAX_SLOT_WIDTH = 4096
MAX_GOALS = 8
MAX_PLACES = 16
# candidates x iterations x horizon: the model steps of one plan. The default search takes about 1300; a client that
# could ask for a million would hold up everybody else's robot.
MAX_SEARCH_STEPS = 65_536

# 64 x 64, grey: small enough for the page, and the page's "try it out" works with it.
_EXAMPLE_IMAGE = encode_image(np.full((64, 64, 3), 128, np.uint8))

ImageText = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_IMAGE_CHARS,
        description="Base64 text of a PNG or JPEG file, of exactly the camera's size (`camera` in GET /v1/model).",
        examples=[_EXAMPLE_IMAGE],
    ),
]
Number = Annotated[float, Field(allow_inf_nan=False)]
ActionRow = Annotated[list[Number], Field(min_length=1, max_length=MAX_ACTION_DIM)]
Weight = Annotated[float, Field(ge=0, le=LARGEST, allow_inf_nan=False)]
Label = Annotated[str, Field(min_length=1, max_length=200)]
Labels = Annotated[list[Label], Field(min_length=1, max_length=32)]
SlotWeights = Annotated[
    list[Weight],
    Field(
        min_length=1,
        max_length=MAX_SLOTS,
        description="How much each slot of the planning state counts (the first number of `state_shape` in GET "
        "/v1/model says how many there are). The learnt number of steps to the goal is then left out, and `reached` "
        "stays false.",
    ),
]


Decode = Callable[[str, str], NDArray[np.uint8]]
"""Image text and the name of its field -> H x W x 3 pixels."""


def to_float32(rows: list[list[float]], where: str) -> NDArray[np.float32]:
    """Rows of equal length as an array. Raises FieldError for numbers that JSON can write and float32 can not hold."""
    with np.errstate(over="ignore"):  # 1e300 becomes infinity, which is refused below
        array = np.asarray(rows, dtype=np.float32)
    if not np.isfinite(array).all():
        raise FieldError(where, "holds a number that does not fit 32-bit floating point")
    return array


def _weights(weights: list[float] | None) -> tuple[float, ...] | None:
    return None if weights is None else tuple(weights)


# JSON is read as it is written: no text for numbers, no unknown fields.
STRICT = ConfigDict(extra="forbid", strict=True)


class RegionBody(BaseModel):
    """A rectangle of the goal picture in pixels, of which x1 and y1 are the first column and row outside."""

    model_config = STRICT

    x0: int = Field(ge=0)
    y0: int = Field(ge=0)
    x1: int = Field(ge=1)
    y1: int = Field(ge=1)

    def region(self) -> Region:
        """The region of a goal."""
        return Region(self.x0, self.y0, self.x1, self.y1)


class ImageGoalBody(BaseModel):
    """Reach the state that a picture from the robot's own camera shows, all of it or a part."""

    model_config = STRICT

    kind: Literal["image"]
    image: ImageText
    region: RegionBody | None = Field(
        None, description="Only what is seen here counts: weights of the slots follow from it, with all they imply."
    )
    slot_weights: SlotWeights | None = None

    def goal(self, where: str, decode: Decode) -> ImageGoal:
        """The goal; ``decode`` makes pixels of its picture."""
        region = None if self.region is None else self.region.region()
        return ImageGoal(decode(self.image, f"{where}.image"), region, _weights(self.slot_weights))


class TextGoalBody(BaseModel):
    """Reach a state of which a sentence is true."""

    model_config = STRICT

    kind: Literal["text"]
    text: str = Field(min_length=1, max_length=1000, examples=["move the gripper to the far left corner"])

    def goal(self, where: str, decode: Decode) -> TextGoal:
        """The goal."""
        return TextGoal(self.text)


class LabelGoalBody(BaseModel):
    """Reach a state in which all labels hold. GET /v1/model lists the labels."""

    model_config = STRICT

    kind: Literal["label"]
    labels: Labels

    def goal(self, where: str, decode: Decode) -> LabelGoal:
        """The goal."""
        return LabelGoal(tuple(self.labels))


class LatentGoalBody(BaseModel):
    """Reach a stored planning state, as an earlier answer to `return_state` gave it."""

    model_config = STRICT

    kind: Literal["latent"]
    state: list[Annotated[list[Number], Field(min_length=1, max_length=MAX_SLOT_WIDTH)]] = Field(
        min_length=1, max_length=MAX_SLOTS, description="Slots x width numbers (`state_shape` in GET /v1/model)."
    )
    slot_weights: SlotWeights | None = None

    def goal(self, where: str, decode: Decode) -> LatentGoal:
        """The goal. Raises FieldError when the rows differ in length or a number is too large."""
        if len({len(row) for row in self.state}) > 1:
            raise FieldError(f"{where}.state", "the rows differ in length; every slot has equally many numbers")
        return LatentGoal(to_float32(self.state, f"{where}.state"), _weights(self.slot_weights))


SingleGoalBody = Annotated[
    ImageGoalBody | TextGoalBody | LabelGoalBody | LatentGoalBody,
    Field(discriminator="kind", description="A picture, a sentence, labels, or a stored state."),
]


class AllGoalsBody(BaseModel):
    """Reach a state that is good by all of several goals: their energies are added, each times its weight."""

    model_config = STRICT

    kind: Literal["all"]
    goals: list[SingleGoalBody] = Field(min_length=1, max_length=MAX_GOALS)
    weights: list[Weight] | None = Field(
        None,
        min_length=1,
        max_length=MAX_GOALS,
        description="One for each goal, by default 1. Energies of different kinds of goals are on different scales.",
    )

    def goal(self, where: str, decode: Decode) -> AllGoals:
        """The goals as one."""
        goals = tuple(one.goal(f"{where}.goals.{i}", decode) for i, one in enumerate(self.goals))
        return AllGoals(goals, _weights(self.weights))


GoalBody = Annotated[
    ImageGoalBody | TextGoalBody | LabelGoalBody | LatentGoalBody | AllGoalsBody,
    Field(discriminator="kind", description="Where to go: a picture, a sentence, labels, a stored state, or several."),
]


class CostBody(BaseModel):
    """What the search makes of the energies of imagined states, and what a plan costs besides."""

    model_config = ConfigDict(
        **STRICT,
        json_schema_extra={"examples": [{"over_steps": "closest", "control": 0.1, "avoid": [["left", "low"]]}]},
    )

    over_steps: Literal["sum", "closest"] = Field(
        "sum",
        description="`sum`: the energies after all actions are added up. `closest`: only the closest approach counts.",
    )
    control: Weight = Field(
        0.0,
        description="Cost of an action that differs by half the range from holding still, in each dimension; it grows "
        "with the square. On the scale of the goal's energies.",
    )
    avoid: list[Labels] = Field(
        default_factory=list,
        max_length=MAX_PLACES,
        description="Places that no imagined state shall be in. A place is where all of its labels hold.",
    )
    avoid_weight: Weight = Field(
        10.0,
        description="Cost of every imagined state that is surely in such a place, on the scale of the goal's energies.",
    )


class SearchBody(BaseModel):
    """How hard to search. What is left out is as in the checkpoint (`search` in GET /v1/model).

    candidates x iterations x horizon must not exceed 65536.
    """

    model_config = STRICT

    candidates: int | None = Field(None, ge=1, le=4096, description="Action sequences tried in each iteration.")
    iterations: int | None = Field(None, ge=1, le=100, description="Rounds of the search when time allows.")
    horizon: int | None = Field(None, ge=1, le=64, description="Actions in the plan.")
    elites: int | None = Field(None, ge=1, le=4096, description="Best candidates that each round learns from.")


class PlanRequest(BaseModel):
    """One question: where the robot is, where it shall go, and how long the answer may take."""

    model_config = ConfigDict(
        **STRICT,
        json_schema_extra={
            "examples": [
                {
                    "frames": [_EXAMPLE_IMAGE],
                    "goal": {"kind": "image", "image": _EXAMPLE_IMAGE},
                    "seed": 0,
                    "deadline_ms": 200,
                },
                {
                    "frames": [_EXAMPLE_IMAGE],
                    "goal": {
                        "kind": "all",
                        "goals": [
                            {
                                "kind": "image",
                                "image": _EXAMPLE_IMAGE,
                                "region": {"x0": 16, "y0": 16, "x1": 48, "y1": 48},
                            },
                            {"kind": "text", "text": "move the gripper to the left"},
                        ],
                        "weights": [1, 0.5],
                    },
                    "cost": {"over_steps": "closest", "control": 0.1, "avoid": [["right"]]},
                },
            ]
        },
    )

    frames: list[ImageText] = Field(
        min_length=1,
        max_length=MAX_FRAMES,
        description="Camera images, oldest first; the last one is now. The model uses it and `history` before it.",
    )
    goal: GoalBody
    seed: int = Field(
        0,
        ge=0,
        le=2**63 - 1,
        description="The same seed, frames, goal and iterations give the same plan up to rounding.",
    )
    previous_actions: list[ActionRow] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description="The last answer's `actions` (H x dim), once the first was executed: the search goes on from them.",
    )
    deadline_ms: float | None = Field(
        None,
        gt=0,
        le=600_000,
        allow_inf_nan=False,
        description="The best plan so far is sent this many milliseconds after the request was received.",
        examples=[200],
    )
    search: SearchBody | None = None
    cost: CostBody | None = None
    return_state: bool = Field(False, description="Also send the planning state, to be used as a latent goal later.")


class Timing(BaseModel):
    """Where the time went, in milliseconds. `queue` is the wait for the planner, `total` is all on the server."""

    queue: float
    decode: float
    encode: float
    plan: float
    total: float


class PlanResponse(BaseModel):
    """The best action sequence that the search found, and what the model expects of it."""

    actions: list[list[float]] = Field(description="H x dim, in the robot's units; all zero when the goal is reached.")
    action_names: list[str] = Field(description="Name of each dimension.", examples=[["x", "y", "z"]])
    action_units: list[str] = Field(description="Unit of each dimension.", examples=[["m", "m", "m"]])
    energies: list[float] = Field(description="H numbers: the expected distance to the goal after each action.")
    energy_now: float = Field(description="The distance to the goal now, on the same scale.")
    reached: bool = Field(description="The model takes the goal for reached.")
    success_probability: float | None = Field(
        None,
        description="Of standing at the goal once as many actions are done as the plan has, planning anew before each; "
        "null where the checkpoint was not calibrated for it (`hnet calibrate`): other kinds of goals, goals in part, "
        "other horizons, other costs.",
    )
    unfamiliar: list[Picture] | None = Field(
        None,
        description="Which pictures are unlike all that the model was trained on: `frames` (the last of them), `goal`, "
        "or none. A plan from or to such a picture may mean nothing; a goal may be out of reach. null: not known.",
    )
    avoid_probability: list[float] | None = Field(
        None,
        description="H numbers: how likely the robot is in a place to be avoided after each action, in the likeliest "
        "of them; null when there were none.",
    )
    iterations: int = Field(description="Rounds of the search that were run.")
    deadline_met: bool = Field(description="The answer was ready before the deadline; true when there was none.")
    timing_ms: Timing
    state: list[list[float]] | None = Field(None, description="The planning state now, when it was asked for.")
    warnings: list[str] = Field(
        default_factory=list, description="Why the plan may not be what was meant: words that the model never read."
    )
    request_id: str
    model: str = Field(description="Fingerprint of the checkpoint that planned.")
