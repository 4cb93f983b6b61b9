"""Rollouts that say what a plan's energies are worth: how often plans like this one reached their goals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from hnet_vjepa.calibration.success import Array, SuccessCurve, features
from hnet_vjepa.planning.interface import Planner, PlanQuery
from sims.core.task import Simulation, Task
from sims.evaluation.pairs import Pair


@dataclass(frozen=True)
class Outcomes:
    """N rollouts: what the plan reported that was made at a moment of each, and how near it came by the plan's end."""

    features: Array  # N x F
    energies: list[tuple[float, NDArray[np.float32]]]  # now, and after each action
    distances: Array  # N, to the goal once as many actions were done as the plan has, in the task's unit

    def probabilities(self, curve: SuccessCurve) -> Array:
        """What a curve says of the plans: N. They must be of the length that the curve was measured on."""
        return np.array([curve.probability(*energies) for energies in self.energies], np.float64)


def play_plans(
    task: Task, simulation: Simulation, planner: Planner, pairs: Sequence[Pair], progress: bool = True
) -> Outcomes:
    """Follow plans from the start of each pair, a new one at every step, and take one of them at its word.

    Which one is drawn from the first ``horizon`` + 1 by the pair's index: some are made far from the goal, some near.
    """
    horizon = planner.card.search.horizon
    reports, distances = [], []
    for pair in tqdm(pairs, desc=f"calibrate {task.name}", unit="rollout", disable=None if progress else True):
        asked = pair.index % (horizon + 1)
        simulation.restore(pair.start)
        frames, previous = [simulation.frame()], None
        for step in range(asked + horizon):
            seen = np.stack(frames[-planner.card.history - 1 :])
            seed = pair.index * 1000 + step
            [plan] = planner.plan([PlanQuery(seen, pair.goal, seed=seed, previous_actions=previous)])
            if step == asked:
                reports.append((plan.energy_now, plan.energies))
            previous = plan.actions
            simulation.step(plan.actions[0])
            frames.append(simulation.frame())
        distances.append(task.distance(simulation.state(), pair.goal_state))
    return Outcomes(np.stack([features(*report) for report in reports]), reports, np.array(distances))
