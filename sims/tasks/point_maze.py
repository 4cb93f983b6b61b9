"""PointMaze_UMaze-v3 of gymnasium-robotics: a ball that forces push through a maze of seven 1 m cells, a U.

The physics is Gymnasium's, untouched; how hard and how often the ball is pushed is ours. It weighs 4.2 kg, hardly
slows down by itself (damping 1 N s/m), and the environment offers 100 N a hundred times a second. Here an action is a
push of at most 20 N along each axis for 0.2 s: it changes the speed by up to 0.95 m/s, so that the ball stops within
two actions from the 1.6 m/s at which it goes from one end of the U to the other in about 18.

The picture is ours: from so high that no wall hides floor, one colour for the floor, no target (the goal would be
visible), and the ball drawn as a disc above the walls, larger than it is, as the environment's own picture does.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.specs import ActionSpec, CameraSpec
from sims.core.language import LABELS, Placement
from sims.core.rendering import HIDDEN_GROUP, View, backend
from sims.core.scene import MujocoSimulation, Scene
from sims.core.task import Action, Controller, State, Task

INTERVAL = 20  # environment steps in one action
DT = 0.01 * INTERVAL  # seconds in one action
FORCE = 100.0  # N of an environment's action of 1
PUSH = 20.0  # N that an action may ask for along each axis
MASS = 4.19  # kg
HALF = 1.5  # metres from the middle of the maze to its outer walls
EDGE = 0.5  # metres; the inner wall is where x < EDGE and |y| < EDGE: the U opens to the left
RADIUS = 0.1  # metres, of the ball
SHOWN_RADIUS, SHOWN_HEIGHT = 0.16, 0.42  # metres, of the disc that is drawn for the ball; the walls are 0.4 high
CAMERA = CameraSpec(height=64, width=64, dt=DT, name="above")
VIEW = View(look_at=(0.0, 0.0, 0.0), distance=19.8, azimuth=90.0, elevation=-90.0, fovy=10.0)
FLOOR_COLOUR, WALL_COLOUR, BALL_COLOUR = (0.68, 0.66, 0.60, 1.0), (0.18, 0.24, 0.34, 1.0), (0.80, 0.18, 0.10, 1.0)
NEAR = 0.45  # metres at which the environment says success (gymnasium-robotics 1.4.2, point_maze.py)
CRUISE = 1.6  # m/s, the speed of the scripted controller
BRAKE = 0.4  # seconds in which it would cover what is left of its way: it slows down in time

Point = tuple[float, float]


class PointMaze(MujocoSimulation):
    """The running environment behind sims.core.task.Simulation."""

    def __init__(self) -> None:
        chosen = backend()
        import mujoco

        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # notices about other environments
            warnings.simplefilter("ignore")
            from gymnasium_robotics.envs.maze.point import PointEnv
            from gymnasium_robotics.envs.maze.point_maze import PointMazeEnv
        self._mujoco, maze = mujoco, PointMazeEnv()  # its map is the U, and it writes that as a file
        file = Path(maze.tmp_xml_file_path)
        maze.close()
        _draw_larger(file)
        self._env = PointEnv(xml_file=str(file))
        file.unlink()
        self._data = self._env.data
        _dress(self._env.model)
        self._scene = Scene(self._env.model, self._data, VIEW, CAMERA, chosen)
        self._env.reset(seed=0)
        self._data.qpos[:] = 1.0, 0.0  # the middle of the bend
        self._initial = self.save()
        self.reset()

    def step(self, action: Action) -> None:
        push = np.clip(np.asarray(action, np.float64), -PUSH, PUSH) / FORCE
        for _ in range(INTERVAL):
            self._env.step(push)
        self._mujoco.mj_forward(self._env.model, self._data)  # without it the picture would be one step old

    def state(self) -> State:
        return np.concatenate([self._data.qpos, self._data.qvel]).astype(np.float32)


def _draw_larger(file: Path) -> None:
    """Add a disc to the ball, without mass and touching nothing, to the model in ``file``."""
    tree = ElementTree.parse(file)
    ball = tree.find(".//body[@name='particle']")
    assert ball is not None
    looks = {"type": "cylinder", "size": f"{SHOWN_RADIUS} 0.01", "pos": f"0 0 {SHOWN_HEIGHT}"}
    ElementTree.SubElement(ball, "geom", looks, name="shown", mass="0", contype="0", conaffinity="0")
    tree.write(file)


def _dress(model: Any) -> None:
    """Hide the target and what the environment draws for the ball, and choose the colours."""
    model.site_rgba[:, 3] = 0
    model.geom_rgba[:] = WALL_COLOUR
    model.geom("ground").matid, model.geom("ground").rgba = -1, FLOOR_COLOUR
    model.geom("particle_geom").group = HIDDEN_GROUP
    model.geom("shown").rgba = BALL_COLOUR


def _free(start: Point, end: Point, clear: float) -> bool:
    """Say whether the straight way from ``start`` to ``end`` stays ``clear`` metres away from the inner wall."""
    edge, rise = EDGE + clear, end[1] - start[1]
    shares = [0.0, 1.0]
    if rise:
        shares = sorted(min(max((y - start[1]) / rise, 0.0), 1.0) for y in (-edge, edge))
    beside_the_wall = shares[0] < shares[1] and abs(start[1] + sum(shares) / 2 * rise) < edge
    return not beside_the_wall or min(start[0] + t * (end[0] - start[0]) for t in shares) >= edge - 1e-6


def way(start: Point, end: Point, clear: float = 0.0, corner: float = 0.0) -> list[Point]:
    """Return the shortest way between two points, ``start`` left out: straight pieces around the inner wall.

    ``clear``: how far each piece stays away from the wall; ``corner``: how far it turns from the wall's corners, both
    in metres along each axis.
    """
    upper, lower = (EDGE + corner, EDGE + corner), (EDGE + corner, -EDGE - corner)
    ways: list[list[Point]] = [[end], [upper, end], [lower, end], [upper, lower, end], [lower, upper, end]]
    free = [w for w in ways if all(_free(a, b, clear) for a, b in itertools.pairwise([start, *w]))]
    return min(free or ways[:1], key=lambda w: length(start, w))


def length(start: Point, points: Sequence[Point]) -> float:
    """Metres from ``start`` along ``points``."""
    return sum(math.dist(a, b) for a, b in itertools.pairwise([start, *points]))


def sample_goal(rng: np.random.Generator, bend: float = 0.15) -> State:
    """Return a ball at rest (4): with probability ``bend`` in the bend of the U, else in one of its arms."""
    near, far = EDGE + RADIUS, HALF - RADIUS
    x, y = rng.uniform(-far, near), rng.uniform(near, far) * rng.choice([-1, 1])
    if rng.random() < bend:
        x, y = rng.uniform(near, far), rng.uniform(-far, far)
    return np.array([x, y, 0, 0], np.float32)


def _push(state: State, velocity: NDArray[np.floating[Any]]) -> Action:
    """The force (N) after which the ball has ``velocity`` (m/s), shortened to what an action may ask for."""
    force = (np.asarray(velocity, np.float64) - state[2:]) * MASS / DT
    return np.asarray(force * min(1.0, PUSH / max(float(np.abs(force).max()), 1e-6)), np.float32)


def _velocity(state: State, goal: Point, cruise: float, corner: float = 0.25) -> NDArray[np.float64]:
    """The velocity (m/s) to have on the way to ``goal``: towards its next corner, slower the nearer its end is."""
    here = (float(state[0]), float(state[1]))
    points = way(here, goal, clear=0.07, corner=corner)
    speed = min(cruise, length(here, points) / BRAKE)
    ahead = np.subtract(points[0], here)
    direction: NDArray[np.float64] = ahead / max(float(np.hypot(*ahead)), 1e-6)
    return speed * direction


def controller(goal: State) -> Controller:
    """Return the scripted controller: through the U to ``goal`` and stop there, knowing position and velocity."""
    end = (float(goal[0]), float(goal[1]))
    return lambda state: _push(state, _velocity(state, end, CRUISE))


def data_policy(rng: np.random.Generator) -> Controller:
    """Return a controller that wanders all over the U at changing speeds, with noise.

    It goes around the inner wall or straight on against a wall; it is pushed at random, and it stops and rests.
    """
    waypoint, cruise, corner, mode, push, left = (0.0, 0.0), 0.0, 0.0, "go", np.zeros(2), 0

    def act(state: State) -> Action:
        nonlocal waypoint, cruise, corner, mode, push, left
        here = (float(state[0]), float(state[1]))
        if left == 0 or (mode in ("go", "straight") and math.dist(waypoint, here) < 0.15):
            x, y, *_ = (1.05 * sample_goal(rng, bend=0.25)).tolist()  # up to 7 cm into the outer walls
            opposite = rng.random() < 0.4 and y * here[1] > 0  # else it would often stay in one arm
            waypoint, cruise, corner = (x, -y if opposite else y), rng.uniform(0.7, 2.0), rng.uniform(0.15, 0.75)
            mode = str(rng.choice(["go", "straight", "pushed", "rest"], p=[0.46, 0.3, 0.12, 0.12]))
            push = rng.uniform(-PUSH, PUSH, 2)
            if mode == "straight":
                waypoint = (rng.uniform(-2, 2), rng.uniform(-2, 2))  # half of these are in a wall
            left = {"go": 15, "straight": 5, "pushed": 2, "rest": 3}[mode]
        left -= 1
        if mode == "pushed":
            return np.asarray(push, np.float32)
        if mode == "rest":
            return _push(state, np.zeros(2))
        ahead = np.subtract(waypoint, here)
        straight = ahead * min(1 / BRAKE, cruise / max(float(np.hypot(*ahead)), 1e-6))
        wanted = straight if mode == "straight" else _velocity(state, waypoint, cruise, corner)
        return np.asarray(np.clip(_push(state, wanted) + rng.normal(0, 0.2 * PUSH, 2), -PUSH, PUSH), np.float32)

    return act


def distance(state: State, goal: State) -> float:
    """Metres from one position to another along the shortest way through the maze; straight when they are NEAR."""
    (x, y), (goal_x, goal_y) = state[:2].tolist(), goal[:2].tolist()
    straight = math.dist((x, y), (goal_x, goal_y))
    return straight if straight <= NEAR else length((x, y), way((x, y), (goal_x, goal_y)))


def place(state: State) -> Placement:
    """Say where the ball is as seen in the picture; seen from above, nothing is near or far."""
    reach = HALF - RADIUS
    return Placement(right=float(state[0]) / reach, up=float(state[1]) / reach, away=0.0)


TASK = Task(
    name="point-maze",
    description="Point maze: push a ball around the bend of a U and stop it at a position (PointMaze_UMaze-v3)",
    licence="MIT (gymnasium-robotics)",
    action=ActionSpec(
        names=("force x", "force y"), units=("N", "N"), low=(-PUSH, -PUSH), high=(PUSH, PUSH), active=(0, 1)
    ),
    camera=CAMERA,
    states=("ball x [m]", "ball y [m]", "ball x velocity [m/s]", "ball y velocity [m/s]"),
    open=PointMaze,
    data_policy=data_policy,
    sample_goal=sample_goal,
    controller=controller,
    distance=distance,
    place=place,
    subject="ball",
    labels=tuple(label for label in LABELS if label not in ("near", "far")),
    tolerances=(NEAR, 0.3, 0.15),
    min_goal_distance=2.0,
    collect_frames=36,
    settle_steps=30,
    evaluation_steps=30,
    interval=INTERVAL,
)
