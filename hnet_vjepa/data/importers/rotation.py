"""Rotations as matrices, for differences and sums of recorded angles (roll, pitch, yaw about fixed axes x, y, z)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ANGLES = ("roll", "pitch", "yaw")


def matrices(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """Angles ... x 3 in rad to matrices ... x 3 x 3: R = Rz(yaw) Ry(pitch) Rx(roll)."""
    (cr, cp, cy), (sr, sp, sy) = (np.moveaxis(f(angles), -1, 0) for f in (np.cos, np.sin))
    rows = [
        [cy * cp, cy * sp * sr - sy * cr, cy * sp * cr + sy * sr],
        [sy * cp, sy * sp * sr + cy * cr, sy * sp * cr - cy * sr],
        [-sp, cp * sr, cp * cr],
    ]
    return np.stack([np.stack(row, -1) for row in rows], -2)


def angles_of(rotations: NDArray[np.float64]) -> NDArray[np.float64]:
    """Matrices ... x 3 x 3 to angles ... x 3 in rad, pitch within -pi/2 .. pi/2."""
    pitch = np.arctan2(-rotations[..., 2, 0], np.hypot(rotations[..., 2, 1], rotations[..., 2, 2]))
    roll = np.arctan2(rotations[..., 2, 1], rotations[..., 2, 2])
    yaw = np.arctan2(rotations[..., 1, 0], rotations[..., 0, 0])
    return np.stack([roll, pitch, yaw], -1)


def angle_triples(names: Sequence[str]) -> list[list[int]]:
    """Columns of roll, pitch and yaw: of each prefix (``left_roll``) that has all three."""
    bare = [name.split(" [")[0].lower() for name in names]
    prefixes = [name.removesuffix("roll") for name in bare if name.endswith("roll")]
    triples = [[prefix + angle for angle in ANGLES] for prefix in prefixes]
    return [[bare.index(name) for name in triple] for triple in triples if all(name in bare for name in triple)]


def differences(rows: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.float32]:
    """What changed from each row to the next: T x D to T - 1 x D. Angles: those of R[t + 1] R[t]^T."""
    exact = rows.astype(np.float64)
    result = np.diff(exact, axis=0)
    for triple in angle_triples(names):
        turned = matrices(exact[:, triple])
        result[:, triple] = angles_of(turned[1:] @ np.swapaxes(turned[:-1], -1, -2))
    return result.astype(np.float32)


def composed(rows: NDArray[np.float32], names: Sequence[str]) -> NDArray[np.float32]:
    """One change that does what the changes ``rows`` (N x D, N at least 1) do one after another: D."""
    exact = rows.astype(np.float64)
    result = exact.sum(0)
    for triple in angle_triples(names):
        total = np.eye(3)
        for matrix in matrices(exact[:, triple]):
            total = matrix @ total
        result[triple] = angles_of(total)
    return result.astype(np.float32)
