"""Push-T of gym-pusht: a round pusher moves a T-shaped block over a plane to a place and an angle.

The physics is the environment's (pymunk). An action moves the pusher by a displacement within half a second, five steps
of the environment, at the end of which it nearly stands still: a single picture then tells almost everything. The
picture is drawn here, in the environment's colours, without the T that marks the environment's own goal.

pymunk keeps what its solver knows of contacts to itself, so a saved state could not be restored exactly. Here every
action starts in a space made anew: one in fifty physics steps starts without that knowledge.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from hnet_vjepa.errors import UserError
from hnet_vjepa.specs import ActionSpec, CameraSpec
from sims.core.disturbance import purposeful
from sims.core.language import LABELS, Placement
from sims.core.rendering import draw_discs
from sims.core.scene import DIMMEST, TURN
from sims.core.task import Action, Controller, Simulation, State, Task
from sims.core.variation import Variation
from sims.tasks import push_t_script as script

SIDE = 512  # pixels of the environment's world, which the picture shows
NEEDS = "pip install 'hnet-vjepa[pusht]'"
INTERVAL = 5  # environment steps of 0.1 s in one action; after 2, 3 and 5 of them 62, 81 and 96 % of the way is done
MOST = 50.0  # pixels along each axis in one action
ACTION = ActionSpec(names=("x", "y"), units=("px", "px"), low=(-MOST, -MOST), high=(MOST, MOST), active=(0, 1))
CAMERA = CameraSpec(height=64, width=64, dt=0.1 * INTERVAL, name="above")
OVERSAMPLING = 4
FLOOR, WALL, BLOCK, PUSHER = (255, 255, 255), (211, 211, 211), (119, 136, 153), (65, 105, 225)
WALLS, WALL_WIDTH = (5, 506), 4  # pixels
MIDDLE = SIDE / 2
STARTS, GOALS = 150.0, 120.0  # pixels from the middle within which the block's centre starts and is pushed to
RUN_IN = 16  # actions of the data policy, fewer than these, before an episode or a task starts
APART = script.RADIUS + 5  # pixels between the pusher's centre and the block at the start
ARRIVAL = 0.96  # share of a displacement that the pusher does in an action

# dino_wm (env/pusht/pusht_wrapper.py, eval_state) and stable-worldmodel (envs/pusht/env.py) count as success that
# pusher and block together are within 20 pixels, as one vector of four numbers, and the angle within pi / 9.
NEAR, ALIGNED = 20.0, np.pi / 9


class PushT:
    """The environment as a Simulation. The state: pusher x, y, block x, y, cosine and sine of its angle."""

    def __init__(self) -> None:
        try:
            with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):  # pygame's greeting
                warnings.simplefilter("ignore")
                import pymunk
                from gym_pusht.envs.pusht import PushTEnv
        except ImportError as error:
            raise UserError(f"push-t needs gym-pusht ({error}): {NEEDS}") from error
        self._vector = pymunk.Vec2d
        self._env = PushTEnv(obs_type="state")
        self._env._get_coverage = lambda: 0.0  # of the environment's goal, which is not ours: slow
        self._env.reset(seed=0)
        # Pusher x, y and velocity; block x, y, angle, velocity and angular velocity.
        self._now = np.array([256, 400, 0, 0, 256, 300, 0, 0, 0, 0], np.float64)
        self._initial = self._now.copy()
        self.vary(Variation())

    def reset(self) -> None:
        self.restore(self._initial)

    def put(self, pusher: NDArray[np.float64], block: NDArray[np.float64]) -> None:
        """Put pusher (x, y) and block (x, y, angle) at rest where nothing touches."""
        self._now = np.array([*pusher, 0, 0, *block, 0, 0, 0])

    def step(self, action: Action) -> None:
        env, now = self._env, self._now
        env._setup()
        env.agent.position, env.agent.velocity = tuple(now[:2]), tuple(now[2:4])
        env.block.angle, env.block.position = now[6], tuple(now[4:6])
        env.block.velocity, env.block.angular_velocity = tuple(now[7:9]), now[9]
        move = np.clip(np.asarray(action, np.float64), -MOST, MOST)
        target = self._vector(*np.clip(now[:2] + move, script.LOW, script.HIGH))
        for _ in range(INTERVAL):
            env.step(target)
        pusher, block = env.agent, env.block
        self._now = np.array(
            [*pusher.position, *pusher.velocity, *block.position, block.angle, *block.velocity, block.angular_velocity]
        )

    def frame(self) -> NDArray[np.uint8]:
        scale = OVERSAMPLING * CAMERA.width / SIDE
        picture = Image.new("RGB", (OVERSAMPLING * CAMERA.width, OVERSAMPLING * CAMERA.height), self._colours[0])
        draw = ImageDraw.Draw(picture)
        low, high = WALLS
        walls = self._seen(np.array([(low, low), (high, low), (high, high), (low, high), (low, low)])) * scale
        draw.line([tuple(p) for p in walls], fill=self._colours[1], width=round(WALL_WIDTH * scale))
        corners = self._now[4:6] + (script.CORNERS + script.CENTRE) @ script.rotation(self._now[6]).T
        draw.polygon([tuple(p) for p in self._seen(corners) * scale], fill=self._colours[2])
        x, y = self._seen(self._now[:2]) * scale
        radius = script.RADIUS * scale
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=self._colours[3])
        small = np.array(picture.reduce(OVERSAMPLING))
        draw_discs(small, self._distractors)
        return small

    def _seen(self, points: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
        """Points (... x 2, pixels of the world) as the camera sees them, which may be turned."""
        seen: NDArray[np.float64] = (points - MIDDLE) @ self._turn.T + MIDDLE
        return seen

    def state(self) -> State:
        return np.array([*self._now[:2], *self._now[4:6], np.cos(self._now[6]), np.sin(self._now[6])], np.float32)

    def save(self) -> NDArray[np.float64]:
        return self._now.copy()

    def restore(self, saved: NDArray[np.float64]) -> None:
        self._now = saved.copy()

    def vary(self, variation: Variation) -> None:
        colours, strength = np.array([FLOOR, WALL, BLOCK, PUSHER], np.float64), variation.strength
        if variation.factor == "light":
            colours = (1 - DIMMEST * strength) * colours
        elif variation.factor == "colours":
            colours = (1 - strength) * colours + strength * colours[:, [1, 2, 0]]
        self._colours = [tuple(round(c) for c in colour) for colour in colours]
        self._turn = script.rotation(np.radians(TURN * strength) if variation.factor == "camera" else 0.0)
        self._distractors = variation.distractors()

    def close(self) -> None:
        self._env.close()


def pose_of(state: State) -> NDArray[np.float64]:
    """Where the block's centre of gravity is and how it is turned, as sims.tasks.push_t_script has it (3)."""
    angle = float(np.arctan2(state[5], state[4]))
    return np.array([*(state[2:4] + script.rotation(angle) @ script.CENTRE), angle])


def _limited(move: NDArray[np.floating[Any]], limit: float = MOST) -> Action:
    """Shorten a displacement until no axis moves farther than ``limit`` pixels; the direction stays."""
    return np.asarray(move * min(1.0, limit / max(float(np.abs(move).max()), 1e-6)), np.float32)


def sample_goal(rng: np.random.Generator, half: float = GOALS) -> State:
    """Draw places of pusher and block that do not touch; the block's centre is within ``half`` of the middle."""
    pose = np.array([*(MIDDLE + rng.uniform(-half, half, 2)), rng.uniform(-np.pi, np.pi)])
    pushers = rng.uniform(50, 450, (64, 2))
    pusher = pushers[script.gaps(pushers, pose) > APART][0]
    block = pose[:2] - script.rotation(pose[2]) @ script.CENTRE
    return np.array([*pusher, *block, np.cos(pose[2]), np.sin(pose[2])], np.float32)


def controller(goal: State) -> Controller:
    """Return the scripted controller: push after push until the block is there, then the pusher goes to its place."""
    return _pushing(goal, ahead=6, near=2)


def _pushing(goal: State, ahead: int, near: float) -> Controller:
    pusher = script.Pusher(pose_of(goal), goal[:2].astype(np.float64), ahead, near)
    return lambda state: _limited(pusher.move(state[:2].astype(np.float64), pose_of(state)) / ARRIVAL)


def mixture(rng: np.random.Generator) -> Controller:
    """Return a controller that does one thing after another, with noise: push, jab, wander, rest.

    It pushes the block towards random poses with the scripted pusher, pushes straight at some point of it and on,
    goes to random places (around the block or straight through it), and rests. A block that comes near a wall is
    pushed back to the middle.
    """
    left, noise, fastest = 0, 0.0, MOST
    target: NDArray[np.float64] | script.Pusher = np.zeros(2)

    def begin(pusher: NDArray[np.float64], pose: NDArray[np.float64]) -> None:
        nonlocal left, noise, fastest, target
        doing = str(rng.choice(["push", "jab", "wander", "rest"], p=[0.5, 0.2, 0.12, 0.18]))
        noise, fastest = float(rng.choice([0.5, 4.0, 12.0], p=[0.4, 0.4, 0.2])), float(rng.uniform(20, MOST))
        goal = sample_goal(rng)
        if np.abs(pose[:2] - MIDDLE).max() > STARTS:
            doing = "push"
        if doing == "push":
            left, fastest = 16, MOST
            target = script.Pusher(pose_of(goal), goal[:2].astype(np.float64), near=2 + 1.5 * noise)
        elif doing == "jab":
            through = pose[:2] + rng.normal(0, 30, 2) - pusher
            left, target = 4, pusher + through * (1 + 60 / max(float(np.linalg.norm(through)), 1.0))
        elif doing == "wander":
            left, target = 4, goal[:2].astype(np.float64)
        else:
            left, target, noise = 3, pusher, 0.5

    def act(state: State) -> Action:
        nonlocal left
        pusher, pose = state[:2].astype(np.float64), pose_of(state)
        if left == 0 or (isinstance(target, np.ndarray) and np.abs(pose[:2] - MIDDLE).max() > STARTS):
            begin(pusher, pose)
        left -= 1
        move = target.move(pusher, pose) if isinstance(target, script.Pusher) else target - pusher
        if np.abs(move).max() < 1 and left > 2:
            left = 2
        return _limited(_limited(move, fastest) / ARRIVAL + rng.normal(0, noise, 2))

    return act


def _skill(rng: np.random.Generator) -> Controller:
    """Return the scripted controller for a random goal, which does not wait for a disturbed pusher to be exact."""
    return _pushing(sample_goal(rng), ahead=1, near=12)


data_policy = partial(purposeful, _skill, mixture, ACTION)


def start(simulation: Simulation, rng: np.random.Generator) -> None:
    """Put pusher and block anywhere and go to a random moment of an episode, as in the literature.

    From where they are put, the pusher's way to the block would take most of the shortest tasks.
    """
    assert isinstance(simulation, PushT)
    state = sample_goal(rng, STARTS).astype(np.float64)
    simulation.put(state[:2], np.array([*state[2:4], np.arctan2(state[5], state[4])]))
    act = data_policy(rng)
    for _ in range(int(rng.integers(RUN_IN))):
        simulation.step(act(simulation.state()))


def distance(state: State, goal: State) -> float:
    """The worse of two errors, as shares of what success allows: pusher and block together, and the block's angle."""
    apart = float(np.linalg.norm(state[:4] - goal[:4])) / NEAR
    turned = np.arctan2(state[5], state[4]) - np.arctan2(goal[5], goal[4])
    return max(apart, abs(float((turned + np.pi) % (2 * np.pi) - np.pi)) / ALIGNED)


def place(state: State) -> Placement:
    """Say where the block's centre is as seen in the picture; seen from above, nothing is near or far."""
    x, y = (pose_of(state)[:2] - MIDDLE) / STARTS
    return Placement(right=float(x), up=float(-y), away=0.0)


TASK = Task(
    name="push-t",
    description="Push-T: push a T-shaped block to a place and an angle with a round pusher (gym-pusht)",
    licence="Apache-2.0 (gym-pusht)",
    action=ACTION,
    camera=CAMERA,
    states=("pusher x (px)", "pusher y (px)", "block x (px)", "block y (px)", "block cosine", "block sine"),
    open=PushT,
    data_policy=data_policy,
    sample_goal=sample_goal,
    controller=controller,
    distance=distance,
    place=place,
    start=start,
    subject="block",
    labels=tuple(label for label in LABELS if label not in ("near", "far")),
    unit="",
    tolerances=(1.0, 0.5),
    min_goal_distance=2.0,
    collect_frames=32,
    settle_steps=12,  # the block has then moved by 90 pixels and 0.8 rad (median)
    evaluation_steps=24,
    interval=INTERVAL,
    factors=("light", "camera", "colours", "distractors"),
    needs=NEEDS,
    renderer="pillow",
)
