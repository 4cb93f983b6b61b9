"""Action and camera specs refuse what does not make sense and say what would."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from hnet_vjepa.errors import UserError
from hnet_vjepa.specs import ActionSpec, CameraSpec, bounds_of, explain

TWO: dict[str, Any] = {"names": ("x", "y"), "units": ("m", "m"), "low": (-1, -2), "high": (1, 2), "active": (0, 1)}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"names": ("x", "x")}, "different"),
        ({"names": ("x", "")}, "not empty"),
        ({"units": ("m",)}, "units has 1 entries; names has 2"),
        ({"low": (-1,)}, "low has 1 entries"),
        ({"low": (2, -2)}, "x has 2 and 1"),
        ({"low": (float("nan"), -2)}, "finite"),
        ({"high": (float("inf"), 2)}, "finite"),
        ({"active": ()}, "at least one"),
        ({"active": (1, 0)}, "rising"),
        ({"active": (0, 0)}, "rising"),
        ({"active": (0, 2)}, "0 to 1"),
        ({"active": (-1, 0)}, "0 to 1"),
        ({"mean": (0.0,)}, "mean has 1 entries"),
        ({"mean": (0.0, 0.0), "std": (1.0, 0.0)}, "std must be positive"),
        ({"speed": 1}, "speed"),
    ],
)
def test_inconsistent_action_specs_are_refused(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ActionSpec(**{**TWO, **change})
    line = explain(caught.value)
    assert complaint in line
    assert "\n" not in line


def test_default_is_the_cartesian_seven() -> None:
    spec = ActionSpec(low=(-1,) * 7, high=(1,) * 7, active=(0, 1, 2))
    assert spec.dim == 7
    assert ActionSpec.model_validate_json(spec.model_dump_json()) == spec


def test_check_actions() -> None:
    spec = ActionSpec(**TWO)
    assert spec.check([1, 2], "here").dtype == np.float32
    assert spec.check(np.zeros((3, 4, 2)), "here").shape == (3, 4, 2)  # type: ignore[arg-type]
    wrong: list[tuple[Any, str]] = [
        ([1, 2, 3], "3 numbers; this robot takes 2 \\(x, y\\)"),
        (5.0, "0 numbers"),
        ([1, float("nan")], "NaN"),
        ([1, 1e300], "infinity"),
        (["a", "b"], "not a row of 2 numbers"),
        ([[1, 2], [1]], "not a row of 2 numbers"),
    ]
    for actions, complaint in wrong:
        with pytest.raises(UserError, match=f"here: .*{complaint}"):
            spec.check(actions, "here")


def test_normalisation_is_measured_on_active_dimensions() -> None:
    spec = ActionSpec(**{**TWO, "active": (1,)})
    actions = np.array([[9, 1], [9, 3]], np.float32)
    assert (spec.normalised_by(actions).mean, spec.normalised_by(actions).std) == ((2.0,), (1.0,))
    constant = spec.normalised_by(np.full((5, 2), 0.1, np.float32))
    assert constant.std == (1e-6,)
    with pytest.raises(UserError, match="no actions"):
        spec.normalised_by(np.zeros((0, 2), np.float32))


def test_camera() -> None:
    camera = CameraSpec(height=4, width=6, dt=0.1)
    camera.check(np.zeros((2, 4, 6, 3), np.uint8), "here")
    for frames in (np.zeros((6, 4, 3), np.uint8), np.zeros((4, 6, 3), np.float32), np.zeros((4, 6), np.uint8)):
        with pytest.raises(UserError, match=r"here: .*4 x 6 x 3 of type uint8"):
            camera.check(frames, "here")  # type: ignore[arg-type]
    for wrong in ({"height": 0}, {"dt": 0.0}, {"dt": float("nan")}, {"dt": float("inf")}):
        with pytest.raises(ValidationError):
            CameraSpec(**{"height": 4, "width": 6, "dt": 0.1, **wrong})  # type: ignore[arg-type]


def test_bounds_leave_out_a_glitch_and_keep_commands() -> None:
    generator = np.random.default_rng(0)
    moves, grips = generator.normal(0, 0.01, 1000), generator.integers(0, 2, 1000)
    moves[17] = 100.0
    grips[:] = 0
    grips[3] = 1  # rare, but a command and not a glitch
    low, high = bounds_of(np.stack([moves, grips], 1).astype(np.float32))
    assert high[0] < 0.05
    assert (low[1], high[1]) == (0.0, 1.0)


@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=60))
def test_bounds_are_within_the_data_and_make_a_spec(values: list[float]) -> None:
    column = np.array(values, np.float32)[:, None]
    low, high = bounds_of(column)
    assert column.min() <= low[0] <= high[0] <= column.max()
    ActionSpec(names=("x",), units=("m",), low=low, high=high, active=(0,))


def test_normalisation_divides_by_the_standard_deviation() -> None:
    spec = ActionSpec(**{**TWO, "active": (1,)})
    found = spec.normalised_by(np.array([[0, 1], [0, 2], [0, 6]], np.float32))
    assert found.mean == (3.0,)
    assert found.std == pytest.approx((math.sqrt((4 + 1 + 9) / 3),))


def test_a_dimension_that_hardly_changes_is_not_blown_up() -> None:
    """1.569 +- 0.0005 beside columns of a deviation of 0.3 m; a column of another unit is left alone."""
    random = np.random.default_rng(0)
    spread = np.array([0.3, 0.0005, 0.2, 0.001])
    actions = (random.normal(0, 1, (5000, 4)) * spread + [0, 1.569, 0, 0]).astype(np.float32)
    spec = ActionSpec(
        names=("x", "y", "z", "w"), units=("m", "m", "m", "rad"), low=(-9,) * 4, high=(9,) * 4, active=(0, 1, 2, 3)
    )
    std = spec.normalised_by(actions).std
    assert std == pytest.approx([0.3, 0.003, 0.2, 0.001], rel=0.05)
    nothing = ActionSpec(names=(), units=(), low=(), high=(), active=())
    assert nothing.normalised_by(np.zeros((5, 0), np.float32)).std == ()
