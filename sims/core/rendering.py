"""Pictures of a MuJoCo scene: EGL, else OSMesa, else a ray caster that needs no graphics library at all.

``MUJOCO_GL`` is read when mujoco is imported, so the backend is chosen first, by trying it in a process of its own
(a missing library can abort the process that looks for it). This module therefore imports mujoco only inside
functions. ``HNET_RENDER=egl|osmesa|raycast`` forces a backend.
"""

from __future__ import annotations

import copy
import functools
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any, Literal, Protocol, get_args

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.errors import UserError, one_of

log = logging.getLogger(__name__)

Backend = Literal["egl", "osmesa", "raycast"]
OVERSAMPLING = 2  # pictures are drawn twice as large and averaged over 2 x 2: edges then move by fractions of a pixel
HIDDEN_GROUP = 4  # geoms in this group are drawn by no backend
PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco><worldbody><light pos='0 0 3'/><geom size='1'/></worldbody></mujoco>")
model.vis.quality.shadowsize = 0
renderer = mujoco.Renderer(model, 8, 8)
data = mujoco.MjData(model)
mujoco.mj_forward(model, data)
renderer.update_scene(data)
picture = renderer.render()
renderer.close()
assert picture.max() > 0
"""


@dataclass(frozen=True)
class View:
    """Where a fixed camera stands: it looks at a point (metres) from a distance, at two angles (degrees)."""

    look_at: tuple[float, float, float]
    distance: float
    azimuth: float
    elevation: float
    fovy: float = 45.0

    @functools.cached_property
    def axes(self) -> NDArray[np.float64]:
        """Rows: the directions right, up and forward of the camera in the world (3 x 3)."""
        azimuth, elevation = np.radians(self.azimuth), np.radians(self.elevation)
        right = np.array([np.sin(azimuth), -np.cos(azimuth), 0.0])
        flat = np.array([np.cos(azimuth), np.sin(azimuth), 0.0])
        forward = np.cos(elevation) * flat + np.sin(elevation) * np.array([0.0, 0.0, 1.0])
        return np.stack([right, np.cross(right, forward), forward])

    @functools.cached_property
    def position(self) -> NDArray[np.float64]:
        """Where the camera is, in metres (3)."""
        position: NDArray[np.float64] = np.array(self.look_at) - self.distance * self.axes[2]
        return position

    def project(self, points: NDArray[np.floating[Any]], height: int, width: int) -> NDArray[np.float64]:
        """Where points (... x 3, metres) are in a height x width picture: column and row in pixels, distance in metres.

        Column 0 is the left edge of the picture, row 0 its upper edge; the last number is the distance on the ground,
        along the direction in which the camera looks. Shape: ... x 3.
        """
        right, up, forward = np.moveaxis((np.asarray(points, np.float64) - self.position) @ self.axes.T, -1, 0)
        scale = height / 2 / np.tan(np.radians(self.fovy) / 2)
        flat = self.axes[2] * (1, 1, 0) / np.hypot(*self.axes[2][:2]) if abs(self.elevation) < 89 else self.axes[1]
        away = (np.asarray(points, np.float64) - self.position) @ flat
        return np.stack([width / 2 + scale * right / forward, height / 2 - scale * up / forward, away], -1)


class Camera(Protocol):
    """Something that draws the scene as it is now."""

    def render(self) -> NDArray[np.uint8]:
        """Return the picture, H x W x 3."""
        ...

    def close(self) -> None:
        """Give the graphics context back; EGL complains at exit when this is forgotten."""
        ...


def _works(name: Literal["egl", "osmesa"]) -> bool:
    environment = {**os.environ, "MUJOCO_GL": name, "PYOPENGL_PLATFORM": name, "LP_NUM_THREADS": "1"}
    try:
        probe = subprocess.run(
            [sys.executable, "-c", PROBE], env=environment, capture_output=True, timeout=60, check=False
        )
    except subprocess.TimeoutExpired:
        return False
    return probe.returncode == 0


@functools.cache
def backend() -> Backend:
    """Choose how to draw, once per process, and set the environment for it; call this before importing mujoco.

    Raises UserError when HNET_RENDER names an unknown backend or one that does not work here.
    """
    wanted = os.environ.get("HNET_RENDER", "").strip().lower()
    if wanted and wanted not in get_args(Backend):
        raise one_of("HNET_RENDER", wanted, get_args(Backend))
    disabled = os.environ.get("MUJOCO_GL", "").strip().lower() in ("disable", "disabled", "off", "false", "0")
    tried: tuple[Backend, ...] = ("egl", "osmesa") if not disabled else ()
    if wanted:
        tried = tuple(name for name in get_args(Backend) if name == wanted)
    for name in tried:
        if name == "raycast" or (_importable(name) and _works(name)):
            assume(name)
            return name
    if wanted:
        raise UserError(f"HNET_RENDER={wanted} does not work on this machine (library missing?); 'raycast' always does")
    assume("raycast")
    return "raycast"


def _importable(name: str) -> bool:
    """Whether this process can still use a backend: once mujoco is imported, the choice is made."""
    if "mujoco" not in sys.modules:
        return True
    context = getattr(sys.modules["mujoco"], "GLContext", None)
    return getattr(context, "__module__", None) == f"mujoco.{name}"


def assume(chosen: Backend) -> None:
    """Set the environment for a backend that is known to work, as a parent process does for its workers."""
    os.environ.setdefault("LP_NUM_THREADS", "1")  # llvmpipe's threads cost more than they bring on small pictures
    os.environ["MUJOCO_GL"] = "disable" if chosen == "raycast" else chosen
    if chosen != "raycast":
        os.environ["PYOPENGL_PLATFORM"] = chosen
    log.info("drawing with %s", chosen)


@dataclass(frozen=True)
class Decorated:
    """A camera with coloured discs in its pictures: N x 6 of column, row, radius (shares of the size), colour."""

    camera: Camera
    discs: NDArray[np.float64]

    def render(self) -> NDArray[np.uint8]:
        picture = self.camera.render().copy()
        draw_discs(picture, self.discs)
        return picture

    def close(self) -> None:
        self.camera.close()


def draw_discs(picture: NDArray[np.uint8], discs: NDArray[np.float64]) -> None:
    """Draw discs into a picture (H x W x 3), in place: N x 6 of column, row, radius (shares of the size), colour."""
    height, width = picture.shape[:2]
    rows, columns = np.mgrid[:height, :width] + 0.5
    for column, row, radius, *colour in discs:
        inside = np.hypot(columns - column * width, rows - row * height) < radius * width
        picture[inside] = (np.array(colour) * 255).astype(np.uint8)


def open_camera(
    model: Any,
    data: Any,
    view: View,
    height: int,
    width: int,
    use: Backend,
    distractors: NDArray[np.float64] | None = None,
    lamps: float = 1.0,
) -> Camera:
    """Open a camera on a MuJoCo model and its data. ``use``: what ``backend()`` chose.

    Geoms of HIDDEN_GROUP are not drawn. The caller runs mj_forward before each picture. ``distractors``: discs to draw
    over the pictures, as Decorated takes them. ``lamps``: how bright the ray caster's own lamps are; the other
    backends use the model's.
    """
    model.vis.global_.fovy = view.fovy
    camera: Camera = (
        RayCaster(model, data, view, height, width, lamps)
        if use == "raycast"
        else GlCamera(model, data, view, height, width)
    )
    return camera if distractors is None or not len(distractors) else Decorated(camera, distractors)


class GlCamera:
    """MuJoCo's own renderer, without the shadow map and multisampling that cost ten times the picture on a CPU."""

    def __init__(self, model: Any, data: Any, view: View, height: int, width: int) -> None:
        import mujoco

        model.vis.quality.shadowsize = 0  # both must be set before the first context is made
        model.vis.quality.offsamples = 0
        model.vis.global_.offheight = max(model.vis.global_.offheight, OVERSAMPLING * height)
        model.vis.global_.offwidth = max(model.vis.global_.offwidth, OVERSAMPLING * width)
        self._data = data
        self._camera = mujoco.MjvCamera()
        self._camera.lookat[:] = view.look_at
        self._camera.distance, self._camera.azimuth, self._camera.elevation = (
            view.distance,
            view.azimuth,
            view.elevation,
        )
        self._renderer = mujoco.Renderer(model, OVERSAMPLING * height, OVERSAMPLING * width)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_HAZE):
            self._renderer.scene.flags[flag] = 0

    def render(self) -> NDArray[np.uint8]:
        self._renderer.update_scene(self._data, self._camera)
        large = self._renderer.render()
        rows = np.add(large[0::2], large[1::2], dtype=np.uint16)
        averaged: NDArray[np.uint8] = ((rows[:, 0::2] + rows[:, 1::2] + 2) >> 2).astype(np.uint8)
        return averaged

    def close(self) -> None:
        self._renderer.close()


class RayCaster:
    """One ray per pixel against the geoms, shaded by the angle to a lamp above and one at the camera."""

    SKY = np.array([0.45, 0.86, 0.57])

    def __init__(self, model: Any, data: Any, view: View, height: int, width: int, lamps: float) -> None:
        # mj_multiRay (3.8.1) discards bodies by the angles of their box's corners and so misses what bulges beyond
        # them; larger boxes, in a copy that only this camera uses, bring the missing pixels back.
        self._shown, self._model, self._data, self._lamps = model, copy.copy(model), data, lamps
        self._model.bvh_aabb[: int(model.body_bvhnum.sum()), 3:] *= 2
        self._shape = (height, width)
        scale = np.tan(np.radians(view.fovy) / 2) / (height / 2)
        columns, rows = np.meshgrid(np.arange(width) + 0.5 - width / 2, height / 2 - np.arange(height) - 0.5)
        rays = np.stack([columns * scale, rows * scale, np.ones_like(rows)], -1).reshape(-1, 3) @ view.axes
        self._rays = (rays / np.linalg.norm(rays, axis=1, keepdims=True)).ravel()
        self._position = view.position.reshape(3, 1)
        self._towards_camera = -view.axes[2]
        self._geoms = np.zeros(height * width, np.int32)
        self._distances = np.zeros(height * width)
        self._normals = np.zeros(3 * height * width)
        self._groups = np.array([1, 1, 1, 0, 0, 0], np.uint8)

    def render(self) -> NDArray[np.uint8]:
        import mujoco

        for name in ("geom_group", "geom_rgba", "mat_rgba"):  # what a task may change while the camera is open
            getattr(self._model, name)[:] = getattr(self._shown, name)
        mujoco.mj_multiRay(
            self._model,
            self._data,
            self._position,
            self._rays.reshape(-1, 1),
            self._groups,
            1,
            -1,
            self._geoms,
            self._distances,
            self._normals,
            len(self._geoms),
            mujoco.mjMAXVAL,
        )
        normals = self._normals.reshape(-1, 3)
        light = 0.4 + 0.35 * np.clip(normals[:, 2], 0, 1) + 0.35 * np.clip(normals @ self._towards_camera, 0, 1)
        light *= self._lamps
        picture = np.where(self._geoms[:, None] < 0, self.SKY, self._colours()[self._geoms] * light[:, None])
        return (np.clip(picture, 0, 1) * 255).astype(np.uint8).reshape(*self._shape, 3)

    def geoms(self) -> NDArray[np.int32]:
        """Which geom each pixel of the last picture shows: H x W; -1 where there is none."""
        return self._geoms.reshape(self._shape).copy()

    def _colours(self) -> NDArray[np.float64]:
        # As in MuJoCo: a geom's own colour, if it was set, wins over its material's.
        own, material = self._model.geom_rgba[:, :3], self._model.geom_matid
        unset = np.all(self._model.geom_rgba == 0.5 * np.array([1, 1, 1, 2]), axis=1)
        colours: NDArray[np.float64] = np.where(
            (unset & (material >= 0))[:, None],
            self._model.mat_rgba[material, :3] if len(self._model.mat_rgba) else own,
            own,
        )
        return colours

    def close(self) -> None:
        """Nothing is held."""
