"""Robustness: success over the strength of one factor of variation at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from hnet_vjepa.errors import one_of
from hnet_vjepa.planning.goals.state import ImageGoal
from sims.core.task import Simulation, Task
from sims.core.variation import Factor, Variation
from sims.evaluation.evaluate import play
from sims.evaluation.pairs import Pair
from sims.evaluation.policies import Policy
from sims.evaluation.results import EvaluationResult
from sims.evaluation.statistics import Rate

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
MARGIN = 0.10  # largest loss of success at a strength up to which the planner counts as working


@dataclass(frozen=True)
class Sweep:
    """Success at the end, by the first criterion, at each of STRENGTHS; strength 0 is the evaluation itself."""

    factor: Factor
    planner: tuple[Rate, ...]
    random: tuple[Rate, ...]

    def works_up_to(self) -> float:
        """The largest strength up to which success is within MARGIN of that without variation."""
        kept = 0.0
        for strength, rate in zip(STRENGTHS, self.planner, strict=True):
            if rate.value < self.planner[0].value - MARGIN - 1e-9:
                break
            kept = strength
        return kept

    def sentence(self) -> str:
        """The sweep as a sentence."""
        trained, full = (f"{100 * rate.value:.0f} %" for rate in (self.planner[0], self.planner[-1]))
        return (
            f"{self.factor}: works up to strength {self.works_up_to():g} (success within 10 points of as trained, "
            f"{trained}; {full} at strength 1)"
        )


def chosen_factors(task: Task, names: Sequence[str]) -> tuple[Factor, ...]:
    """The factors of these names; 'all' stands for every one of the task. Raises UserError for another name."""
    for name in names:
        if name not in (*task.factors, "all"):
            raise one_of(f"factor of {task.name}", name, (*task.factors, "all"))
    return tuple(factor for factor in task.factors if factor in names or "all" in names)


def under_variation(simulation: Simulation, pairs: Sequence[Pair]) -> list[Pair]:
    """The same pairs with their goal images rendered again by the simulation as it is varied now."""
    varied = []
    for pair in pairs:
        simulation.restore(pair.goal_saved)
        frame = simulation.frame()
        goal = ImageGoal(frame) if isinstance(pair.goal, ImageGoal) else pair.goal
        varied.append(replace(pair, goal_frame=frame, goal=goal))
    return varied


def sweep(
    task: Task,
    simulation: Simulation,
    factor: Factor,
    planner: Policy,
    random: Policy,
    pairs: Sequence[Pair],
    trained: EvaluationResult,
    progress: bool = True,
) -> Sweep:
    """Play the pairs of an evaluation again at rising strengths of one factor.

    ``trained``: that evaluation, with both policies. The variation is taken back at the end.
    """
    rates = {policy.name: [trained.method(policy.name).end(0)] for policy in (planner, random)}
    try:
        for strength in STRENGTHS[1:]:
            simulation.vary(Variation(factor, strength))
            seen = under_variation(simulation, pairs)
            for policy in (planner, random):
                played = play(task, simulation, policy, seen, trained.steps, progress=progress)
                rates[policy.name].append(played.end(0))
    finally:
        simulation.vary(Variation(factor, 0.0))
    return Sweep(factor, tuple(rates[planner.name]), tuple(rates[random.name]))


def sweeps_to_json(sweeps: Sequence[Sweep]) -> dict[str, Any]:
    """The numbers of sweeps as plain JSON values."""
    return {
        s.factor: {
            "works_up_to": s.works_up_to(),
            "strengths": [
                {"strength": strength, "planner": asdict(planner), "random": asdict(random)}
                for strength, planner, random in zip(STRENGTHS, s.planner, s.random, strict=True)
            ],
        }
        for s in sweeps
    }
