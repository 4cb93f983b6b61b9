"""What all sections of a configuration share: strict pydantic models and types of fields."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, Self, get_args, get_origin

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic_core import PydanticCustomError

PhaseName = Literal["pretrain", "language", "probe", "action"]
PHASES: tuple[PhaseName, ...] = get_args(PhaseName)
Stage = Literal["pretrain", "language", "probe", "encoder_adaptation", "action", "heads"]
"""What the training loop trains: the phases, of which ``action`` may begin with ``encoder_adaptation`` and ends with
``heads``."""

Positive = Annotated[int, Field(gt=0)]
NotNegative = Annotated[int, Field(ge=0)]
Fraction = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]
Stages = Annotated[tuple[Positive, ...], Field(min_length=1)]


class Section(BaseModel):
    """A section: unknown fields, infinite numbers, and texts or truth values in place of numbers are refused."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _as_written(cls, value: Any, info: ValidationInfo) -> Any:
        """Pydantic would read "5" as 5 and true as 1."""
        kinds = _leaves(cls.model_fields[info.field_name or ""].annotation)
        for item in value if isinstance(value, list | tuple) else (value,):
            for kind, name in ((str, "text"), (bool, "a truth value")):
                if isinstance(item, kind) and kinds <= {int, float, bool, type(None)} - {kind}:
                    raise PydanticCustomError("as_written", "this is {name}; needs a number", {"name": name})
        return value


def _leaves(annotation: Any) -> set[Any]:
    """The types that an annotation is made of: ``tuple[int, ...] | None`` of int and None."""
    parts = get_args(annotation)
    if get_origin(annotation) is Literal:
        return {type(value) for value in parts}
    if get_origin(annotation) is Annotated:
        return _leaves(parts[0])
    return set().union(*(_leaves(part) for part in parts if part is not Ellipsis)) if parts else {annotation}


class TransformerSection(Section):
    """A stack of transformer blocks."""

    width: Positive = Field(default=64, description="width of the blocks; heads must divide it")
    depth: Positive = Field(default=2, description="number of blocks")
    heads: Positive = Field(default=4, description="attention heads")

    @model_validator(mode="after")
    def _heads(self) -> Self:
        refuse(indivisible("heads", self.heads, self._split_among_heads()))
        return self

    def _split_among_heads(self) -> dict[str, int]:
        """The widths that are cut into ``heads`` equal parts, by name."""
        return {"width": self.width}


def refuse(problems: list[str]) -> None:
    """Raise ValueError when fields do not fit together: one ``field = value: what is allowed`` per line."""
    if problems:
        raise ValueError("\n".join(problems))


def indivisible(field: str, heads: int, widths: dict[str, int]) -> list[str]:
    """The problem, if ``heads`` does not divide every one of the named widths."""
    if not any(width % heads for width in widths.values()):
        return []
    common = math.gcd(*widths.values())
    allowed = ", ".join(str(n) for n in range(1, common + 1) if common % n == 0)
    named = " and ".join(f"{name} ({width})" for name, width in widths.items())
    return [f"{field} = {heads}: must divide {named}; choose one of: {allowed}"]
