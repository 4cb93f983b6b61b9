"""Rollouts for the success calibration: energies that plans reported, and how near each plan came to its goal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from hnet_vjepa.calibration.success import Array, SuccessCurve, features
from hnet_vjepa.planning.interface import Planner, PlanQuery
from hnet_vjepa.utils.progress import show_progress
from sims.core.task import Simulation, Task
from sims.evaluation.pairs import Pair


@dataclass(frozen=True)
class Outcomes:
    """N rollouts: the energies of one plan of each, and the true distance to the goal when that plan had ended."""

    features: Array  # N x F
    energies: list[tuple[float, NDArray[np.float32]]]  # now, and after each action
    distances: Array  # N, to the goal once as many actions were done as the plan has, in the task's unit

    def probabilities(self, curve: SuccessCurve) -> Array:
        """Probabilities of success of the plans under a curve fitted to plans of the same horizon: N."""
        return np.array([curve.probability(*energies) for energies in self.energies], np.float64)


def play_plans(
    task: Task, simulation: Simulation, planner: Planner, pairs: Sequence[Pair], progress: bool = True
) -> Outcomes:
    """Run the planner in closed loop from the start of each pair and keep the report of one of its plans.

    Which one follows from the pair's index, among the first ``horizon`` + 1 plans: some are made far from the goal,
    some near. The distance is measured once as many actions were executed as that plan has.
    """
    horizon = planner.card.search.horizon
    reports, distances = [], []
    for pair in show_progress(pairs, f"calibrate {task.name}", "rollout", progress):
        kept = pair.index % (horizon + 1)
        simulation.restore(pair.start)
        frames, previous = [simulation.frame()], None
        for step in range(kept + horizon):
            seen = np.stack(frames[-planner.card.history - 1 :])
            seed = pair.index * 1000 + step
            [plan] = planner.plan([PlanQuery(seen, pair.goal, seed=seed, previous_actions=previous)])
            if step == kept:
                reports.append((plan.energy_now, plan.energies))
            previous = plan.actions
            simulation.step(plan.actions[0])
            frames.append(simulation.frame())
        distances.append(task.distance(simulation.state(), pair.goal_state))
    return Outcomes(np.stack([features(*report) for report in reports]), reports, np.array(distances))
