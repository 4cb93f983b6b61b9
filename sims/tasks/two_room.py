"""Two rooms: a disc on a flat floor, in a square that a wall with one door divides.

The world is ours: no physics engine, no graphics library, 0.1 m a pixel. In shares of the width, the speed and the
criterion of success are those of the TwoRoom world of stable-worldmodel. An action is a displacement; walls stop what
moves into them and let it slide along them. The door is above the middle, so that the straight way mostly ends at a
wall.
"""

from __future__ import annotations

import math
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from hnet_vjepa.specs import ActionSpec, CameraSpec
from sims.core.language import LABELS, Placement
from sims.core.rendering import draw_discs
from sims.core.scene import DIMMEST
from sims.core.task import Action, Controller, State, Task
from sims.core.variation import Variation

CAMERA = CameraSpec(height=64, width=64, dt=0.1, name="above")
PIXEL = 0.1  # metres
SIDE = 6.4  # metres, walls included: what the picture shows
BORDER = 0.3  # metres, thickness of the outer walls
WALL = (3.0, 3.4)  # metres, from left to right: the wall between the rooms
DOOR = (3.8, 5.0)  # metres, from bottom to top
RADIUS = 0.3  # metres, of the disc
STEP = 0.3  # metres along each axis in one action: 4.7 % of the width
SUBSTEPS = 8  # an action is done in parts shorter than the radius, so that nothing jumps over a corner
LOW, HIGH = BORDER + RADIUS, SIDE - BORDER - RADIUS  # metres, where the disc's centre can be
MIDDLE = (sum(WALL) / 2, sum(DOOR) / 2)  # metres, the middle of the door
MOUTH = 0.2  # metres between the wall and a disc that is about to enter the door
BLOCKS = ((0.0, DOOR[0]), (DOOR[1], SIDE))  # metres, from bottom to top: what there is of the wall
NEAR = 0.45  # metres; stable-worldmodel asks for 16 of 224 pixels, later 15.5: 0.46 or 0.44 m of 6.4
FLOOR_COLOUR, WALL_COLOUR, DISC_COLOUR = (0.86, 0.84, 0.78), (0.22, 0.28, 0.38), (0.85, 0.22, 0.12)


def slide(x: float, y: float, right: float, up: float) -> tuple[float, float]:
    """Move the disc's centre from (x, y) by (right, up), in metres, as far as the walls let it."""
    for _ in range(SUBSTEPS):
        x = min(max(x + right / SUBSTEPS, LOW), HIGH)
        y = min(max(y + up / SUBSTEPS, LOW), HIGH)
        for bottom, top in BLOCKS:
            nearest = min(max(x, WALL[0]), WALL[1]), min(max(y, bottom), top)
            apart = math.dist((x, y), nearest)
            if 0 < apart < RADIUS:
                x = nearest[0] + (x - nearest[0]) * RADIUS / apart
                y = nearest[1] + (y - nearest[1]) * RADIUS / apart
    return x, y


class TwoRoomEnv(gymnasium.Env[NDArray[np.float32], NDArray[np.float32]]):
    """The world as a Gymnasium environment.

    An observation is where the disc and the goal are: x, y, goal x, goal y, in metres from the lower left corner. The
    reward is 1 within NEAR of the goal, which ends the episode, else 0. The picture does not show the goal.
    ``reset`` takes the options ``position`` and ``goal`` (2 numbers each); what is not given is drawn.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": round(1 / CAMERA.dt)}

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = spaces.Box(0.0, SIDE, (4,), np.float32)
        self.action_space = spaces.Box(-STEP, STEP, (2,), np.float32)
        self.position = np.array([LOW, LOW])
        self.goal = np.array([HIGH, LOW])
        self.dress(Variation())

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        given = options or {}
        drawn = sample_goal(self.np_random), sample_goal(self.np_random)
        self.position = np.array(given.get("position", drawn[0]), np.float64)
        self.goal = np.array(given.get("goal", drawn[1]), np.float64)
        return self._observation(), {}

    def step(self, action: NDArray[np.float32]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        right, up = np.clip(np.asarray(action, np.float64), -STEP, STEP)
        self.position = np.array(slide(float(self.position[0]), float(self.position[1]), float(right), float(up)))
        near = math.dist(self.position, self.goal) <= NEAR
        return self._observation(), float(near), near, False, {"is_success": near}

    def render(self) -> NDArray[np.uint8]:  # type: ignore[override]  # there is one render mode
        """Return the picture, 64 x 64 x 3, seen from above: x to the right, y up."""
        columns = (np.arange(CAMERA.width) + 0.5) * PIXEL - self.position[0]
        rows = SIDE - (np.arange(CAMERA.height) + 0.5) * PIXEL - self.position[1]
        cover = np.clip((RADIUS - np.hypot(rows[:, None], columns)) / PIXEL + 0.5, 0, 1)[..., None]
        picture: NDArray[np.uint8] = np.rint(self._empty + cover * (self._disc - self._empty)).astype(np.uint8)
        return picture

    def dress(self, variation: Variation) -> None:
        """Choose light and colours, and draw what does not move."""
        strength, colours = variation.strength, np.array([FLOOR_COLOUR, WALL_COLOUR, DISC_COLOUR])
        if variation.factor == "light":
            colours = (1 - DIMMEST * strength) * colours
        elif variation.factor == "colours":
            colours = (1 - strength) * colours + strength * colours[:, [1, 2, 0]]
        floor, wall, self._disc = 255 * colours
        x = (np.arange(CAMERA.width) + 0.5) * PIXEL  # all walls end between two pixels
        y = SIDE - (np.arange(CAMERA.height)[:, None] + 0.5) * PIXEL
        outer = (np.abs(x - SIDE / 2) > SIDE / 2 - BORDER) | (np.abs(y - SIDE / 2) > SIDE / 2 - BORDER)
        inner = (x > WALL[0]) & (x < WALL[1]) & ~((y > DOOR[0]) & (y < DOOR[1]))
        empty = np.where((outer | inner)[..., None], wall, floor).astype(np.uint8)
        draw_discs(empty, variation.distractors())
        self._empty = empty.astype(np.float64)

    def _observation(self) -> NDArray[np.float32]:
        return np.concatenate([self.position, self.goal]).astype(np.float32)


class TwoRoom:
    """The world behind sims.core.task.Simulation."""

    def __init__(self) -> None:
        self._env = TwoRoomEnv(render_mode="rgb_array")
        self.reset()

    def reset(self) -> None:
        self._env.reset(seed=0, options={"position": MIDDLE, "goal": MIDDLE})

    def step(self, action: Action) -> None:
        self._env.step(action)

    def frame(self) -> NDArray[np.uint8]:
        return self._env.render()

    def state(self) -> State:
        return self._env.position.astype(np.float32)

    def save(self) -> NDArray[np.float64]:
        return self._env.position.copy()

    def restore(self, saved: NDArray[np.float64]) -> None:
        self._env.position = saved.copy()

    def vary(self, variation: Variation) -> None:
        self._env.dress(variation)

    def close(self) -> None:
        self._env.close()


def in_room(room: int, rng: np.random.Generator, beyond: float = 0.0) -> State:
    """Return a position drawn evenly from the left (0) or the right (1) room, in metres (2).

    With ``beyond``, the room is that much larger (metres), so that a disc on its way there ends at a wall.
    """
    left, right = (LOW, WALL[0] - RADIUS) if room == 0 else (WALL[1] + RADIUS, HIGH)
    x, y = rng.uniform(left - beyond, right + beyond), rng.uniform(LOW - beyond, HIGH + beyond)
    return np.array([x, y], np.float32)


def room_of(state: State) -> int:
    """Say in which room a position is, left (0) or right (1); the rooms end in the middle of the door."""
    return int(state[0] > MIDDLE[0])


def sample_goal(rng: np.random.Generator) -> State:
    """Return a position drawn evenly from both rooms, in metres (2)."""
    return in_room(int(rng.integers(2)), rng)


def _limited(move: NDArray[np.floating[Any]], limit: float = STEP) -> Action:
    """Shorten a displacement until no axis moves farther than ``limit`` metres; the direction stays."""
    return np.asarray(move * min(1.0, limit / max(float(np.abs(move).max()), 1e-6)), np.float32)


def _towards(state: State, goal: State) -> NDArray[np.floating[Any]]:
    """The way from a position to the next point on the way to a goal, in metres (2)."""
    if room_of(state) == room_of(goal):
        return goal - state
    side = -1 if room_of(state) == 0 else 1
    before_the_door = side * (state[0] - MIDDLE[0]) > WALL[1] - MIDDLE[0] + RADIUS
    if before_the_door and abs(state[1] - MIDDLE[1]) > 0.5 * (DOOR[1] - DOOR[0]) - RADIUS:
        mouth = WALL[1] - MIDDLE[0] + RADIUS + MOUTH
        return np.array([MIDDLE[0] + side * mouth, MIDDLE[1]], np.float32) - state
    return np.array([MIDDLE[0] - side * 2 * STEP, MIDDLE[1]], np.float32) - state


def data_policy(rng: np.random.Generator) -> Controller:
    """Return a controller that wanders between waypoints, mostly in the other room, at changing speeds, with noise.

    It goes through the door, or straight on until a wall stops it, so that both are seen; and sometimes it rests.
    """
    waypoint, gain, through, left = sample_goal(rng), 1.0, True, 0

    def act(state: State) -> Action:
        nonlocal waypoint, gain, through, left
        if left == 0 or math.dist(waypoint, state) < 0.2:
            room = room_of(state)
            waypoint = in_room(1 - room if rng.random() < 0.6 else room, rng, beyond=0.5)
            gain, through = float(rng.choice([0.0, 0.5, 1.0], p=[0.12, 0.28, 0.6])), bool(rng.random() < 0.8)
            left = 3 if gain == 0.0 else 26 if through else 12
        left -= 1
        way = _towards(state, waypoint) if through else waypoint - state
        return _limited(_limited(gain * way, gain * STEP) + rng.normal(0, 0.08 if gain else 0.01, 2))

    return act


def controller(goal: State) -> Controller:
    """Return the scripted controller: through the door where it must, knowing the disc's true position."""
    return lambda state: _limited(_towards(state, goal))


def distance(state: State, goal: State) -> float:
    """Metres between two positions; from room to room by way of the door's middle, unless they are NEAR each other."""
    straight = math.dist(state[:2], goal[:2])
    if straight <= NEAR or room_of(state) == room_of(goal):
        return straight
    return math.dist(state[:2], MIDDLE) + math.dist(MIDDLE, goal[:2])


def place(state: State) -> Placement:
    """Say where the disc is as seen in the picture; seen from above, nothing is near or far."""
    half = (HIGH - LOW) / 2
    return Placement(right=float(state[0] - SIDE / 2) / half, up=float(state[1] - SIDE / 2) / half, away=0.0)


TASK = Task(
    name="two-room",
    description="Two rooms: move a disc to a position, mostly through the door into the other room",
    licence="Apache-2.0 (part of this project)",
    action=ActionSpec(names=("x", "y"), units=("m", "m"), low=(-STEP, -STEP), high=(STEP, STEP), active=(0, 1)),
    camera=CAMERA,
    states=("disc x [m]", "disc y [m]"),
    open=TwoRoom,
    data_policy=data_policy,
    sample_goal=sample_goal,
    controller=controller,
    distance=distance,
    place=place,
    subject="disc",
    labels=tuple(label for label in LABELS if label not in ("near", "far")),
    tolerances=(NEAR, NEAR / 2, NEAR / 4),
    min_goal_distance=4.0,
    collect_frames=40,
    settle_steps=36,
    evaluation_steps=40,
    factors=("light", "colours", "distractors"),
    renderer="numpy",
)
