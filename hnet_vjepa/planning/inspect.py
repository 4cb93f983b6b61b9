"""The parts of a checkpoint, one by one, for measurements: encoder, dynamics, energy and inverse dynamics."""

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

BATCH = 64  # frames, or clips, that are encoded at once


@dataclass(frozen=True)
class StateBatch:
    """N planning states, encoded or predicted, each with the previous state and the action between the two."""

    states: Tensor  # N x S x d
    prev_state: Tensor  # N x S x d
    prev_action: Tensor  # N x A, normalised active dimensions
    masks: Tensor  # N x S, True = slot that holds nothing

    def __len__(self) -> int:
        return len(self.states)

    def __getitem__(self, rows: slice | list[int]) -> StateBatch:
        """Some of the rows."""
        return StateBatch(self.states[rows], self.prev_state[rows], self.prev_action[rows], self.masks[rows])

    def features(self) -> NDArray[np.float64]:
        """The input of a linear probe: N x (S * d)."""
        return self.states.flatten(1).double().numpy()


class Inspector:
    """Gives access to the parts of a checkpoint with the planner's own conventions.

    Attributes: ``planner`` (plans with the checkpoint), ``window`` (frames that the encoder sees for one decision).
    Raises UserError when the checkpoint has no dynamics.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.planner = WorldModelPlanner(checkpoint)
        self.window = self.planner.card.history + 1
        self._model, self._spec = checkpoint.model, checkpoint.model.robot.action
        self._hold = torch.from_numpy(normalise_actions(self._spec.hold(), self._spec))

    @torch.inference_mode()
    def episode(self, frames: NDArray[np.uint8], actions: NDArray[np.float32]) -> StateBatch:
        """Encode every frame of an episode (T x H x W x 3): T rows. The robot is taken to rest before the first.

        ``actions``: (T - 1) x dim in robot units, executed between the frames.
        """
        states, masks = [], []
        for start in range(0, len(frames), BATCH):
            first = max(0, start - self.planner.card.history)
            encoded, empty = self._model.states(normalise_frames(frames[None, first : start + BATCH]))
            states.append(encoded[0, start - first :])
            masks.append(empty[0, start - first :])
        every = torch.cat(states)
        prev_action = torch.cat([self._hold[None], torch.from_numpy(normalise_actions(actions, self._spec))])
        return StateBatch(every, torch.cat([every[:1], every[:-1]]), prev_action, torch.cat(masks))

    @torch.inference_mode()
    def last(self, clips: NDArray[np.uint8]) -> StateBatch:
        """Encode the last frame of each of N clips of equal length (N x T x H x W x 3): N rows.

        The previous action is taken to be holding still.
        """
        states, masks = [], []
        for start in range(0, len(clips), BATCH):
            encoded, empty = self._model.states(normalise_frames(clips[start : start + BATCH]))
            states.append(encoded[:, -2:] if encoded.shape[1] > 1 else encoded.repeat(1, 2, 1, 1))
            masks.append(empty[:, -1])
        pairs = torch.cat(states)
        return StateBatch(pairs[:, 1], pairs[:, 0], self._hold.expand(len(pairs), -1), torch.cat(masks))

    @torch.inference_mode()
    def rollout(self, start: StateBatch, actions: NDArray[np.float32]) -> list[StateBatch]:
        """Rollout from N states: actions N x H x dim in robot units -> H batches of N predicted states."""
        normal = torch.from_numpy(normalise_actions(actions, self._spec))
        states = rollout(self._model.world_model.dynamics, start.states, start.prev_state, start.prev_action, normal)
        previous = torch.cat([start.states[:, None], states[:, :-1]], 1)
        return [StateBatch(states[:, h], previous[:, h], normal[:, h], start.masks) for h in range(states.shape[1])]

    @torch.inference_mode()
    def energy(self, batch: StateBatch, goal: StateBatch) -> NDArray[np.float64]:
        """The planner's energy of N states for one goal state (a batch of one row): N."""
        goals, empty = goal.states.expand_as(batch.states), goal.masks.expand_as(batch.masks)
        energies = StateEnergy.of(self._model)(batch.states, goals, batch.masks, empty)
        return energies.double().numpy()

    def cost(self, energies: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
        """The search's cost of N candidates from their energies after each of H actions (H arrays of N): N."""
        weights = step_weights(len(energies), self._model.config.plan.step_weight_exponent).double().numpy()
        return np.tensordot(weights, np.stack(energies), 1)

    @torch.inference_mode()
    def prev_action(self, episode: StateBatch) -> NDArray[np.float64]:
        """The action before each state of an episode as estimated by the inverse dynamics: N x A in robot units.

        A counts the active dimensions. The episode is taken to begin at rest.
        """
        earlier = torch.cat([episode.prev_state[:1], episode.prev_state[:-1]])
        normal = self._model.world_model.inverse(earlier, episode.prev_state, episode.states).double().numpy()
        assert self._spec.mean is not None and self._spec.std is not None
        return normal * np.array(self._spec.std) + np.array(self._spec.mean)
