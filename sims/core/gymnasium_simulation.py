"""Any Gymnasium environment with ``render()`` as a simulation: frames fitted to the camera, exact save and restore."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageOps

from hnet_vjepa.errors import UserError
from hnet_vjepa.specs import CameraSpec
from sims.core.rendering import backend
from sims.core.task import Action, State
from sims.core.variation import Variation

Numbers = NDArray[np.float64]


class Memory(Protocol):
    """How an environment is put back into an earlier configuration."""

    def started(self) -> None:
        """The environment was reset."""
        ...

    def stepped(self, action: Action) -> None:
        """The environment did one action."""
        ...

    def save(self) -> Numbers:
        """Everything that the future depends on."""
        ...

    def restore(self, saved: Numbers) -> None:
        """Go back exactly to what ``save`` returned."""
        ...


class GymnasiumSimulation:
    """A Gymnasium environment behind sims.core.task.Simulation.

    ``make()`` makes the environment, with ``render_mode="rgb_array"``; time limits and other wrappers are taken off.
    ``state(env)`` returns the numbers that Task.states names. One action of the task is ``repeat`` steps of the
    environment; ``to_env(action)`` translates it where the environment wants something else than the action itself.

    ``attributes``: names of the environment's attributes (numbers or arrays of them) that its future depends on, for
    instance ``("state",)``. Without them, a MuJoCo environment is restored by its physics' state, and any other one by
    a reset with the same ``seed`` and a replay of all actions since. ``hnet sims check`` finds out whether it is exact.

    Raises UserError for an environment that renders no pictures or has none of the attributes.
    """

    def __init__(
        self,
        make: Callable[[], Any],
        camera: CameraSpec,
        state: Callable[[Any], ArrayLike],
        repeat: int = 1,
        attributes: Sequence[str] = (),
        to_env: Callable[[Action], Any] = lambda action: action,
        seed: int = 0,
    ) -> None:
        backend()  # before anything imports mujoco
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # environments that draw with pygame need no window
        self.env = make().unwrapped
        self._camera, self._state, self._repeat, self._to_env, self._seed = camera, state, repeat, to_env, seed
        if self.env.render_mode != "rgb_array":
            raise UserError(f"{type(self.env).__name__}: make it with render_mode='rgb_array'")
        self.env.reset(seed=seed)
        self._memory: Memory
        if attributes:
            self._memory = AttributeMemory(self.env, attributes)
        elif hasattr(self.env, "model") and hasattr(self.env, "data"):
            self._memory = MujocoMemory(self.env)
        else:
            self._memory = ReplayMemory(self._begin, self._do)
        self.reset()

    def reset(self) -> None:
        """Go to the one initial configuration."""
        self._begin()
        self._memory.started()

    def step(self, action: Action) -> None:
        """Do one action for one control interval."""
        self._do(action)
        self._memory.stepped(action)

    def frame(self) -> NDArray[np.uint8]:
        """Return the picture now, H x W x 3: the middle of what the environment renders, each pixel an average."""
        rendered = np.asarray(self.env.render())
        if rendered.ndim != 3 or rendered.dtype != np.uint8:
            raise UserError(f"{type(self.env).__name__}.render() gives {rendered.dtype} {rendered.shape}, no picture")
        size = (self._camera.width, self._camera.height)
        return np.asarray(ImageOps.fit(Image.fromarray(rendered[..., :3]), size, Image.Resampling.BOX))

    def state(self) -> State:
        """Return the numbers that Task.states names."""
        return np.asarray(self._state(self.env), np.float32).copy()

    def save(self) -> Numbers:
        """Return everything that the future depends on."""
        return self._memory.save()

    def restore(self, saved: Numbers) -> None:
        """Go back exactly to what ``save`` returned."""
        self._memory.restore(saved)

    def vary(self, variation: Variation) -> None:
        """Nothing can be varied: the task has ``factors=()``."""

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def _begin(self) -> None:
        self.env.reset(seed=self._seed)

    def _do(self, action: Action) -> None:
        for _ in range(self._repeat):
            self.env.step(self._to_env(action))


class AttributeMemory:
    """Saves and sets attributes of the environment: numbers (or None), or arrays of them whose shapes do not change."""

    def __init__(self, env: Any, names: Sequence[str]) -> None:
        self._env, self._names = env, names
        for name in names:
            if not hasattr(env, name):
                raise UserError(f"{type(env).__name__} has no attribute '{name}' to save")

    def started(self) -> None:
        """Nothing to do."""

    def stepped(self, action: Action) -> None:
        """Nothing to do."""

    def save(self) -> Numbers:
        """The attributes' numbers one after another."""
        return np.concatenate([np.ravel(np.asarray(getattr(self._env, name), np.float64)) for name in self._names])

    def restore(self, saved: Numbers) -> None:
        """Set every attribute, as the type it has."""
        place = 0
        for name in self._names:
            now = getattr(self._env, name)
            shape, dtype = np.shape(now), now.dtype if isinstance(now, np.ndarray) else np.float64
            values = saved[place : place + int(np.prod(shape, dtype=int))].reshape(shape).astype(dtype)
            place += values.size
            setattr(self._env, name, values if isinstance(now, np.ndarray) else _scalar(now, float(values)))


def _scalar(now: Any, value: float) -> Any:
    """A number as the type that the attribute has now; None is saved as NaN."""
    if np.isnan(value):
        return None
    return value if now is None else type(now)(value)


class MujocoMemory:
    """The integration state of MuJoCo's physics."""

    def __init__(self, env: Any) -> None:
        import mujoco

        self._mujoco, self._model, self._data = mujoco, env.model, env.data
        self._kind = mujoco.mjtState.mjSTATE_INTEGRATION

    def started(self) -> None:
        """Bring positions up to date with the coordinates."""
        self._mujoco.mj_forward(self._model, self._data)

    def stepped(self, action: Action) -> None:
        """Bring positions up to date: after a step of the physics they are one step old."""
        self._mujoco.mj_kinematics(self._model, self._data)

    def save(self) -> Numbers:
        """MuJoCo's integration state."""
        saved = np.empty(self._mujoco.mj_stateSize(self._model, self._kind))
        self._mujoco.mj_getState(self._model, self._data, saved, self._kind)
        return saved

    def restore(self, saved: Numbers) -> None:
        """Set it, with positions up to date and the solver's warm start as it was."""
        self._mujoco.mj_setState(self._model, self._data, saved, self._kind)
        self._mujoco.mj_forward(self._model, self._data)
        self._mujoco.mj_setState(self._model, self._data, saved, self._kind)


class ReplayMemory:
    """The actions since the last reset: restoring resets with the same seed and does them again."""

    def __init__(self, begin: Callable[[], None], do: Callable[[Action], None]) -> None:
        self._begin, self._do, self._done = begin, do, list[Action]()

    def started(self) -> None:
        """Forget the actions of before."""
        self._done = []

    def stepped(self, action: Action) -> None:
        """Note the action."""
        self._done.append(np.array(action))

    def save(self) -> Numbers:
        """The actions one after another, and how many there are at the end."""
        flat = np.concatenate([np.ravel(action) for action in self._done]) if self._done else np.zeros(0)
        return np.append(flat.astype(np.float64), len(self._done))

    def restore(self, saved: Numbers) -> None:
        """Do them again."""
        count = int(saved[-1])
        self._begin()
        self._done = [*saved[:-1].reshape(count, -1).astype(np.float32)] if count else []
        for action in self._done:
            self._do(action)
