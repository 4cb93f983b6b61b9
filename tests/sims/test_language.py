"""Sentences say what is true and nothing else; seeds of the domains cannot meet."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnet_vjepa.errors import UserError
from sims.core.language import (
    HELD_OUT_COMMANDS,
    HELD_OUT_TEMPLATES,
    LABELS,
    POSITION_LABELS,
    Placement,
    captions,
    goal_text,
    motion_labels,
    position_labels,
)
from sims.core.seeds import Domain, domain_of, episode_seed

coordinate = st.floats(-1.5, 1.5)
placements = st.builds(Placement, coordinate, coordinate, coordinate)
SAYS = {
    "left": ("left",),
    "right": ("right",),
    "high": ("upper", "top"),
    "low": ("lower", "bottom"),
    "near": ("near the", "close to the camera", "in front"),
    "far": ("far from", "at the back", "in the background"),
}


def true_words(sentence: str, labels: tuple[str, ...]) -> None:
    for label, words in SAYS.items():
        if any(word in sentence for word in words):
            assert label in labels, (sentence, labels)


@given(placements, st.integers(0, 1000))
def test_captions_say_only_what_is_true(place: Placement, seed: int) -> None:
    labels = position_labels(place)
    for sentence in captions(None, place, np.random.default_rng(seed)):
        true_words(sentence, labels)
        for template in HELD_OUT_TEMPLATES:
            assert not sentence.startswith(template.split("{place}")[0])


@given(placements, st.integers(0, 1000))
def test_goals_in_words_commit_to_what_they_say(place: Placement, seed: int) -> None:
    sentence, required = goal_text(place, np.random.default_rng(seed))
    assert set(required) <= set(position_labels(place)) <= set(POSITION_LABELS)
    true_words(sentence, required)
    for depth in set(required) & {"near", "far"}:
        assert any(word in sentence for word in SAYS[depth])
    assert any(sentence.startswith(template.split("{place}")[0]) for template in HELD_OUT_COMMANDS)


def test_motion_is_as_seen_in_the_picture() -> None:
    centre = Placement(0, 0, 0)
    assert motion_labels(None, centre) == ()
    assert motion_labels(centre, centre) == ("still",)
    assert motion_labels(centre, Placement(-0.2, 0, 0)) == ("moving-left",)
    assert motion_labels(centre, Placement(0.2, 0.2, 0)) == ("moving-right", "moving-up")
    assert motion_labels(centre, Placement(0, -0.2, 0)) == ("moving-down",)
    assert motion_labels(centre, Placement(0, 0, 0.2)) == ()  # away from the camera: neither still nor left or up
    assert set(motion_labels(centre, Placement(0.5, -0.5, 0))) <= set(LABELS)
    spoken = captions(centre, Placement(-0.2, 0.2, 0), np.random.default_rng(0))
    assert "left and up" in spoken[2]


@given(
    st.sampled_from(["collect", "dev", "test"]),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**24 - 1),
    st.sampled_from(["collect", "dev", "test"]),
    st.integers(0, 2**32 - 1),
    st.integers(0, 2**24 - 1),
)
def test_seeds_are_unique(first: Domain, seed: int, index: int, second: Domain, other: int, another: int) -> None:
    number = episode_seed(first, seed, index)
    assert domain_of(number) == first
    assert (number == episode_seed(second, other, another)) == ((first, seed, index) == (second, other, another))


def test_seeds_out_of_range() -> None:
    assert domain_of(12345) is None
    with pytest.raises(UserError, match="seed -1 is out of range; allowed are 0 to 4294967295"):
        episode_seed("test", -1, 0)
    with pytest.raises(UserError, match="episode 16777216"):
        episode_seed("test", 0, 2**24)
