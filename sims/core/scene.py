"""What every MuJoCo task shares: exact save and restore, one camera, and departures from how training looked.

A task's simulation is a MujocoSimulation, which owns a Scene.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.specs import CameraSpec
from sims.core.rendering import Backend, Camera, View, open_camera
from sims.core.variation import Variation

DIMMEST = 0.75  # share of the light that is gone at strength 1
TURN, TILT = 20.0, 8.0  # degrees that the camera moves by at strength 1
SLIPPERIEST = 0.85  # share of friction and damping that is gone at strength 1


class Scene:
    """A MuJoCo model, its data and the camera that looks at it."""

    def __init__(self, model: Any, data: Any, view: View, camera: CameraSpec, use: Backend) -> None:
        import mujoco

        self._mujoco, self.model, self.data = mujoco, model, data
        self._view, self._spec, self._use = view, camera, use
        self._camera: Camera = open_camera(model, data, view, camera.height, camera.width, use)
        self._kind = mujoco.mjtState.mjSTATE_INTEGRATION
        self._size = mujoco.mj_stateSize(model, self._kind)
        self._trained = {
            name: getattr(model, name).copy()
            for name in ("light_diffuse", "geom_rgba", "mat_rgba", "geom_friction", "dof_damping", "dof_frictionloss")
        }
        self._headlight = {
            name: getattr(model.vis.headlight, name).copy() for name in ("ambient", "diffuse", "specular")
        }

    def frame(self) -> NDArray[np.uint8]:
        """Return the picture, H x W x 3. Positions must be current: mj_forward ends every step and restore."""
        return self._camera.render()

    def save(self) -> NDArray[np.float64]:
        """Return the integration state of MuJoCo: everything that its future depends on."""
        saved = np.empty(self._size)
        self._mujoco.mj_getState(self.model, self.data, saved, self._kind)
        return saved

    def restore(self, saved: NDArray[np.float64]) -> None:
        """Go back exactly to what ``save`` returned."""
        self._mujoco.mj_setState(self.model, self.data, saved, self._kind)
        self._mujoco.mj_forward(self.model, self.data)
        # The solver's warm start is part of the state, and mj_forward has just replaced it.
        self._mujoco.mj_setState(self.model, self.data, saved, self._kind)

    def vary(self, variation: Variation) -> None:
        """Depart from how training looked and felt, in one factor; strength 0 is as trained."""
        model, strength = self.model, variation.strength
        for name, values in self._trained.items():
            getattr(model, name)[:] = values
        for name, values in self._headlight.items():
            getattr(model.vis.headlight, name)[:] = values
        view, lamps = self._view, 1.0
        if variation.factor == "light":
            lamps = 1 - DIMMEST * strength
            model.light_diffuse[:] *= lamps
            for name in self._headlight:
                getattr(model.vis.headlight, name)[:] *= lamps
        elif variation.factor == "camera":
            view = dataclasses.replace(
                view, azimuth=view.azimuth + TURN * strength, elevation=view.elevation + TILT * strength
            )
        elif variation.factor == "colours":
            for name in ("geom_rgba", "mat_rgba"):
                colour = self._trained[name][:, :3]
                getattr(model, name)[:, :3] = (1 - strength) * colour + strength * colour[:, [1, 2, 0]]
        elif variation.factor == "friction":
            for name in ("geom_friction", "dof_damping", "dof_frictionloss"):
                getattr(model, name)[:] *= 1 - SLIPPERIEST * strength
        self._camera.close()
        self._camera = open_camera(
            model, self.data, view, self._spec.height, self._spec.width, self._use, variation.distractors(), lamps
        )
        self._mujoco.mj_forward(model, self.data)

    def close(self) -> None:
        """Give up the graphics context."""
        self._camera.close()


class MujocoSimulation:
    """The part of sims.core.task.Simulation that is the same for every MuJoCo environment.

    A subclass sets ``_env`` (what ``close`` closes), ``_scene`` and ``_initial`` (what ``save`` returned in the initial
    configuration), and writes ``step`` and ``state``. An environment that keeps something outside MuJoCo's state
    appends it in ``save`` and takes it off in ``restore``.
    """

    _env: Any
    _scene: Scene
    _initial: NDArray[np.float64]

    def reset(self) -> None:
        """Go to the one initial configuration."""
        self.restore(self._initial)

    def frame(self) -> NDArray[np.uint8]:
        """Return the camera's picture now, H x W x 3."""
        return self._scene.frame()

    def save(self) -> NDArray[np.float64]:
        """Return everything that the future depends on."""
        return self._scene.save()

    def restore(self, saved: NDArray[np.float64]) -> None:
        """Go back exactly to what ``save`` returned."""
        self._scene.restore(saved)

    def vary(self, variation: Variation) -> None:
        """Depart from the training's looks or physics in one factor; strength 0 goes back."""
        self._scene.vary(variation)

    def close(self) -> None:
        """Give up the graphics context."""
        self._scene.close()
        self._env.close()
