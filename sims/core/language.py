"""Sentences and labels that say where the gripper (or another subject) is in the picture and how it moves in it.

Everything is as seen in the picture: left, right, high and low are the picture's; near and far count along the ground,
away from the camera. Positions are first scaled so that the workspace spans -1 to 1 in each of the three directions.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

POSITION_LABELS = ("left", "centre", "right", "high", "middle", "low", "near", "far")
MOTION_LABELS = ("moving-left", "moving-right", "moving-up", "moving-down", "still")
LABELS = POSITION_LABELS + MOTION_LABELS

BAND = 0.28  # half width of 'centre' and 'middle': about half of the workspace
EXTREME = 0.75  # beyond this, 'far left' may be said
MOVES = 0.08  # a twelfth of the half width, about one pixel of 64
STILL = 0.04

NEAR_WORDS = ("near the camera", "close to the camera", "in front")
FAR_WORDS = ("far from the camera", "at the back", "in the background")
DESCRIPTIONS = (
    "the gripper is at the {place}",
    "the gripper is in the {place} of the picture",
    "the robot holds its gripper at the {place}",
    "the hand of the robot is at the {place}",
    "there is the gripper, at the {place}",
)
COMMANDS = (
    "move the gripper to the {place}",
    "bring the gripper to the {place} of the picture",
    "go to the {place}",
    "put the hand at the {place}",
    "move to the {place} of the picture",
)
HELD_OUT_DESCRIPTIONS = (
    "the gripper has come to the {place}",
    "in the picture the robot is at the {place}",
)
HELD_OUT_COMMANDS = (
    "take the hand to the {place} of the picture",
    "the gripper should go to the {place}",
    "reach the {place}",
)
HELD_OUT_TEMPLATES = HELD_OUT_DESCRIPTIONS + HELD_OUT_COMMANDS  # kept for evaluation: collected data never has them
MOTIONS = (
    "the gripper moves {way}",
    "the robot moves its hand {way}",
    "the hand goes {way} in the picture",
    "moving {way}",
)
RESTS = ("the gripper stays where it is", "the robot holds still", "the gripper does not move")


@dataclass(frozen=True)
class Placement:
    """Where the gripper is as seen in the picture, scaled so that the workspace spans about -1 to 1."""

    right: float
    up: float
    away: float


def position_labels(place: Placement) -> tuple[str, ...]:
    """Return one of left, centre, right; one of high, middle, low; and near or far where it is one of the two."""
    across = "left" if place.right < -BAND else "right" if place.right > BAND else "centre"
    along = "low" if place.up < -BAND else "high" if place.up > BAND else "middle"
    depth = ("near",) if place.away < -BAND else ("far",) if place.away > BAND else ()
    return (across, along, *depth)


def motion_labels(before: Placement | None, now: Placement) -> tuple[str, ...]:
    """Return the directions in which the gripper moved in the picture since ``before``, or 'still', or nothing."""
    if before is None:
        return ()
    right, up, away = now.right - before.right, now.up - before.up, now.away - before.away
    if max(abs(right), abs(up), abs(away)) < STILL:
        return ("still",)
    across = ("moving-left",) if right < -MOVES else ("moving-right",) if right > MOVES else ()
    along = ("moving-down",) if up < -MOVES else ("moving-up",) if up > MOVES else ()
    return across + along


def _place_words(place: Placement, rng: np.random.Generator) -> str:
    across, along = position_labels(place)[:2]
    vertical = {"high": rng.choice(["upper", "top"]), "low": rng.choice(["lower", "bottom"]), "middle": ""}[along]
    if vertical and across != "centre" and rng.random() < 0.3:
        return f"{vertical} {across} corner"
    far = "far " if not vertical and abs(place.right) > EXTREME and rng.random() < 0.5 else ""
    return f"{far}{vertical}{' ' if vertical else ''}{across}"


def _say(templates: tuple[str, ...], place: Placement, rng: np.random.Generator) -> tuple[str, tuple[str, ...]]:
    """Return a sentence and the position labels that it commits to; the depth is not always said."""
    across, along, *depth = position_labels(place)
    sentence = templates[int(rng.integers(len(templates)))].format(place=_place_words(place, rng))
    if not depth or rng.random() < 0.4:
        return sentence, (across, along)
    return f"{sentence}, {rng.choice(NEAR_WORDS if depth == ['near'] else FAR_WORDS)}", (across, along, *depth)


def captions(
    before: Placement | None, now: Placement, rng: np.random.Generator, subject: str = "gripper"
) -> tuple[str, ...]:
    """Return sentences true of a frame: a description, a command that it fulfils, and the motion if there is one."""
    said = [_say(DESCRIPTIONS, now, rng)[0], _say(COMMANDS, now, rng)[0]]
    motion = motion_labels(before, now)
    if motion == ("still",):
        said.append(str(rng.choice(RESTS)))
    elif motion:
        way = " and ".join(name.removeprefix("moving-") for name in motion)
        said.append(MOTIONS[int(rng.integers(len(MOTIONS)))].format(way=way))
    return tuple(_about(sentence, subject) for sentence in said)


def goal_text(place: Placement, rng: np.random.Generator, subject: str = "gripper") -> tuple[str, tuple[str, ...]]:
    """Return a command to go to ``place`` in a phrasing reserved for evaluation, and the labels that fulfil it."""
    sentence, required = _say(HELD_OUT_COMMANDS, place, rng)
    return _about(sentence, subject), required


def _about(sentence: str, subject: str) -> str:
    """The same sentence about another subject. Templates speak of a gripper, and of it as a hand."""
    return sentence if subject == "gripper" else sentence.replace("gripper", subject).replace("hand", subject)


OPPOSITES = {
    "across": {"left": "right", "right": "left"},
    "along": {"upper": "lower", "lower": "upper", "top": "bottom", "bottom": "top", "high": "low", "low": "high"},
}


def opposite(words: str, axis: str) -> str:
    """The same sentence or label with left and right (``axis`` "across") or up and down ("along") exchanged."""
    return re.sub(r"[a-z]+", lambda word: OPPOSITES[axis].get(word[0], word[0]), words)
