"""What a robot and its camera are: the two descriptions that travel with data sets and checkpoints."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from hnet_vjepa.errors import UserError

CARTESIAN_NAMES = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


class ActionSpec(BaseModel):
    """The robot's action vector, in the robot's own units.

    ``actions[t]`` is a vector of ``dim`` numbers that moves frame t to frame t + 1. Only the ``active`` dimensions
    are learnt and planned; the others are always zero. ``mean`` and ``std`` normalise the active dimensions for
    the model and are measured on the training data.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    names: tuple[str, ...] = CARTESIAN_NAMES
    units: tuple[str, ...] = ("m", "m", "m", "rad", "rad", "rad", "fraction")
    low: tuple[float, ...]
    high: tuple[float, ...]
    active: tuple[int, ...]
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> ActionSpec:
        dim = len(self.names)
        for field in ("units", "low", "high"):
            if len(getattr(self, field)) != dim:
                raise ValueError(f"{field} has {len(getattr(self, field))} entries; names has {dim}")
        if any(low > high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError("low must not be above high")
        if not self.active or sorted(set(self.active)) != list(self.active) or self.active[-1] >= dim:
            raise ValueError(f"active must be rising indices below {dim}; got {self.active}")
        for field in ("mean", "std"):
            values = getattr(self, field)
            if values is not None and len(values) != len(self.active):
                raise ValueError(f"{field} has {len(values)} entries; there are {len(self.active)} active dimensions")
        if self.std is not None and min(self.std) <= 0:
            raise ValueError("std must be positive")
        return self

    @property
    def dim(self) -> int:
        """Length of the full action vector."""
        return len(self.names)

    def normalised_by(self, actions: NDArray[np.float32]) -> ActionSpec:
        """Return this spec with mean and std measured on ``actions`` (N x dim)."""
        chosen = actions[:, list(self.active)].astype(np.float64)
        std = np.maximum(chosen.std(0), 1e-6)
        return self.model_copy(update={"mean": tuple(chosen.mean(0).tolist()), "std": tuple(std.tolist())})

    def check(self, actions: NDArray[np.float32] | Sequence[float], where: str) -> NDArray[np.float32]:
        """Return ``actions`` (... x dim) as float32, or raise UserError when the size is wrong or a value not finite."""
        array = np.asarray(actions, dtype=np.float32)
        if array.ndim == 0 or array.shape[-1] != self.dim:
            size = 0 if array.ndim == 0 else array.shape[-1]
            raise UserError(f"{where}: an action has {size} numbers; this robot takes {self.dim} ({', '.join(self.names)})")
        if not np.isfinite(array).all():
            raise UserError(f"{where}: an action holds NaN or infinity; every number must be finite")
        return array


class CameraSpec(BaseModel):
    """The camera: picture size in pixels and the time between two frames in seconds."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    height: int = Field(gt=0)
    width: int = Field(gt=0)
    dt: float = Field(gt=0, description="seconds between two frames, which is the control interval")
    name: str = "camera"

    def check(self, frames: NDArray[np.uint8], where: str) -> NDArray[np.uint8]:
        """Return ``frames`` (... x H x W x 3, uint8), or raise UserError naming the shape that is expected."""
        if frames.dtype != np.uint8 or frames.shape[-3:] != (self.height, self.width, 3):
            raise UserError(
                f"{where}: image of shape {tuple(frames.shape[-3:])} and type {frames.dtype}; "
                f"this camera gives {self.height} x {self.width} x 3 of type uint8"
            )
        return frames
