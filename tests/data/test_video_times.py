"""Frames chosen by presentation time: variable rates, containers, bounds, and a video that stops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnet_vjepa.data.video_times import nearest, presentation_times, read_at
from hnet_vjepa.errors import UserError
from tests.data.recordings import SIDE, clock_time, clock_video

VARIABLE = np.cumsum([0, 0.033, 0.07, 0.25, 0.01, 0.033, 0.12, 0.033, 0.5, 0.02, 0.033, 0.033, 0.1])


@given(
    st.lists(st.integers(0, 1000), min_size=1, max_size=30, unique=True),
    st.lists(st.integers(-50, 1050), min_size=1, max_size=30),
)
def test_nearest_is_that_of_a_search_over_all(times: list[int], wanted: list[int]) -> None:
    grid = np.array(sorted(times)) / 8
    found = nearest(grid, np.array(wanted) / 8)
    for index, time in zip(found, np.array(wanted) / 8, strict=True):
        assert abs(grid[index] - time) == np.abs(grid - time).min()


@pytest.mark.parametrize(
    ("name", "codec"), [("a.mp4", "libx264"), ("a.webm", "libvpx-vp9"), ("a.mkv", "libx264"), ("a.mp4", "mpeg4")]
)
def test_a_variable_frame_rate(tmp_path: Path, name: str, codec: str) -> None:
    """At most 1 ms between what a frame shows and the nearest time that was recorded; B-frames are in order."""
    clock_video(tmp_path / name, VARIABLE, codec)
    np.testing.assert_allclose(presentation_times(tmp_path / name), VARIABLE, atol=0.001)
    wanted = np.linspace(0, VARIABLE[-1], 40)
    frames, error = read_at(tmp_path / name, wanted, (SIDE, SIDE))
    expected = [VARIABLE[np.abs(VARIABLE - time).argmin()] for time in wanted]
    assert np.abs(np.array([clock_time(frame) for frame in frames]) - expected).max() <= 0.001
    assert error == pytest.approx(np.abs(np.array(expected) - wanted).max(), abs=0.001)


def test_some_frames_far_into_a_long_video(tmp_path: Path) -> None:
    times = np.arange(600) / 25
    clock_video(tmp_path / "a.mp4", times)
    frames, _ = read_at(tmp_path / "a.mp4", np.array([13.0, 13.04, 20.0]), (32, 32))
    assert [clock_time(frame) for frame in frames] == pytest.approx([13.0, 13.04, 20.0])


def test_times_outside_and_a_video_cut_short(tmp_path: Path) -> None:
    times = np.arange(100) / 10
    clock_video(tmp_path / "a.mkv", times)
    with pytest.raises(UserError, match=r"no frame near 12\.000 s; the nearest is at 9\.900 s \(it has 100 frames"):
        read_at(tmp_path / "a.mkv", np.array([1.0, 12.0]), (16, 16))
    whole = (tmp_path / "a.mkv").read_bytes()
    (tmp_path / "a.mkv").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"a\.mkv: no frame near 9\.000 s"):
        read_at(tmp_path / "a.mkv", np.array([9.0]), (16, 16))
    (tmp_path / "a.mkv").write_bytes(b"0" * 500)
    with pytest.raises(UserError, match=r"a\.mkv is not a readable video"):
        presentation_times(tmp_path / "a.mkv")


def test_a_video_that_stops_decoding_in_the_middle(tmp_path: Path) -> None:
    """Packets are all there, so every time has a frame; what is inside the later ones is damaged."""
    clock_video(tmp_path / "a.mp4", np.arange(60) / 10)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    start = data.index(b"mdat") + 4
    end = data.index(b"moov") if data.index(b"moov") > start else len(data)
    middle = (start + end) // 2
    data[middle:end] = bytes(end - middle)
    (tmp_path / "a.mp4").write_bytes(data)
    assert len(presentation_times(tmp_path / "a.mp4")) == 60
    with pytest.raises(UserError, match=r"a\.mp4 stops (decoding|before)"):
        read_at(tmp_path / "a.mp4", np.arange(60) / 10, (16, 16))
