"""Methods compared on the same pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from sims.core.task import Simulation, Task
from sims.evaluation.evaluate import play
from sims.evaluation.pairs import Pair
from sims.evaluation.policies import Policy
from sims.evaluation.results import EvaluationResult, MethodResult
from sims.evaluation.statistics import bootstrap_median


def compare_methods(result: EvaluationResult, first: str, second: str) -> dict[str, Any]:
    """Compare two methods pair by pair.

    ``success_end``: for each criterion, successes at the end of the first minus those of the second (exact McNemar
    test). ``further``: median over the pairs of the final distance of the second minus that of the first, in the
    task's unit, with its bootstrap interval (95 %).
    """
    ends = (result.method(name).final_distances() for name in (first, second))
    interval = bootstrap_median([there - here for here, there in zip(*ends, strict=True)])
    assert interval is not None  # distances are finite
    return {
        "against": first,
        "success_end": {name: asdict(result.compare(first, second, i)) for i, name in enumerate(result.criteria)},
        "further": asdict(interval),
    }


def success_row(task: Task, simulation: Simulation, policy: Policy, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Play one policy: its success at the end at every tolerance, and the median final distance in the task's unit."""
    played: MethodResult = play(task, simulation, policy, pairs, task.evaluation_steps, progress=False)
    return {
        "who": policy.name,
        "success_end": [asdict(played.end(i)) for i in range(len(task.tolerances))],
        "final_distance": float(np.median(played.final_distances())),
    }
