"""Verdicts on a diagnosis: which link of the chain from picture to action holds, and which is the weakest."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sims.diagnosis.measure import Diagnosis
from sims.evaluation.units import length

# Thresholds; the documentation gives the reasons.
PROBE_ERROR = 0.5  # error of the linear probe, as a share of the loosest tolerance
ROLLOUT_ERROR = 0.5  # error of the rollout at the planning horizon, as a share of that of 'nothing moves' ...
ROLLOUT_GROWTH = 1.5  # ... or as a multiple of the probe's error on the observed state of that moment
PAIRS_WITH_PROGRESS = 0.9  # share of the pairs in which some candidate makes progress ...
PROGRESS = 0.05  # ... that is, this share of the way to the goal
PLANNED = 0.5  # progress of the plan, as a share of the best candidate's
RANK = 0.7  # median rank correlation of energy and what is left of the way
RANK_LOSS = 0.1  # of it, with imagined instead of observed states


@dataclass(frozen=True)
class Verdict:
    """One link of the chain: whether it holds, and why."""

    link: str
    sound: bool
    reason: str


def progress_name(found: Diagnosis) -> str:
    """What the progress of candidates and plans is measured by."""
    return "steps to go" if found.progress == "steps" else "straight distance"


def verdicts(found: Diagnosis) -> dict[str, Verdict]:
    """Judge every link, in the order in which they depend on each other; keys are the parts of the table."""
    imagined, observed, still = found.rollout.at(found.horizon)
    with_progress = float(np.mean([o.best <= (1 - PROGRESS) * o.start for o in found.outcomes]))
    best, planned = found.progress_of("best"), found.progress_of("planned")
    share = found.probe.error / found.tolerance
    by_observed, by_imagined = found.ranks()
    if by_observed is None or by_imagined is None:
        ranked, kept, energy = True, True, "no candidate made a difference, so there was nothing to rank"
    else:
        ranked = by_observed.median >= RANK
        kept = by_imagined.median >= min(RANK, by_observed.median - RANK_LOSS)
        energy = f"observed final states are ranked by {progress_name(found)} with {by_observed.median:.2f}"
    follows = imagined <= max(ROLLOUT_ERROR * still, ROLLOUT_GROWTH * observed)
    rank = "" if by_imagined is None else f"; imagined final states are ranked with {by_imagined.median:.2f}"
    return {
        "a": Verdict(
            "representation",
            share <= PROBE_ERROR,
            f"the linear probe's error is {share:.2g} of the tolerance of {length(found.tolerance, found.unit)}",
        ),
        "d": Verdict("energy", ranked, energy),
        "b": Verdict(
            "dynamics",
            follows and kept,
            f"error after {found.horizon} actions: rollout {length(imagined, found.unit)}, observed state "
            f"{length(observed, found.unit)}, 'nothing moves' {length(still, found.unit)}{rank}",
        ),
        "c": Verdict(
            "policy prior",
            with_progress >= PAIRS_WITH_PROGRESS,
            f"in {100 * with_progress:.0f} % of the pairs some candidate makes at least {100 * PROGRESS:.0f} % of the "
            f"way ({progress_name(found)})",
        ),
        "search": Verdict(
            "search",
            planned >= PLANNED * best,
            f"the plan makes {100 * planned:.0f} % of the way, the best candidate {100 * best:.0f} %",
        ),
    }


def weakest(found: Diagnosis) -> str:
    """The first link that does not hold, as a sentence."""
    weak = [v for v in verdicts(found).values() if not v.sound]
    if not weak:
        return "no link is weak by these measures; they do not cover rare moments of an episode and far goals"
    return f"weakest link: {weak[0].link} ({weak[0].reason})"
