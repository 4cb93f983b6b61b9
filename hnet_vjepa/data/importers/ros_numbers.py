"""ROS messages of numbers (joint states, arrays, twists, poses) as tables with times."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.data.importers.rotation import angles_of
from hnet_vjepa.errors import UserError

KINDS = ("JointState", "JointTrajectory", "Float32MultiArray", "Float64MultiArray", "Twist", "TwistStamped") + (
    "Pose",
    "PoseStamped",
)
CARTESIAN = ("x [m]", "y [m]", "z [m]", "roll [rad]", "pitch [rad]", "yaw [rad]")
VELOCITY = ("x [m/s]", "y [m/s]", "z [m/s]", "roll [rad/s]", "pitch [rad/s]", "yaw [rad/s]")


@dataclass(frozen=True)
class Numbers:
    """A topic's messages: N rising times in seconds and N x D numbers."""

    names: tuple[str, ...]
    times: NDArray[np.float64]
    rows: NDArray[np.float32]


def numbers_of(messages: Iterable[tuple[float, Any]], topic: str, where: str) -> Numbers:
    """Read a topic's messages. Raises UserError when there is none, or their sizes or joints differ."""
    times: list[float] = []
    rows: list[list[float]] = []
    names: tuple[str, ...] = ()
    for number, (time, message) in enumerate(messages):
        here, values = _row(message)
        if rows and (here != names or len(values) != len(rows[0])):
            raise UserError(f"{where}: {topic} message {number} has other numbers than the first ({', '.join(here)})")
        names = here
        times.append(time)
        rows.append(values)
    if not rows:
        raise UserError(f"{where}: {topic} has no messages")
    order = np.argsort(times, kind="stable")
    return Numbers(names, np.array(times)[order], np.array(rows, np.float32)[order])


def _row(message: Any) -> tuple[tuple[str, ...], list[float]]:
    """Names and numbers of one message."""
    for wrapper in ("twist", "pose"):  # stamped
        message = getattr(message, wrapper, message)
    if hasattr(message, "points"):  # a trajectory: where it leads to
        return tuple(message.joint_names), [float(value) for value in message.points[-1].positions]
    if hasattr(message, "position") and hasattr(message, "name"):
        return tuple(message.name), [float(value) for value in message.position]
    if hasattr(message, "linear"):
        parts = (message.linear, message.angular)
        return VELOCITY, [float(getattr(part, axis)) for part in parts for axis in "xyz"]
    if hasattr(message, "orientation"):
        place, q = message.position, message.orientation
        angles = angles_of(_matrix(np.array([q.x, q.y, q.z, q.w])))
        return CARTESIAN, [place.x, place.y, place.z, *angles.tolist()]
    values = [float(value) for value in message.data]
    return tuple(f"data.{number}" for number in range(len(values))), values


def _matrix(quaternion: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation of a quaternion (x, y, z, w)."""
    x, y, z, w = quaternion / max(float(np.linalg.norm(quaternion)), 1e-12)
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
