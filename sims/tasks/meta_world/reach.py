"""Meta-World reach and reach-wall: move the hand to a position above the table, with and without a wall on the way.

Goals are drawn from each environment's own goal box. Meta-World starts every episode at one point, (0, 0.6, 0.15);
here starts are drawn from a box near it. For reach-wall that box is low: eight in ten straight lines from there to a
goal lead the fingers into the wall (two in ten from Meta-World's start). A hand that keeps steering straight at its
goal still arrives in eight in ten episodes, as the fingers slide up the wall and over it or around its end.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from sims.core.rendering import View
from sims.core.task import Action, Controller, Simulation, State, Task
from sims.tasks.meta_world.scripted import GAIN, Box, Point, act, action_spec, distance, draw, go, placing
from sims.tasks.meta_world.simulation import CAMERA, LICENCE, NEEDS, REPEAT, MetaWorld, Setup

Route = Callable[[Point, Point], Point]  # from where the hand is and where it is to go to where it should head now

VIEW = View(look_at=(0.0, 0.73, 0.2), distance=0.75, azimuth=160.0, elevation=-35.0)
ROOM: Box = ((-0.13, 0.52, 0.05), (0.13, 0.92, 0.31))  # where collected episodes wander
GOALS: Box = ((-0.1, 0.8, 0.05), (0.1, 0.9, 0.3))  # goal_low and goal_high of the environment
STARTS: Box = ((-0.1, 0.52, 0.05), (0.1, 0.68, 0.3))
WALL_GOALS: Box = ((-0.05, 0.85, 0.05), (0.05, 0.9, 0.3))
WALL_STARTS: Box = ((0.0, 0.58, 0.05), (0.15, 0.66, 0.09))
WALL_Y = 0.75  # the wall stands across the way, 2 cm thick and 12 cm high
BESIDE = 0.085  # metres from the wall's middle at which both fingers are beside it
ABOVE = 0.165  # metres at which the fingertips pass over the wall
WALL_COLOUR = (0.25, 0.3, 0.7, 1.0)
START_STEPS = 10


def straight(_: Point, target: Point) -> Point:
    """Head for the target."""
    return target


def over_wall(hand: Point, target: Point) -> Point:
    """Head for the target, or first up and then over the wall if that is in between."""
    side = 1.0 if hand[1] > WALL_Y else -1.0
    beside = (hand[1] - WALL_Y) * side > BESIDE - 0.01
    if beside and (target[1] - WALL_Y) * side > 0:
        return target
    if hand[2] > ABOVE - 0.02:
        return np.array([target[0], target[1], max(target[2], ABOVE)])
    return np.array([target[0], WALL_Y + side * BESIDE, ABOVE])


def controller(route: Route, goal: State) -> Controller:
    """Return the scripted controller: go to ``goal``, knowing the hand's true position."""
    return lambda state: act(GAIN * (route(state, goal) - state))


def start(box: Box, simulation: Simulation, rng: np.random.Generator) -> None:
    """Let the hand go to a point drawn from a box."""
    go(simulation, slice(0, 3), sample_goal(box, rng), START_STEPS)


def data_policy(route: Route, goals: Box, rng: np.random.Generator) -> Controller:
    """Return a controller that wanders between random waypoints at changing speeds, with noise, and sometimes rests.

    Half of the waypoints are near the goals. Where the route leads over a wall, every second way is straight and lower,
    whatever is in between: a model that has seldom seen a hand held up imagines that it goes through (with one way in
    four, 6 of 30 dev episodes ended with the hand pressed against the wall, at y = 0.785 m).
    """
    waypoint: Point = np.zeros(3)
    way, gain, left = route, 0.0, 0

    def decide(state: State) -> Action:
        nonlocal waypoint, way, gain, left
        if left == 0 or np.linalg.norm(waypoint - state) < 0.03:
            waypoint = draw(ROOM, rng) if rng.random() < 0.5 else draw(goals, rng) + rng.normal(0, 0.025, 3)
            way = route if rng.random() < 0.5 else straight
            if way is not route:
                waypoint[2] = min(waypoint[2], rng.uniform(ROOM[0][2], ROOM[1][2]))
            gain, left = float(rng.choice([0.0, 0.3, GAIN], p=[0.1, 0.3, 0.6])), 10
            if gain == 0.0:
                left = 3
        left -= 1
        noise = rng.normal(0, 0.015 if gain else 0.002, 3)
        return act(gain * (way(state, waypoint) - state) + noise)

    return decide


def sample_goal(box: Box, rng: np.random.Generator) -> State:
    """Return a hand position drawn evenly from a box, in metres (3)."""
    return draw(box, rng).astype(np.float32)


def _task(name: str, what: str, setup: Setup, route: Route, starts: Box, goals: Box, steps: int) -> Task:
    return Task(
        name=name,
        description=f"Sawyer arm: move the hand to a position above the table{what} (Meta-World {setup.environment})",
        licence=LICENCE,
        action=action_spec(),
        camera=CAMERA,
        states=("hand x [m]", "hand y [m]", "hand z [m]"),
        open=partial(MetaWorld, setup),
        data_policy=partial(data_policy, route, goals),
        sample_goal=partial(sample_goal, goals),
        controller=partial(controller, route),
        distance=distance,
        place=placing(VIEW, ROOM),
        start=partial(start, starts),
        tolerances=(0.05, 0.03, 0.02),  # Meta-World's success: within 5 cm (TARGET_RADIUS)
        settle_steps=16,
        evaluation_steps=steps,
        interval=REPEAT,
        needs=NEEDS,
    )


REACH_TASK = _task("meta-world-reach", "", Setup("reach-v3", VIEW), straight, STARTS, GOALS, 15)
WALL_TASK = _task(
    "meta-world-reach-wall",
    ", behind a wall",
    Setup("reach-wall-v3", VIEW, colours={"wall_brick": WALL_COLOUR}),
    over_wall,
    WALL_STARTS,
    WALL_GOALS,
    18,
)
