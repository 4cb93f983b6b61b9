"""A scripted pusher for the T of sims.tasks.push_t: which push would help most, and how to get to where it begins.

Nothing rubs in that world and what is not pushed stands still, so a push follows from geometry: the T gives way at the
point of contact, against the contact's normal, by as much as the round pusher would else enter it, and moves as mass
and moment of inertia share that out. The script tries pushes from all around the T in this model, takes the one that
leads nearest to the wanted pose, and looks again when it is done.

All lengths are pixels of the environment's world of 512 x 512, y downwards; a pose is x, y of the T's centre of
gravity and its angle in radians.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

RADIUS = 15.0  # of the pusher
CENTRE = np.array([0.0, 45.0])  # centre of gravity, from where the environment says that the T is
CORNERS = (
    np.array([(-60, 0), (60, 0), (60, 30), (15, 30), (15, 120), (-15, 120), (-15, 30), (-60, 30)], np.float64) - CENTRE
)
EDGES = np.roll(CORNERS, -1, 0) - CORNERS
SQUARED = (EDGES**2).sum(1, keepdims=True)
NORMALS = np.stack([EDGES[:, 1], -EDGES[:, 0]], 1) / np.linalg.norm(EDGES, axis=1, keepdims=True)  # outwards
INERTIA = 3000.0  # moment of inertia over mass
ARM = 57.3  # pixels that count as much as a turn by one radian: 20 pixels and 20 degrees are what success allows
LOW, HIGH = 15.0, 497.0  # where the pusher may be
RING = np.array([(-84, -24), (0, -24), (84, -24), (84, 54), (39, 144), (0, 144), (-39, 144), (-84, 54)]) - CENTRE
DONE = 5.0  # pixels of error that are good enough
WORTHWHILE = 2.0  # pixels of error that a push must do away with
EFFORT = 0.04  # pixels of error that a pixel of the pusher's way is worth
TRIES = 12  # pushes of which the first is taken that can be begun
STRIDE = 4.0  # pixels that the model moves the pusher at a time
STRIDES = 28  # the longest push


def rotation(angle: float) -> Array:
    """Return the matrix (2 x 2) that turns by ``angle``; the picture's y points down."""
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def contacts(x: Array, y: Array) -> tuple[Array, Array, Array]:
    """Of N points around the T, in its own axes: x and y of the nearest points of its outline and signed distances.

    A distance is negative inside the T. (Arrays of single coordinates: this is where all the time goes.)
    """
    right, down = x - CORNERS[:, :1], y - CORNERS[:, 1:]  # edges x N
    along = np.clip((right * EDGES[:, :1] + down * EDGES[:, 1:]) / SQUARED, 0, 1)
    right, down = right - along * EDGES[:, :1], down - along * EDGES[:, 1:]
    squared = right * right + down * down
    edge = squared.argmin(0)[None]
    apart, below = np.take_along_axis(right, edge, 0)[0], np.take_along_axis(down, edge, 0)[0]
    depth = y + CENTRE[1]
    inside = (depth > 0) & (depth < 120) & (np.abs(x) < np.where(depth < 30, 60, 15))
    return x - apart, y - below, np.where(inside, -1, 1) * np.hypot(apart, below)


def gaps(points: Array, pose: Array) -> Array:
    """Signed distances of points (N x 2, of the world) from the outline of a T at ``pose``."""
    return contacts(*((points - pose[:2]) @ rotation(pose[2])).T)[2]


def model(poses: Array, pushers: Array, directions: Array) -> Array:
    """Push along N directions (unit vectors) from N places at N poses; return the poses then.

    Shapes: N x 3, N x 2, N x 2; K x N x 3, one row for each stride.
    """
    x, y, angle = poses.T.copy()
    history = np.empty((STRIDES, *poses.shape))
    for stride in range(STRIDES):
        right, down = (pushers + (stride + 1) * STRIDE * directions).T - (x, y)
        cos, sin = np.cos(angle), np.sin(angle)
        local_x, local_y = cos * right + sin * down, cos * down - sin * right
        touched_x, touched_y, gap = contacts(local_x, local_y)
        apart = np.where(gap == 0, 1e-9, gap)
        away_x, away_y = (touched_x - local_x) / apart, (touched_y - local_y) / apart
        lever = touched_x * away_y - touched_y * away_x
        share = np.maximum(RADIUS - gap, 0) / (1 + lever**2 / INERTIA)
        x = x + share * (cos * away_x - sin * away_y)
        y = y + share * (sin * away_x + cos * away_y)
        angle = angle + share * lever / INERTIA
        history[stride] = np.stack([x, y, angle], 1)
    return history


def _all_pushes() -> tuple[Array, Array]:
    """Places of the pusher (N x 2) shortly before contact and directions (N x 2), in the T's own axes."""
    places, directions = [], []
    for corner, edge, normal in zip(CORNERS, EDGES, NORMALS, strict=True):
        for share in np.linspace(0, 1, round(float(np.linalg.norm(edge)) / 15) + 1):
            for lean in (-0.5, 0.0, 0.5):
                direction = rotation(lean) @ -normal
                places.append(corner + share * edge + (RADIUS + 1) * normal - 6 * direction)
                directions.append(direction)
    kept = contacts(*np.array(places).T)[2] > RADIUS + 2
    return np.array(places)[kept], np.array(directions)[kept]


PLACES, DIRECTIONS = _all_pushes()


def error(poses: Array, goal: Array) -> Array:
    """How far poses (... x 3) are from ``goal`` (3), in pixels, a turn by one radian counting as ARM pixels."""
    turned = (poses[..., 2] - goal[2] + np.pi) % (2 * np.pi) - np.pi
    shift = poses[..., :2] - goal[:2]
    # The environment speaks of the T's own origin, not of its centre of gravity.
    lever = np.stack([np.sin(poses[..., 2]) - np.sin(goal[2]), np.cos(goal[2]) - np.cos(poses[..., 2])], -1) * CENTRE[1]
    squared: Array = ((shift + lever) ** 2).sum(-1) + (ARM * turned) ** 2
    return np.sqrt(squared)


@dataclass(frozen=True)
class Push:
    """A straight push: the pusher goes from ``begin`` to ``end`` (2 each)."""

    begin: Array
    end: Array


def best_push(pose: Array, goal: Array, pusher: Array, ahead: int = 1) -> Push | None:
    """Return the push that leads nearest to ``goal``, or None when none helps that can be begun.

    The best ``ahead`` pushes are judged by the best push that can follow them.
    """
    turn = rotation(pose[2])
    begins, directions = pose[:2] + PLACES @ turn.T, DIRECTIONS @ turn.T
    possible = ((begins > LOW) & (begins < HIGH)).all(1)
    begins, directions = begins[possible], directions[possible]
    if not len(begins):
        return None
    history = model(np.broadcast_to(pose, (len(begins), 3)), begins, directions)
    lengths = STRIDE * np.arange(1, STRIDES + 1)[:, None]
    ends = begins + lengths[..., None] * directions
    outside = ((ends < LOW) | (ends > HIGH)).any(-1)
    after = error(history, goal)
    cost = after + EFFORT * (np.linalg.norm(begins - pusher, axis=1) + lengths) + 1e6 * outside
    stop = cost.argmin(0)
    column = np.arange(len(begins))
    lowest = cost[stop, column]
    order = lowest.argsort()[: max(ahead, TRIES)]
    then = after[stop[order], order]
    if ahead > 1:
        then[:ahead] = np.minimum(then[:ahead], _second(history[stop[order[:ahead]], order[:ahead]], goal))
    judged = lowest[order] - after[stop[order], order] + then
    for best in judged.argsort():
        if then[best] > error(pose, goal) - WORTHWHILE:
            return None
        column = order[best]
        if next_stop(pusher, begins[column], pose) is not None:
            return Push(begins[column], ends[stop[column], column])
    return None


def _second(poses: Array, goal: Array) -> Array:
    """The least error and effort after one more push at each of M poses."""
    count = len(PLACES)
    cos, sin = np.cos(poses[:, 2, None]), np.sin(poses[:, 2, None])

    def turned(vectors: Array) -> Array:
        x, y = vectors.T
        return np.stack([cos * x - sin * y, sin * x + cos * y], -1)

    begins = poses[:, None, :2] + turned(PLACES)
    history = model(np.repeat(poses, count, 0), begins.reshape(-1, 2), turned(DIRECTIONS).reshape(-1, 2))
    lengths = STRIDE * np.arange(1, STRIDES + 1)[:, None]
    outside = ((begins < LOW) | (begins > HIGH)).any(-1).ravel()
    cost = error(history, goal) + EFFORT * (60 + lengths) + 1e6 * outside
    least: Array = cost.min(0).reshape(-1, count).min(1)
    return least


def _clear(begins: Array, ends: Array, pose: Array, close: float) -> NDArray[np.bool_]:
    """Whether the pusher can go straight from N places to N others (N x 2) without moving the T.

    Within ``close`` pixels of either end it may pass as near as touching, elsewhere it keeps a distance.
    """
    length = np.linalg.norm(ends - begins, axis=1)
    shares = np.linspace(0, 1, 33)[:, None]
    gap = gaps((begins + shares[..., None] * (ends - begins)).reshape(-1, 2), pose).reshape(33, -1)
    least = np.where(shares * length < close, np.minimum(RADIUS - 0.6, gap[0] - 0.2), RADIUS + 1.5)
    least = np.where((1 - shares) * length < close, np.minimum(RADIUS - 0.6, gap[-1] - 0.2), least)
    return np.asarray((gap > least).all(0))


def next_stop(pusher: Array, target: Array, pose: Array, close: float = 12.0) -> Array | None:
    """Return where to go straight to on the shortest way around the T from ``pusher`` to ``target`` (2 each).

    None when there is no way. ``close``: see _clear.
    """
    ring = np.clip(pose[:2] + RING @ rotation(pose[2]).T, LOW, HIGH)
    count = len(ring)
    onwards = np.roll(ring, -1, 0)
    clear = _clear(
        np.concatenate([np.repeat(pusher[None], count + 1, 0), ring, ring]),
        np.concatenate([ring, target[None], np.repeat(target[None], count, 0), onwards]),
        pose,
        close,
    )
    if clear[count]:
        return target
    here = np.where(clear[:count], np.linalg.norm(ring - pusher, axis=1), np.inf)
    there = np.where(clear[count + 1 : 2 * count + 1], np.linalg.norm(ring - target, axis=1), np.inf)
    side = np.where(clear[2 * count + 1 :], np.linalg.norm(onwards - ring, axis=1), np.inf)
    for _ in range(count // 2):  # from stop to stop, both ways around
        there = np.minimum(there, side + np.roll(there, -1))
        there = np.minimum(there, np.roll(side, 1) + np.roll(there, 1))
    total = np.where(here > 4, here + there, np.inf)
    best: Array = ring[total.argmin()]
    return best if np.isfinite(total).any() else None


class Pusher:
    """Pushes the T to a pose (3), then takes the pusher to its place (2). It remembers the push that it is doing.

    ``near``: pixels from a point at which the pusher counts as being there.
    """

    def __init__(self, goal: Array, place: Array, ahead: int = 1, near: float = 2.0) -> None:
        self._goal, self._place, self._ahead, self._near = goal, place, ahead, near
        self._push: Push | None = None
        self._pushing = False

    def move(self, pusher: Array, pose: Array) -> Array:
        """Return where the pusher should go from here, as a displacement (2); zero when all is done."""
        if self._push is not None and self._pushing and np.linalg.norm(self._push.end - pusher) < self._near:
            self._push, self._pushing = None, False
        if self._push is None and error(pose, self._goal) > DONE:
            self._push = best_push(pose, self._goal, pusher, self._ahead)
        if self._push is None:
            for close in (12.0, 50.0):  # in a corner of the T there is little room
                target = next_stop(pusher, self._place, pose, close)
                if target is not None:
                    return target - pusher
            return np.zeros(2)
        if np.linalg.norm(self._push.begin - pusher) < self._near:
            self._pushing = True
        target = self._push.end if self._pushing else next_stop(pusher, self._push.begin, pose)
        if target is None:  # the T was touched on the way
            self._push = None
            return np.zeros(2)
        return target - pusher
