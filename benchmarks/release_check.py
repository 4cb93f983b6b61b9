"""The release check: does every shipped model still reach what its row in ``benchmarks/results/sims.json`` says?

``hnet bench sims --zoo --check`` (or ``python -m benchmarks.sims --zoo --check``) plays the first test pairs of every
shipped model's task with the planner alone and compares the success at the end, by the row's first criterion, with the
row (Fisher's exact test, one-sided, at ALPHA). The exit status is 1 when a model falls below its row or could not be
judged. Models that were judged with the same weights, the same source and the same packages are taken from the work
directory, so a check that was interrupted continues, and a changed planner is judged again.

A model without loss fails by chance in less than ALPHA of the checks: the test is exact, and the pairs of the check
are a part of those of the row.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.record import ROOT, merge_result, read_result
from hnet_vjepa import zoo
from hnet_vjepa.checkpoint import read_manifest
from hnet_vjepa.errors import UserError, one_of
from hnet_vjepa.planning.planner import load_planner
from hnet_vjepa.utils.files import write_json_atomic
from hnet_vjepa.utils.runtime import versions
from sims.core.registry import get_task
from sims.evaluation.evaluate import criteria_of, play
from sims.evaluation.manifest import check_pairs
from sims.evaluation.pairs import make_pairs
from sims.evaluation.policies import check_card, local_planner
from sims.evaluation.statistics import fisher_less, wilson
from sims.evaluation.units import columns

PAIRS = 20  # test pairs per model
ALPHA = 0.01  # a lower success is a failure when it is less probable than this
SOURCES = ("hnet_vjepa", "sims/core", "sims/tasks", "sims/evaluation")  # what decides what a model reaches
WORK = Path("outputs/release-check")


@dataclass(frozen=True)
class Reference:
    """What a model's row says: successes at the end of an episode by the first criterion."""

    criterion: str
    successes: int
    trials: int


@dataclass(frozen=True)
class Outcome:
    """What was measured in the check: by each criterion of the row, the number of successes at the end."""

    successes: dict[str, int]
    trials: int
    seconds: float


class MissingExtraError(UserError):
    """A task's simulator is not installed. The message is the command that installs it."""


@dataclass(frozen=True)
class Judgement:
    """One line of the check. ``outcome`` is None, and ``why_not`` says why, where a model was not judged."""

    model: str
    reference: Reference | None
    outcome: Outcome | None
    why_not: str = ""
    missing_extra: bool = False

    @property
    def p_value(self) -> float | None:
        """Probability of so few successes if the model is as good as its row; None where it was not judged."""
        if self.outcome is None or self.reference is None:
            return None
        found = self.outcome.successes[self.reference.criterion]
        return fisher_less(found, self.outcome.trials, self.reference.successes, self.reference.trials)

    @property
    def below(self) -> bool:
        """Whether the model is significantly worse than its row."""
        return self.p_value is not None and self.p_value < ALPHA

    def passes(self, allow_missing: bool) -> bool:
        """Whether this line lets the check succeed. ``allow_missing``: also where an extra is not installed."""
        if self.p_value is None:
            return allow_missing and self.missing_extra
        return not self.below


Judge = Callable[[str, int], Outcome]
"""Plays a number of test pairs with the shipped model of a name."""


def reference_of(row: dict[str, Any]) -> Reference:
    """What a row of sims.json says of image goals at the task's own distance."""
    criterion, rates = next(iter(row["summary"]["image"]["planner"]["success"].items()))
    return Reference(criterion, rates["end"]["successes"], rates["end"]["trials"])


def play_model(name: str, pairs: int) -> Outcome:
    """Play the first test pairs of a shipped model's task with the planner alone, in one thread.

    Raises MissingExtraError when the simulator is not installed, UserError when the pairs are not those of the task's
    manifest or the model does not fit the task.
    """
    started = time.monotonic()
    task = get_task(name)
    try:
        simulation = task.open()
    except UserError as error:
        if task.needs and isinstance(error.__cause__, ImportError):
            raise MissingExtraError(task.needs) from error
        raise
    with contextlib.closing(simulation):
        planner = load_planner(zoo.path(name), threads=1)
        check_card(task, planner.card, "image")
        drawn = make_pairs(task, simulation, "test", 0, pairs, "image")
        check_pairs(task, drawn, "test", 0, "image", None)
        result = play(task, simulation, local_planner(planner), drawn, task.evaluation_steps)
    ends = {name: result.end(i).successes for i, name in enumerate(criteria_of(task, "image"))}
    return Outcome(ends, len(drawn), time.monotonic() - started)


def source_hash(root: Path = ROOT) -> str:
    """SHA-256 of the source and the package versions that decide what a shipped model reaches."""
    digest = hashlib.sha256(json.dumps(versions(), sort_keys=True).encode())
    for folder in SOURCES:
        for file in sorted((root / folder).rglob("*.py")):
            digest.update(f"{file.relative_to(root)}\0".encode() + file.read_bytes())
    return digest.hexdigest()


def kept(judge: Judge, work: Path, source: str) -> Judge:
    """The same judge, which keeps its outcomes in ``work`` and takes those of the same weights, source and pairs."""

    def judge_once(name: str, pairs: int) -> Outcome:
        key = {"weights": read_manifest(zoo.path(name)).fingerprint, "source": source, "pairs": pairs}
        path = work / f"{name}.json"
        if path.is_file():
            with contextlib.suppress(ValueError, KeyError, TypeError):  # of a damaged file, which is made anew
                content = json.loads(path.read_text())
                if content["key"] == key:
                    return Outcome(**content["outcome"])
        outcome = judge(name, pairs)
        write_json_atomic(path, {"key": key, "outcome": asdict(outcome)})
        return outcome

    return judge_once


def check(
    names: Sequence[str],
    rows: dict[str, Any],
    judge: Judge,
    pairs: int = PAIRS,
    say: Callable[[str], None] = lambda line: None,
) -> list[Judgement]:
    """Judge the named models against their rows. ``say`` is called with one line after each."""
    found = []
    for name in names:
        reference = reference_of(rows[name]) if name in rows else None
        try:
            judgement = Judgement(
                name, reference, judge(name, pairs), "" if reference else "it has no row in sims.json"
            )
        except MissingExtraError as error:
            judgement = Judgement(name, reference, None, f"not installed: {error}", missing_extra=True)
        except UserError as error:
            judgement = Judgement(name, reference, None, str(error))
        say("  ".join(_cells(judgement)))
        found.append(judgement)
    return found


def as_text(found: Sequence[Judgement]) -> str:
    """The table of a check, and a sentence that sums it up."""
    head = ("model", "criterion", "check", "row", "p", "verdict", "seconds")
    judged = [j for j in found if j.p_value is not None]
    lines = columns([head, *map(_cells, found)])
    below = [j.model for j in judged if j.below]
    summary = (
        f"{len(judged)} of {len(found)} models judged; below their row (p < {ALPHA:g}): {', '.join(below) or 'none'}"
    )
    if len(judged) < len(found):
        summary += f"; NOT JUDGED: {', '.join(j.model for j in found if j not in judged)}"
    return "\n".join([*lines, summary])


def _cells(judgement: Judgement) -> list[str]:
    reference, outcome, p = judgement.reference, judgement.outcome, judgement.p_value
    if reference is None or outcome is None or p is None:
        return [judgement.model, "", "", "", "", f"NOT JUDGED: {judgement.why_not}", ""]
    row = wilson(reference.successes, reference.trials)
    return [
        judgement.model,
        reference.criterion,
        f"{outcome.successes[reference.criterion]}/{outcome.trials}",
        f"{100 * row.value:.0f} % [{100 * row.low:.0f}, {100 * row.high:.0f}]",
        f"{p:.2g}",
        "BELOW ITS ROW" if judgement.below else "ok",
        f"{outcome.seconds:.0f}",
    ]


def main(words: Sequence[str] | None = None) -> int:
    """Run the check and return the exit status: 0, or 1 when a model is below its row or was not judged."""
    parser = argparse.ArgumentParser(
        prog="hnet bench sims --zoo --check",
        description="Check that every shipped model still reaches what its row says. Ten to thirty minutes in all.",
    )
    parser.add_argument("model", nargs="*", help="which models; by default all that are shipped")
    parser.add_argument("--zoo", action="store_true", help="the shipped models (the only ones that have rows)")
    parser.add_argument("--check", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--episodes", type=int, default=PAIRS, help="test pairs per model")
    parser.add_argument("--work", type=Path, default=WORK, help="where finished models are kept")
    parser.add_argument(
        "--allow-missing", action="store_true", help="succeed although the simulator of a model is not installed"
    )
    parser.add_argument("--record", action="store_true", help="write the table to benchmarks/results/house.json")
    options = parser.parse_args(words)
    try:
        for name in options.model:
            if name not in zoo.names():
                raise one_of("model", name, zoo.names())
        names, rows = options.model or zoo.names(), read_result("sims")["rows"]
        judge = kept(play_model, options.work, source_hash())
        found = check(names, rows, judge, options.episodes, lambda line: print(line, flush=True))
    except UserError as error:
        print(f"sims: {error}", file=sys.stderr)
        return 2
    print(f"\n{as_text(found)}")
    if options.record:
        record(found, options.episodes)
    return 0 if all(judgement.passes(options.allow_missing) for judgement in found) else 1


def record(found: Sequence[Judgement], pairs: int) -> None:
    """Write a check as the part ``release-check`` of benchmarks/results/house.json."""
    metrics = {
        "zoo_models_judged": sum(judgement.p_value is not None for judgement in found),
        "zoo_models_below_row": sum(judgement.below for judgement in found),
    }
    models = {judgement.model: {**asdict(judgement), "p_value": judgement.p_value} for judgement in found}
    settings = {"pairs": pairs, "alpha": ALPHA, "split": "test", "seed": 0}
    merge_result("house", "release-check", "hnet bench sims --zoo --check --record", settings, metrics, models=models)
