"""Action spec and camera spec, the description of a robot that data sets and checkpoints contain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from hnet_vjepa.errors import FieldError, UserError

CARTESIAN_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
CARTESIAN_UNITS = ("m", "m", "m", "rad", "rad", "rad", "fraction")
NEARLY = 0.01  # of the largest deviation of a unit: a dimension below is nearly constant
LARGEST = 1e30  # of a bound: beyond, the difference of two overflows 32 bits


class ActionSpec(BaseModel):
    """The robot's action vector, in the robot's own units.

    ``actions[t]`` is a vector of ``dim`` numbers that moves frame t to frame t + 1. Only the ``active`` dimensions
    are learnt and planned; the others are always zero. ``low`` and ``high`` bound what a planner may command.
    ``mean`` and ``std`` normalise the active dimensions for the model and are measured on the training data.
    A recording without actions has no dimensions at all.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    names: tuple[str, ...] = CARTESIAN_NAMES
    units: tuple[str, ...] = CARTESIAN_UNITS
    low: tuple[float, ...]
    high: tuple[float, ...]
    active: tuple[int, ...]
    absolute: tuple[int, ...] = Field(default=(), description="dimensions that are an absolute command, not a change")
    rate: tuple[float, ...] | None = Field(
        default=None, description="largest change of each number between two actions"
    )
    l1: float | None = Field(default=None, gt=0, description="largest sum of the absolute changes of one action")
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ActionSpec:
        dim = len(self.names)
        if len(set(self.names)) != dim or not all(self.names):
            raise ValueError(f"names must be different and not empty; got {self.names}")
        for field in ("units", "low", "high"):
            if len(getattr(self, field)) != dim:
                raise ValueError(f"{field} has {len(getattr(self, field))} entries; names has {dim}")
        for name, low, high in zip(self.names, self.low, self.high, strict=True):
            if max(abs(low), abs(high)) > LARGEST:
                raise ValueError(f"low and high must be within {LARGEST:g}; {name} has {low:g} and {high:g}")
            if low > high:
                raise ValueError(f"low must not be above high; {name} has {low:g} and {high:g}")
        rising = list(self.active) == sorted(set(self.active))
        if dim and (not self.active or not rising or self.active[0] < 0 or self.active[-1] >= dim):
            raise ValueError(f"active must be rising indices from 0 to {dim - 1}, at least one; got {self.active}")
        if any(not 0 <= dimension < dim for dimension in self.absolute):
            raise ValueError(f"absolute must be indices from 0 to {dim - 1}; got {self.absolute}")
        if self.rate is not None and (len(self.rate) != dim or min(self.rate) <= 0):
            raise ValueError(f"rate must be {dim} positive numbers, one for each of names; got {self.rate}")
        for dimension in self.active if self.l1 is not None else ():
            if dimension not in self.absolute and not self.low[dimension] <= 0 <= self.high[dimension]:
                raise ValueError(
                    f"l1 bounds changes, so 0 must be allowed; {self.names[dimension]} goes from "
                    f"{self.low[dimension]:g} to {self.high[dimension]:g}"
                )
        for field in ("mean", "std"):
            values = getattr(self, field)
            if values is not None and len(values) != len(self.active):
                raise ValueError(f"{field} has {len(values)} entries; there are {len(self.active)} active dimensions")
        if self.std is not None and min(self.std, default=1) <= 0:
            raise ValueError("std must be positive")
        return self

    @property
    def dim(self) -> int:
        """Length of the full action vector."""
        return len(self.names)

    def hold(self) -> NDArray[np.float32]:
        """The action that holds the robot still: no change, and absolute commands at their mean. Shape: dim."""
        action = np.zeros(self.dim, np.float32)
        for place, dimension in enumerate(self.active):
            if dimension in self.absolute and self.mean is not None:
                action[dimension] = self.mean[place]
        return np.clip(action, *self.inner_bounds())

    def inner_bounds(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """The outermost float32 numbers that are not beyond ``low`` and ``high`` (float32 0.05 is more than 0.05)."""
        low, high = (np.array(bound, np.float32) for bound in (self.low, self.high))
        low = np.where(low.astype(np.float64) < self.low, np.nextafter(low, np.float32(np.inf)), low)
        high = np.where(high.astype(np.float64) > self.high, np.nextafter(high, np.float32(-np.inf)), high)
        return low.astype(np.float32), high.astype(np.float32)

    def normalised_by(self, actions: NDArray[np.float32]) -> ActionSpec:
        """Return this spec with mean and std measured on ``actions`` (N x dim, N at least 1).

        A dimension that never changes gets a std of at least 1e-6, so that it normalises to zero and not to NaN; one
        that hardly changes gets NEARLY of the largest of its unit, so that its noise is not blown up. Raises UserError
        without actions.
        """
        if len(actions) == 0:
            raise UserError("there are no actions to measure mean and std on")
        chosen = actions[:, list(self.active)].astype(np.float64)
        std = chosen.std(0)
        units = np.array([self.units[dimension] for dimension in self.active])
        largest = np.array([std[units == unit].max() for unit in units]) if len(units) else std
        std = np.maximum(std, np.maximum(1e-6, NEARLY * largest))
        return self.model_copy(update={"mean": tuple(chosen.mean(0).tolist()), "std": tuple(std.tolist())})

    def check(self, actions: NDArray[np.float32] | Sequence[float], where: str) -> NDArray[np.float32]:
        """Return ``actions`` (... x dim) as float32, or raise UserError on a wrong size or a NaN."""
        try:
            with np.errstate(over="ignore"):  # what overflows becomes infinite and is refused below
                array = np.asarray(actions, dtype=np.float32)
        except (TypeError, ValueError) as error:
            raise FieldError(where, f"an action is not a row of {self.dim} numbers ({error})") from error
        if array.ndim == 0 or array.shape[-1] != self.dim:
            size = 0 if array.ndim == 0 else array.shape[-1]
            raise FieldError(
                where, f"an action has {size} numbers; this robot takes {self.dim} ({', '.join(self.names)})"
            )
        if not np.isfinite(array).all():
            raise FieldError(where, "an action holds NaN or infinity; every number must be finite")
        return array


class CameraSpec(BaseModel):
    """The camera: picture size in pixels and the time between two frames in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    height: int = Field(gt=0)
    width: int = Field(gt=0)
    dt: float = Field(gt=0, description="seconds between two frames, which is the control interval")
    name: str = "camera"

    def check(self, frames: NDArray[np.uint8], where: str) -> NDArray[np.uint8]:
        """Return ``frames`` (... x H x W x 3, uint8), or raise UserError naming the shape that is expected."""
        if frames.dtype != np.uint8 or frames.shape[-3:] != (self.height, self.width, 3):
            raise FieldError(
                where,
                f"image of shape {tuple(frames.shape[-3:])} and type {frames.dtype}; "
                f"this camera gives {self.height} x {self.width} x 3 of type uint8",
            )
        return frames


def camera_spec(size: tuple[int, int], dt: float, name: str) -> CameraSpec:
    """Build a CameraSpec of ``size`` (height, width) from a user's input. Raises UserError, not ValidationError."""
    try:
        return CameraSpec(height=size[0], width=size[1], dt=dt, name=name)
    except ValidationError as error:
        raise UserError(f"camera {name}: {explain(error)}") from error


def explain(error: ValidationError) -> str:
    """Say in one line what pydantic found wrong first: ``low.0: Input should be a finite number``."""
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    return " ".join(f"{place + ': ' if place else ''}{first['msg'].removeprefix('Value error, ')}".split())


def bounds_of(actions: NDArray[np.float32], commands: int = 16) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Lower and upper bounds of each column of recorded ``actions`` (N x dim), for recordings that state none.

    They are the 1st and the 99th percentile, so that outliers of a recording do not widen what a planner may command. A
    column of at most ``commands`` different values (an open/close gripper, a handful of rows) keeps its extremes.
    """
    low, high = [], []
    for column in actions.astype(np.float64).T:
        cut = (0, 100) if len(np.unique(column)) <= commands else (1, 99)
        bottom, top = np.percentile(column, cut)
        low.append(float(bottom))
        high.append(float(top))
    return tuple(low), tuple(high)
