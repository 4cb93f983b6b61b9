"""A checkpoint taken apart, for measurements: what it sees, imagines, proposes and how it judges, each by itself.

All that a diagnosis needs to know of encoders, dynamics and energies is in this file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hnet_vjepa.checkpoint import Checkpoint
from hnet_vjepa.data.batch import normalise_actions, normalise_frames
from hnet_vjepa.losses.state_energy import StateEnergy
from hnet_vjepa.models.world_model import rollout
from hnet_vjepa.planning.costs import step_weights
from hnet_vjepa.planning.planner import WorldModelPlanner

PIECE = 64  # pictures that are encoded at once


@dataclass(frozen=True)
class Seen:
    """Planning states of N pictures, real or imagined, each with the state before it and what was done in between."""

    states: Tensor  # N x S x d
    prev_state: Tensor  # N x S x d
    prev_action: Tensor  # N x A, normalised actions
    masks: Tensor  # N x S, True = slot that holds nothing

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, rows: slice | list[int]) -> Seen:
        """Some of the rows."""
        return Seen(self.states[rows], self.prev_state[rows], self.prev_action[rows], self.masks[rows])

    def features(self) -> NDArray[np.float64]:
        """What a linear read-out reads: N x (S * d)."""
        return self.states.flatten(1).double().numpy()


class Inspector:
    """The parts of a checkpoint that plans.

    Attributes: ``planner`` (what plans with it), ``window`` (frames that it looks at for one decision).
    Raises UserError when the checkpoint has no dynamics.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.planner = WorldModelPlanner(checkpoint)
        self.window = self.planner.card.history + 1
        self._model, self._spec = checkpoint.model, checkpoint.model.robot.action
        self._held = torch.from_numpy(normalise_actions(self._spec.hold(), self._spec))

    @torch.inference_mode()
    def episode(self, frames: NDArray[np.uint8], actions: NDArray[np.float32]) -> Seen:
        """Every picture of an episode (T x H x W x 3), each with its past: T rows. The first is taken to be at rest.

        ``actions``: (T - 1) x dim in the robot's units, what was done between the pictures.
        """
        states, masks = [], []
        for start in range(0, len(frames), PIECE):
            first = max(0, start - self.planner.card.history)
            made, empty = self._model.states(normalise_frames(frames[None, first : start + PIECE]))
            states.append(made[0, start - first :])
            masks.append(empty[0, start - first :])
        every = torch.cat(states)
        prev_action = torch.cat([self._held[None], torch.from_numpy(normalise_actions(actions, self._spec))])
        return Seen(every, torch.cat([every[:1], every[:-1]]), prev_action, torch.cat(masks))

    @torch.inference_mode()
    def last(self, clips: NDArray[np.uint8]) -> Seen:
        """The last picture of each of N equally long clips (N x T x H x W x 3): N rows, as the planner sees them.

        What was done before it is taken to have been holding still.
        """
        states, masks = [], []
        for start in range(0, len(clips), PIECE):
            made, empty = self._model.states(normalise_frames(clips[start : start + PIECE]))
            states.append(made[:, -2:] if made.shape[1] > 1 else made.repeat(1, 2, 1, 1))
            masks.append(empty[:, -1])
        pairs = torch.cat(states)
        return Seen(pairs[:, 1], pairs[:, 0], self._held.expand(len(pairs), -1), torch.cat(masks))

    @torch.inference_mode()
    def imagine(self, start: Seen, actions: NDArray[np.float32]) -> list[Seen]:
        """What the N states become: actions N x H x dim in the robot's units -> H times N rows."""
        normal = torch.from_numpy(normalise_actions(actions, self._spec))
        imagined = rollout(self._model.world_model.dynamics, start.states, start.prev_state, start.prev_action, normal)
        earlier = torch.cat([start.states[:, None], imagined[:, :-1]], 1)
        return [Seen(imagined[:, h], earlier[:, h], normal[:, h], start.masks) for h in range(imagined.shape[1])]

    @torch.inference_mode()
    def energy(self, seen: Seen, goal: Seen) -> NDArray[np.float64]:
        """The planner's energy of N states for a goal picture (one row): N."""
        there, empty = goal.states.expand_as(seen.states), goal.masks.expand_as(seen.masks)
        energies = StateEnergy.of(self._model)(seen.states, there, seen.masks, empty)
        return energies.double().numpy()

    def cost(self, energies: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """What the search ranks N candidates by, from their energies after every action (H times N): N."""
        counts = step_weights(len(energies), self._model.config.plan.step_weight_exponent).double().numpy()
        return np.tensordot(counts, np.stack(energies), 1)

    @torch.inference_mode()
    def prev_action(self, seen: Seen) -> NDArray[np.float64]:
        """Which action led from the state before to each state of an episode, says the inverse dynamics: N x A.

        In the robot's units; A counts the active dimensions.
        """
        earlier = torch.cat([seen.prev_state[:1], seen.prev_state[:-1]])  # of an episode that began at rest
        normal = self._model.world_model.inverse(earlier, seen.prev_state, seen.states).double().numpy()
        assert self._spec.mean is not None and self._spec.std is not None
        return normal * np.array(self._spec.std) + np.array(self._spec.mean)
