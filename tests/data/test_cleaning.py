"""Rotations against scipy, rows of a control rate, idle ends and outliers, on numbers known by hand."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hnet_vjepa.data.importers.cleaning import clip_outliers, find_outliers, moving_rows, regular_rows
from hnet_vjepa.data.importers.rotation import angle_triples, angles_of, composed, differences, matrices
from tests.data.recordings import imported, lerobot_table, lerobot_v21, walk, write_table

ANGLE = st.floats(-3.1, 3.1)
NAMES = ("x", "left_roll [rad]", "left_pitch [rad]", "left_yaw [rad]")


@given(st.tuples(ANGLE, st.floats(-1.5, 1.5), ANGLE))
def test_angles_are_those_of_another_library(angles: tuple[float, float, float]) -> None:
    rotation = pytest.importorskip("scipy.spatial.transform").Rotation
    expected = rotation.from_euler("xyz", angles)
    np.testing.assert_allclose(matrices(np.array(angles)), expected.as_matrix(), atol=1e-9)
    np.testing.assert_allclose(angles_of(expected.as_matrix()), angles, atol=1e-6)


def test_differences_and_what_undoes_them() -> None:
    """One change that does what several do, one after another, is the difference of the ends."""
    rng = np.random.default_rng(0)
    rows = rng.uniform(-1, 1, (7, 4)).astype(np.float32)
    assert angle_triples(NAMES) == [[1, 2, 3]] and angle_triples(("roll", "yaw")) == []
    together = composed(differences(rows, NAMES), NAMES)
    np.testing.assert_allclose(together, differences(rows[[0, -1]], NAMES)[0], atol=1e-5)
    assert np.abs(differences(rows, NAMES)[:, 1:] - np.diff(rows, axis=0)[:, 1:]).max() > 0.05
    np.testing.assert_allclose(differences(rows, NAMES)[:, 0], np.diff(rows[:, 0]), atol=1e-6)


def test_rows_of_a_control_rate() -> None:
    times = np.array([0, 0.033, 0.068, 0.101, 0.13, 0.168, 0.2, 0.235, 0.266, 0.3])
    rows, gaps = regular_rows(times, 0.1, 0.033)
    assert rows.tolist() == [0, 3, 6, 9] and gaps == []
    jump = np.concatenate([times[:5], times[5:] + 3])
    rows, gaps = regular_rows(jump, 0.1, 0.033)
    assert rows.tolist() == [0, 3] or rows.tolist() == [5, 8]
    assert gaps == ["gap of 3.04 s after row 4"]
    same, _ = regular_rows(np.arange(6) / 10, 0.1, 0.1)
    assert same.tolist() == list(range(6))


def test_idle_ends() -> None:
    motion = np.array([0, 0, 0, 1, 1.1, 0.9, 0, 1, 0.001, 0, 0])[:, None]
    assert moving_rows(motion) == range(3, 9)  # the row before the first motion, the one after the last
    assert moving_rows(np.zeros((5, 2))) == range(6) and moving_rows(np.zeros((5, 0))) == range(6)


def test_idle_ends_are_left_out_of_an_import(tmp_path: Path) -> None:
    root = lerobot_v21(tmp_path / "in", {0: np.arange(20) / 10})
    states = walk(20, 3)
    states[:6], states[16:] = states[6], states[16]
    write_table(root / "data/chunk-000/episode_000000.parquet", lerobot_table({0: np.arange(20) / 10}, {0: states}))
    store, notes = imported("lerobot", root, tmp_path / "store", trim_idle=True)
    assert 11 <= len(store.episodes[0]) <= 13 and any("rows at the ends are idle, left out" in note for note in notes)
    assert len(imported("lerobot", root, tmp_path / "whole")[0].episodes[0]) == 20


def test_outliers() -> None:
    rng = np.random.default_rng(0)
    rows = [rng.normal(0, 1, (100, 3)).astype(np.float32) for _ in range(3)]
    for part in rows:
        part[:, 1] = (np.arange(100) > 97) * 1.0  # a gripper that seldom closes
        part[:, 2] *= 1e-4
    assert list(find_outliers(rows, "abc", "xyz")) == []
    rows[1][7, 2], rows[2][9, 0] = 0.5, -400.0
    found = list(find_outliers(rows, "abc", "xyz"))
    assert [phrase.split(" is ")[0] for phrase in found] == ["y: row 7, c", "z: row 9, a"]
    notes: list[str] = []
    clipped = clip_outliers(rows, "abc", "xyz", notes.append)
    assert abs(clipped[1][7, 2]) < 4e-4 and -4 < clipped[2][9, 0] < 0 and "2 outliers are clipped" in notes[0]
    np.testing.assert_array_equal(clipped[0], rows[0])
