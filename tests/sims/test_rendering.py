"""Pictures: both renderers show the robot where the projection says it is."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hnet_vjepa.errors import UserError
from sims.core import rendering
from sims.core.language import position_labels
from sims.core.rendering import HIDDEN_GROUP, RayCaster, View, open_camera
from sims.core.seeds import generator
from sims.core.task import scatter
from sims.tasks import fetch_reach

TASK = fetch_reach.TASK
FINGERS = ("robot0:r_gripper_finger_link", "robot0:l_gripper_finger_link")


@pytest.fixture(scope="module")
def robot() -> Iterator[fetch_reach.FetchReach]:
    simulation = fetch_reach.FetchReach()
    yield simulation
    simulation.close()


def finger_pixels(robot: fetch_reach.FetchReach) -> Any:
    """Rows and columns of the pixels that change when the fingers are made invisible: no use of the projection."""
    model = robot._model
    fingers = [geom for geom in range(model.ngeom) if model.geom(geom).name in FINGERS]
    before = robot.frame().astype(int)
    groups = model.geom_group.copy()
    model.geom_group[fingers] = HIDDEN_GROUP
    after = robot.frame().astype(int)
    model.geom_group[:] = groups
    return np.nonzero(np.abs(before - after).sum(-1) > 12)


def test_the_fingers_are_in_the_picture_where_the_projection_and_the_labels_say(robot: fetch_reach.FetchReach) -> None:
    found: dict[str, list[tuple[float, float]]] = {}
    for index in range(25):
        robot.reset()
        scatter(TASK, robot, generator(index))
        rows, columns = finger_pixels(robot)
        assert len(rows) >= 4
        column, row, _ = fetch_reach.VIEW.project(robot.state(), 64, 64)
        assert abs(columns.mean() + 0.5 - column) < 1.5
        assert -3.5 < rows.mean() + 0.5 - row < 1  # the grip site is at the lower end of the fingers
        for label in position_labels(TASK.place(robot.state())):
            found.setdefault(label, []).append((columns.mean(), rows.mean()))
    columns_of = {label: [c for c, _ in places] for label, places in found.items()}
    rows_of = {label: [r for _, r in places] for label, places in found.items()}
    assert max(columns_of["left"]) < min(columns_of["centre"]) + 1
    assert max(columns_of["centre"]) < min(columns_of["right"]) + 1
    assert max(rows_of["high"]) < min(rows_of["middle"]) + 1.5  # row 0 is at the top
    assert max(rows_of["middle"]) < min(rows_of["low"]) + 1.5


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_moves_of_two_centimetres_change_the_picture_clearly(robot: fetch_reach.FetchReach, axis: int) -> None:
    for seed in range(4):
        robot.reset()
        start = scatter(TASK, robot, generator(seed)).copy()
        here = robot.frame().astype(int)
        target = start.copy()
        target[axis] += 0.02 if start[axis] < fetch_reach.CENTRE[axis] else -0.02
        control = TASK.controller(target)
        for _ in range(6):
            robot.step(control(robot.state()))
        changed = np.abs(robot.frame().astype(int) - here).sum(-1) > 60
        assert changed.sum() > 40


def test_near_is_larger_than_far(robot: fetch_reach.FetchReach) -> None:
    sizes = {}
    for name, move in (("near", 1), ("far", -1)):
        flat = fetch_reach.VIEW.axes[2] * (1, 1, 0)
        robot.reset()
        control = TASK.controller((fetch_reach.CENTRE - move * 0.12 * flat / np.linalg.norm(flat)).astype(np.float32))
        for _ in range(14):
            robot.step(control(robot.state()))
        sizes[name] = len(finger_pixels(robot)[0])
        assert name in position_labels(TASK.place(robot.state()))
    assert sizes["near"] > sizes["far"]


def test_the_ray_caster_misses_nothing_that_single_rays_hit(robot: fetch_reach.FetchReach) -> None:
    import mujoco

    camera = open_camera(robot._model, robot._data, fetch_reach.VIEW, 64, 64, "raycast")
    assert isinstance(camera, RayCaster)
    robot.reset()
    scatter(TASK, robot, generator(3))
    picture = camera.render()
    geom, missed = np.zeros(1, np.int32), 0
    for number, ray in enumerate(camera._rays.reshape(-1, 3)):
        mujoco.mj_ray(robot._model, robot._data, camera._position, ray.reshape(3, 1), camera._groups, 1, -1, geom)
        missed += geom[0] != camera._geoms[number]
    assert missed <= 4  # of 4096
    fingers = [robot._model.geom(f"robot0:{side}_gripper_finger_link").id for side in "rl"]
    columns, rows, _ = fetch_reach.VIEW.project(robot._data.geom_xpos[fingers], 64, 64).T
    for row, column in zip(rows.astype(int), columns.astype(int), strict=True):
        assert np.isin(camera.geoms()[row - 2 : row + 3, column - 2 : column + 3], fingers).any()
    drawn = robot.frame().astype(int)
    assert np.abs(picture.astype(int) - drawn).mean() < 35  # the same scene, if in another light


def test_the_ray_caster_shows_what_is_hidden_and_how_bright_its_lamps_are_while_it_is_open(
    robot: fetch_reach.FetchReach,
) -> None:
    robot.reset()
    bright, dim = (
        open_camera(robot._model, robot._data, fetch_reach.VIEW, 64, 64, "raycast", lamps=lamps) for lamps in (1.0, 0.5)
    )
    trained = bright.render()
    assert dim.render().mean() < 0.8 * trained.mean()  # the sky stays as it is
    groups = robot._model.geom_group.copy()
    robot._model.geom_group[:] = HIDDEN_GROUP
    empty = bright.render()
    robot._model.geom_group[:] = groups
    assert (empty == empty[0, 0]).all()
    np.testing.assert_array_equal(bright.render(), trained)


def test_the_ray_caster_works_without_any_graphics_library() -> None:
    code = (
        "import numpy as np\n"
        "from sims.tasks.fetch_reach import FetchReach\n"
        "from sims.core.rendering import backend\n"
        "assert backend() == 'raycast', backend()\n"
        "robot = FetchReach(); first = robot.frame()\n"
        "for _ in range(3): robot.step(np.array([0, 0.05, 0, 0, 0, 0, 0], np.float32))\n"
        "second = robot.frame(); robot.close()\n"
        "assert first.shape == (64, 64, 3) and first.dtype == np.uint8 and first.std() > 20\n"
        "assert (np.abs(first.astype(int) - second).sum(-1) > 60).sum() > 60\n"
    )
    environment = {**os.environ, "MUJOCO_GL": "disable"}
    environment.pop("HNET_RENDER", None)
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""  # neither gymnasium-robotics' notices nor EGL's complaints


def test_projection_of_simple_points() -> None:
    view = View(look_at=(0, 0, 0), distance=2, azimuth=90, elevation=0, fovy=90)  # stands at y = -2 and looks along +y
    np.testing.assert_allclose(view.position, [0, -2, 0], atol=1e-12)
    points = np.array([[0, 0, 0], [1, 0, 0], [0, 0, 1], [0, 1, 0]], float)
    np.testing.assert_allclose(
        view.project(points, 64, 64), [[32, 32, 2], [48, 32, 2], [32, 16, 2], [32, 32, 3]], atol=1e-9
    )


def test_an_unknown_backend_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HNET_RENDER", "vulkan")
    with pytest.raises(UserError, match="choose one of: egl, osmesa, raycast"):
        rendering.backend.__wrapped__()
