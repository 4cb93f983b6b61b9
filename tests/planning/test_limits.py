"""Projected actions lie inside the bounds and the L1 ball, and change no faster than the rate limit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from hnet_vjepa.planning.limits import limits_of
from hnet_vjepa.specs import ActionSpec

SLACK = 1e-5  # of float32, in shares of the numbers compared


@st.composite
def specs(draw: st.DrawFn) -> ActionSpec:
    dim = draw(st.integers(1, 5))
    size = st.floats(1e-3, 1e3)
    high = [draw(st.one_of(st.just(0.0), size)) for _ in range(dim)]
    low = [-draw(st.one_of(st.just(0.0), size)) for _ in range(dim)]
    return ActionSpec(
        names=tuple("abcde"[:dim]),
        units=("m",) * dim,
        low=tuple(low),
        high=tuple(high),
        active=tuple(range(dim)),
        absolute=(dim - 1,) if draw(st.booleans()) else (),
        rate=tuple(draw(size) for _ in range(dim)) if draw(st.booleans()) else None,
        l1=draw(size) if draw(st.booleans()) else None,
    )


@settings(max_examples=300, deadline=None)
@given(specs(), st.integers(0, 2**31))
def test_bounds_ball_and_rate_hold_at_once(spec: ActionSpec, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    limits, count = limits_of(spec), spec.dim
    actions = 3 * torch.randn(2, 7, 4, count, generator=random)
    last = 3 * torch.randn(2, count, generator=random)
    done = limits.project(actions, last)
    assert done.shape == actions.shape and torch.isfinite(done).all()
    assert done.abs().max() <= 1 + SLACK
    command = (limits.centre + done * limits.half).double().numpy()
    moving = [d for d in range(count) if d not in spec.absolute]
    largest = np.array(spec.high) - np.array(spec.low)
    if spec.l1 is not None:
        assert (np.abs(command[..., moving]).sum(-1) <= spec.l1 + SLACK * (spec.l1 + largest.sum())).all()
    if spec.rate is not None:
        first = limits.project(actions[:, :1] * 0 + last[:, None, None], last)[
            :, :, :1
        ]  # the last action after its own projection
        before = (limits.centre + first * limits.half).double().expand(2, 1, 1, count).numpy()
        whole = np.concatenate([np.broadcast_to(before, (2, 7, 1, count)), command], 2)
        assert (np.abs(np.diff(whole, axis=2)) <= np.array(spec.rate) + SLACK * largest).all()


def test_what_is_allowed_is_left_alone() -> None:
    spec = ActionSpec(low=(-1.0,) * 7, high=(1.0,) * 7, active=(0, 1), rate=(0.6,) * 7, l1=1.5)
    actions = torch.tensor([[[[0.5, 0.5], [0.9, 0.6], [0.4, 0.2]]]])
    torch.testing.assert_close(limits_of(spec).project(actions, torch.zeros(1, 2)), actions)


def test_the_ball_keeps_the_direction_and_leaves_commands_alone() -> None:
    spec = ActionSpec(low=(-2.0,) * 7, high=(2.0,) * 7, active=(0, 1, 6), absolute=(6,), l1=1.0)
    done = limits_of(spec).project(torch.tensor([[[[0.75, -0.25, 0.9]]]]), torch.zeros(1, 3))  # 1.5 m, -0.5 m, 1.8
    torch.testing.assert_close(done * 2, torch.tensor([[[[0.75, -0.25, 1.8]]]]))


def test_too_fast_a_change_is_slowed_down_on_the_straight_way() -> None:
    spec = ActionSpec(low=(-1.0,) * 7, high=(1.0,) * 7, active=(0, 1), rate=(0.25, 1.0, *([1.0] * 5)))
    done = limits_of(spec).project(torch.tensor([[[[1.0, 0.4], [1.0, 0.4]]]]), torch.zeros(1, 2))
    torch.testing.assert_close(done, torch.tensor([[[[0.25, 0.1], [0.5, 0.2]]]]))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rate": (0.1, 0.1)}, "rate must be 7 positive numbers"),
        ({"rate": (0.0,) * 7}, "rate must be 7 positive numbers"),
        ({"l1": 0.5, "low": (0.2, *([-1.0] * 6))}, "l1 bounds changes, so 0 must be allowed; x goes from 0.2 to 1"),
        ({"l1": -1.0}, "greater than 0"),
        ({"high": (1e38, *([1.0] * 6))}, "low and high must be within 1e.30; x has -1 and 1e.38"),
    ],
)
def test_limits_that_make_no_sense_are_refused(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ActionSpec.model_validate({"low": (-1.0,) * 7, "high": (1.0,) * 7, "active": (0, 1), **fields})
