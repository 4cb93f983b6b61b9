"""What tasks share in which a gripper that points down picks up a cube: grasping and carrying it, and doing it badly.

Nothing here knows a simulator. States begin with where the cube and the gripper are (2 x 3, metres) and end with how
far the gripper is open, a fraction. A script says where the gripper should go next, and a task makes that an action.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sims.core.task import State

Point = NDArray[np.floating[Any]]  # 3 numbers, metres
STOP = 0.01  # metres from its goal at which a cube that lies there is let go
OVER = 0.07  # metres above the cube from where the gripper comes down
OUTSIDE = 0.02  # metres beyond its range at which the cube is fetched


class Target(NamedTuple):
    """Where the gripper should go, how far it should open, and what share of the greatest speed it may have."""

    point: Point
    opening: float
    speed: float = 1.0


Script = Callable[[State], Target]


@dataclass(frozen=True)
class Picking:
    """A gripper, a cube and the room that they have (metres)."""

    low: tuple[float, float]  # where cubes are laid
    high: tuple[float, float]
    lying: float  # height of the middle of a cube that lies on the table
    lowest: float  # of the gripper
    highest: float
    holding: tuple[float, float]  # openings between which fingers that are around the cube hold it
    grasp: float = 0.012  # distance of cube and gripper at which it closes
    clear: float = 0.04  # how far a cube is lifted to be taken elsewhere

    def held(self, state: State) -> bool:
        """Whether the fingers are around the cube and as far closed as it lets them."""
        near = float(np.linalg.norm(state[:3] - state[3:6])) < 0.025
        return near and self.holding[0] < float(state[-1]) < self.holding[1]

    def anywhere(self, rng: np.random.Generator, bottom: float, top: float) -> Point:
        """Draw a point evenly above the range of the cube."""
        return np.array([*rng.uniform(self.low, self.high), rng.uniform(bottom, top)])

    def carry(self, state: State, goal: Point) -> Target:
        """Bring the cube to ``goal``: grasp, lift, carry, and hold it there, or let go of it if it lies there."""
        cube, gripper = state[:3], state[3:6]
        offset, way = cube - gripper, goal - cube
        if np.linalg.norm(way) < STOP and goal[2] < self.lying + STOP:
            return Target(cube if state[-1] < self.holding[1] else cube + [0, 0, OVER], 1.0)
        if self.held(state):
            far = np.linalg.norm(way[:2]) > 0.03
            height = max(float(goal[2]), self.lying + self.clear) if far else float(goal[2])
            return Target(np.array([*goal[:2], height]) - offset, 0.0)
        aside = float(np.linalg.norm(offset[:2]))
        if aside < self.grasp and abs(offset[2]) < self.grasp:
            return Target(cube, 0.0)
        if aside < self.grasp or (aside < 2 * self.grasp and -offset[2] < OVER / 2):
            return Target(cube, 1.0)
        if aside < OVER and -offset[2] < OVER / 2:
            return Target(np.array([*gripper[:2], cube[2] + OVER]), 1.0)
        return Target(cube + [0, 0, OVER], 1.0)

    def behave(self, rng: np.random.Generator, sample_goal: Callable[[np.random.Generator], State]) -> Script:
        """Return a script that does one thing after another: carry, let go, sweep, wander, rest.

        It carries the cube to random goals, opens the gripper wherever it is, sweeps through where the cube is,
        wanders to random waypoints with any opening (mostly keeping what it holds), and rests. A cube that leaves its
        range is fetched. A third of the time it takes the cube to be up to 4 cm beside where it is: such grasps push
        it, turn it or miss.
        """
        doing, left, closed, wide, mistake = "", 0, 0.0, 1.0, np.zeros(3)
        target = Target(np.zeros(3), 0.0)

        def begin(state: State) -> None:
            nonlocal doing, left, closed, wide, mistake, target
            holds, cube, gripper = self.held(state), state[:3], state[3:6]
            if holds:
                doing = str(rng.choice(["carry", "let go", "wander", "rest"], p=[0.46, 0.28, 0.14, 0.12]))
            else:
                doing = str(rng.choice(["carry", "sweep", "wander", "rest"], p=[0.62, 0.14, 0.14, 0.1]))
            middle, half = np.add(self.low, self.high) / 2, np.subtract(self.high, self.low) / 2
            outside = bool((np.abs(cube[:2] - middle) > half + OUTSIDE).any())
            if outside and not holds:
                doing = "carry"
            closed = float(rng.choice([0.0, rng.uniform(0, 0.8 * self.holding[0])]))
            wide = float(rng.choice([1.0, rng.uniform(0.3, 1) * (1 - self.holding[1]) + self.holding[1]]))
            mistake = np.array([*rng.uniform(-0.04, 0.04, 2), 0]) * (rng.random() < 0.33 and not outside)
            keeps = holds and rng.random() < 0.8
            point = self.anywhere(rng, self.lowest, self.highest)
            target = Target(point, closed if keeps else float(rng.uniform()), float(rng.uniform(0.4, 1)))
            if doing == "carry":
                target = Target(sample_goal(rng)[:3].astype(np.float64), closed)
            elif doing == "let go":
                target = Target(gripper.copy(), wide)
            elif doing == "rest":
                target = target._replace(point=gripper.copy())
            elif doing == "sweep":
                through = cube[:2] - gripper[:2] + rng.normal(0, 0.015, 2)
                beyond = cube[:2] + through * min(1.0, 0.05 / max(float(np.linalg.norm(through)), 1e-9))
                target = target._replace(point=np.array([*np.clip(beyond, self.low, self.high), self.lying + 0.01]))
            left = {"carry": 8 if holds else 16, "let go": 3, "sweep": 6, "wander": 4, "rest": 3}[doing]

        def act(state: State) -> Target:
            nonlocal left
            if doing == "carry" and np.linalg.norm(target.point - state[:3]) < 0.02:
                left = min(left, int(rng.integers(1, 4)))
            if left == 0:
                begin(state)
            left -= 1
            if doing != "carry":
                return target
            believed = state.copy()
            believed[:3] += mistake if not self.held(state) else 0
            now = self.carry(believed, target.point)
            return now._replace(opening=wide if now.opening else closed)

        return act


def noisy(
    script: Script, move: Callable[[State, Target], NDArray[np.float32]], rng: np.random.Generator, most: float
) -> Callable[[State], NDArray[np.float32]]:
    """Return a controller that does what ``script`` says by ``move``, with noise that changes every few actions.

    ``most``: metres that the largest action asks for; the noise is up to two fifths of it. The last number of an action
    is the gripper's wanted opening.
    """
    noise, left = 0.0, 0

    def act(state: State) -> NDArray[np.float32]:
        nonlocal noise, left
        if left == 0:
            noise, left = float(rng.choice([0.03, 0.15, 0.4], p=[0.4, 0.4, 0.2])), int(rng.integers(4, 12))
        left -= 1
        action = move(state, script(state))
        action[:3] += rng.normal(0, noise * most, 3)
        action[-1] = np.clip(action[-1] + rng.normal(0, 0.25 * noise), 0, 1)
        return action

    return act
