"""One Meta-World environment as a Simulation: a Sawyer arm whose hand is moved in x, y and z above a table.

The physics is Meta-World's, untouched: the hand is drawn by a spring towards a target that an action shifts, so a hand
that is held back builds up force until the target comes back. Time limits and random resets are left out. The picture
is ours: a camera close to the workspace, no goal marker (the goal would be visible), plain colours instead of textures
and of the robot only its hand: the forearm would hide it, and the arm takes half of the drawing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.errors import UserError
from hnet_vjepa.specs import CameraSpec
from sims.core.rendering import HIDDEN_GROUP, View, backend
from sims.core.scene import MujocoSimulation, Scene
from sims.core.task import Action, State

NEEDS = "pip install 'hnet-vjepa[metaworld]'"
LICENCE = "MIT (metaworld, with the robot and object models it ships)"
REPEAT = 5  # environment steps in one action
REACH = 0.05  # metres that an action can shift the hand's target by, in each direction: 1 cm per environment step
CAMERA = CameraSpec(height=64, width=64, dt=0.0625, name="side")
SHOWN = ("right_hand", "hand", "rightclaw", "rightpad", "leftclaw", "leftpad")
TABLE_COLOUR = (0.72, 0.58, 0.42, 1.0)
FINGER_COLOUR = (0.1, 0.75, 0.85, 1.0)

Colour = tuple[float, float, float, float]


@dataclass(frozen=True)
class Setup:
    """Which environment, how it is seen, and what of it is free."""

    environment: str  # Meta-World's name of it
    view: View
    effort: float = 0.0  # of the gripper, from 0 (open) to 1 (closed), where the action does not say
    gripper: bool = False  # the action says it, from 0 (open) to 1 (closed)
    stand: str = ""  # the body that carries what is opened or pressed; a random start puts it elsewhere
    joint: str = ""  # by which that is opened or pressed
    colours: dict[str, Colour] = field(default_factory=dict)  # of materials


class MetaWorld(MujocoSimulation):
    """The running environment behind sims.core.task.Simulation.

    ``state()`` is the hand (3, metres: the middle between the fingertips) and, where there is a joint or a gripper to
    act with, before it the object (3, metres, as Meta-World measures it) and after it the joint, or the gap between the
    fingers (metres).
    """

    def __init__(self, setup: Setup) -> None:
        chosen = backend()
        try:
            import mujoco
            from metaworld.env_dict import ALL_V3_ENVIRONMENTS
        except ImportError as error:
            raise UserError(f"Meta-World is not installed: {NEEDS}") from error
        self._mujoco, self._setup = mujoco, setup
        self._env: Any = ALL_V3_ENVIRONMENTS[setup.environment]()
        space: Any = self._env._random_reset_space
        self._env._last_rand_vec = (space.low + space.high) / 2  # what a reset would draw at random
        self._env.reset()
        self._model, self._data = self._env.model, self._env.data
        self._dress()
        self._hold(np.zeros(3), setup.effort)  # the reset leaves the gripper wide open
        self._scene = Scene(self._model, self._data, setup.view, CAMERA, chosen)
        self._initial = self.save()

    def _dress(self) -> None:
        model = self._model
        model.site_rgba[:, 3] = 0
        model.mat_texid[:] = -1
        for name, colour in {"table_wood": TABLE_COLOUR, **self._setup.colours}.items():
            model.mat_rgba[model.material(name).id] = colour
        last = model.body("mocap").id  # the robot's bodies end with it, and the objects follow
        for geom in range(model.ngeom):
            body = model.geom_bodyid[geom]
            if model.body(body).name not in (*SHOWN, "tablelink") and body <= last:
                model.geom_group[geom] = HIDDEN_GROUP
        for pad in ("rightpad_geom", "leftpad_geom"):
            model.geom_rgba[model.geom(pad).id] = FINGER_COLOUR

    def _hold(self, shift: NDArray[np.float64], effort: float) -> None:
        """Do what REPEAT calls of the environment's own step do, less observation and reward."""
        for _ in range(REPEAT):
            self._env.set_xyz_action(shift)
            self._env.do_simulation([effort, -effort], self._env.frame_skip)
            self._mujoco.mj_forward(self._model, self._data)  # part of the environment's step: it warms the solver

    def step(self, action: Action) -> None:
        wanted = np.asarray(action, np.float64)
        effort = float(np.clip(wanted[6], 0, 1)) if self._setup.gripper else self._setup.effort
        self._hold(np.clip(wanted[:3] / REACH, -1, 1), effort)

    def arrange(self, position: NDArray[np.floating[Any]]) -> None:
        """Put the object, or what carries it, at a position (3, metres), as the environment's random reset does."""
        if self._setup.stand:
            self._model.body(self._setup.stand).pos = position
        else:
            self._env._set_obj_xyz(position)
        self._mujoco.mj_forward(self._model, self._data)

    def state(self) -> State:
        hand = self._env.tcp_center
        if self._setup.joint:
            parts = [self._env._get_pos_objects(), hand, self._data.joint(self._setup.joint).qpos]
        elif self._setup.gripper:
            gap = self._data.body("leftclaw").xpos - self._data.body("rightclaw").xpos
            parts = [self._env._get_pos_objects(), hand, [np.linalg.norm(gap)]]
        else:
            parts = [hand]
        return np.concatenate(parts).astype(np.float32)

    def save(self) -> NDArray[np.float64]:
        stand = self._setup.stand
        return np.concatenate([super().save(), self._model.body(stand).pos if stand else []])

    def restore(self, saved: NDArray[np.float64]) -> None:
        if self._setup.stand:
            saved, self._model.body(self._setup.stand).pos = saved[:-3], saved[-3:]
        super().restore(saved)
