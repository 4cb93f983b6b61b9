"""A diagnosis as text for a terminal and as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from sims.diagnosis.measure import Diagnosis
from sims.diagnosis.verdicts import Verdict, progress_name, verdicts, weakest
from sims.evaluation.statistics import Estimate
from sims.evaluation.units import columns, in_unit, length, shown_in

OUTCOMES = {  # of PairOutcome, and what people call them
    "start": "at the start",
    "typical": "typical candidate",
    "picked": "energy's pick",
    "planned": "plan",
    "best": "best candidate",
}
BY_STEPS = "progress is measured in steps that the scripted controller still needs"
BY_DISTANCE = (
    "progress is measured by straight distance, because the scripted controller does not solve these pairs; where the "
    "way is a detour, (c) and (d) mean little"
)


def to_json(found: Diagnosis) -> dict[str, Any]:
    """The diagnosis as plain JSON values."""
    judged = [asdict(v) for v in verdicts(found).values()]
    return {"format": 2, **asdict(found), "verdicts": judged, "conclusion": weakest(found)}


def as_text(found: Diagnosis) -> str:
    """The diagnosis as tables for a terminal, with a verdict below each part."""
    judged, probe, rollout = verdicts(found), found.probe, found.rollout
    observed, imagined = found.ranks()
    ahead = [[in_unit("steps ahead, median error", found.unit), *map(str, range(1, len(rollout.imagined) + 1))]]
    for name, values in (
        ("rollout", rollout.imagined),
        ("observed state", rollout.observed),
        ("nothing moves", rollout.nothing_moves),
    ):
        ahead.append([name, *(_number(value, found.unit) for value in values)])
    searched = [
        [f"after {found.horizon} actions, median", *OUTCOMES.values()],
        [
            in_unit(progress_name(found), found.progress_unit),
            *(_number(found.median(name), found.progress_unit) for name in OUTCOMES),
        ],
    ]
    closing = lambda *parts: [f"=> {_line(judged[part])}" for part in parts]  # noqa: E731
    return "\n".join(
        [
            f"{found.task}, dev seed {found.seed}: {probe.fitted + probe.held_out} episodes, "
            f"{len(found.outcomes)} pairs, {found.candidates} candidates of {found.horizon} actions",
            BY_STEPS if found.progress == "steps" else BY_DISTANCE,
            "",
            "(a) representation: linear probe of the true state on the planning state",
            f"median error {length(probe.error, found.unit)}, always the mean {length(probe.mean_error, found.unit)}",
            "R2: " + ", ".join(f"{name} {value:.3f}" for name, value in probe.r2.items()),
            *closing("a"),
            "",
            "(b) dynamics: the same probe on imagined states",
            *columns(ahead),
            *closing("b"),
            "",
            "(c) policy prior and search: first candidates and plan, executed in the simulation",
            *columns(searched),
            *closing("c", "search"),
            "",
            f"(d) energy: does it rank the candidates by {progress_name(found)}? (Spearman, median over the pairs)",
            f"observed final states {_interval(observed)}; imagined ones {_interval(imagined)}",
            *closing("d"),
            "",
            weakest(found),
        ]
    )


def _number(value: float, unit: str) -> str:
    return f"{shown_in(unit)[0] * value:.3g}"


def _line(verdict: Verdict) -> str:
    return f"{verdict.link}: {'sound' if verdict.sound else 'WEAK'}, {verdict.reason}"


def _interval(rank: Estimate | None) -> str:
    return "-" if rank is None else f"{rank.median:.2f} [{rank.low:.2f}, {rank.high:.2f}]"
