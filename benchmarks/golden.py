"""Golden plans: what every shipped model answers to a few recorded queries, so that no change of it goes unsaid.

``python -m benchmarks.golden record [MODEL...]`` lets a shipped model act in its own simulation, keeps a few of the
queries that it was asked and its answers as ``tests/golden/MODEL.json``. ``python -m benchmarks.golden check`` asks the
same again, without any simulation, and names what differs; ``make test`` does so too. ``... hash`` prints one SHA-256
per model over actions and energies, to show on one machine that a change had no effect at all.

Queries and answers are those of ``POST /v1/plan``, whose names do not change with those of the code.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from hnet_vjepa import zoo
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.goals.label import LabelGoal
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.interface import Goal, ModelCard, Planner, PlanQuery
from hnet_vjepa.planning.planner import load_planner
from hnet_vjepa.specs import explain
from hnet_vjepa.utils.files import write_bytes_atomic
from planner_service.images import encode_image
from planner_service.queries import to_query
from planner_service.schemas import PlanRequest
from sims.core.registry import get_task
from sims.evaluation.pairs import make_pairs
from sims.evaluation.policies import Observation, local_planner

FOLDER = Path(__file__).resolve().parent.parent / "tests" / "golden"
STEPS = (0, 3)  # of the first pair, at which the planner's query is kept: without and with a plan before it
ACTION_TOLERANCE = 1e-3  # as a share of each dimension's range
ENERGY_TOLERANCE = 1e-3  # relative, and absolute below 1


class GoldenPlan(BaseModel):
    """One query and what the planner answered. Pictures are numbers into GoldenRecord.images."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    what: str
    request: dict[str, Any]
    actions: tuple[tuple[float, ...], ...]
    energies: tuple[float, ...]
    energy_now: float
    reached: bool


class GoldenRecord(BaseModel):
    """The file's content. ``sha256`` is that of all the rest, so that a file cut short or edited is noticed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = 1
    model: str
    weights: str
    images: tuple[str, ...]
    plans: tuple[GoldenPlan, ...]
    sha256: str = ""

    def own_hash(self) -> str:
        """SHA-256 of everything but ``sha256``."""
        return hashlib.sha256(self.model_dump_json(exclude={"sha256"}).encode()).hexdigest()


def read_record(name: str, folder: Path = FOLDER) -> GoldenRecord:
    """Read a model's record. Raises UserError in one line when it is missing, cut short or edited."""
    path = folder / f"{name}.json"
    again = f"'python -m benchmarks.golden record {name}' makes it anew"
    if not path.is_file():
        raise UserError(f"{path} is missing; {again}")
    try:
        record = GoldenRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(f"{path} is damaged: {explain(error)}; {again}") from error
    if record.sha256 != record.own_hash():
        raise UserError(f"{path} is not what was recorded (its SHA-256 differs); {again}")
    return record


def write_record(record: GoldenRecord, folder: Path = FOLDER) -> Path:
    """Write a record in one step and return its path."""
    path = folder / f"{record.model}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    content = record.model_copy(update={"sha256": record.own_hash()}).model_dump(mode="json")
    write_bytes_atomic(path, (json.dumps(content, indent=1) + "\n").encode())
    return path


def queries(record: GoldenRecord, card: ModelCard) -> list[PlanQuery]:
    """The recorded requests as the service would hand them to the planner."""
    requests = [PlanRequest.model_validate(_with_images(plan.request, record.images)) for plan in record.plans]
    return [to_query(request, card, time.monotonic()) for request in requests]


def differences(record: GoldenRecord, planner: Planner) -> list[str]:
    """Ask every query alone and say in one line each what is not as recorded, beyond the tolerances."""
    card, found = planner.card, []
    width = np.array(card.action.high) - np.array(card.action.low)
    if card.fingerprint != record.weights:
        found.append(f"{record.model}: weights {card.fingerprint[:12]}, recorded with {record.weights[:12]}")
    for plan, query in zip(record.plans, queries(record, card), strict=True):
        [answer] = planner.plan([query])
        actions, energies = np.array(plan.actions), np.array(plan.energies)
        where = f"{record.model}, {plan.what}"
        if answer.actions.shape != actions.shape:
            found.append(f"{where}: plan of shape {answer.actions.shape}, recorded {actions.shape}")
            continue
        moved = float((np.abs(answer.actions - actions) / np.where(width > 0, width, 1)).max())
        if not moved <= ACTION_TOLERANCE:
            found.append(f"{where}: actions differ by {moved:.2g} of their range; allowed {ACTION_TOLERANCE:g}")
        before, now = np.append(energies, plan.energy_now), np.append(answer.energies, answer.energy_now)
        changed = float((np.abs(now - before) / np.maximum(1, np.abs(before))).max())
        if not changed <= ENERGY_TOLERANCE:
            found.append(f"{where}: energies differ by {changed:.2g}; allowed {ENERGY_TOLERANCE:g}")
        if answer.reached != plan.reached:
            found.append(f"{where}: reached is {answer.reached}, recorded {plan.reached}")
    return found


def plan_hash(record: GoldenRecord, planner: Planner) -> str:
    """SHA-256 of the actions and energies that a planner gives for a record's queries."""
    digest = hashlib.sha256()
    for query in queries(record, planner.card):
        [answer] = planner.plan([query])
        digest.update(answer.actions.tobytes() + answer.energies.tobytes() + np.float64(answer.energy_now).tobytes())
    return digest.hexdigest()


def make_record(name: str) -> GoldenRecord:
    """Let a shipped model act in its task's simulation on dev pairs and keep what it was asked and answered."""
    planner, task = load_planner(zoo.path(name), threads=1), get_task(name)
    images: list[str] = []
    plans: list[GoldenPlan] = []

    def keep(what: str, query: PlanQuery, goal: dict[str, Any], cost: dict[str, Any] | None = None) -> None:
        request = {"frames": [_image(frame, images) for frame in query.frames], "goal": goal, "seed": query.seed}
        if query.previous_actions is not None:
            request["previous_actions"] = query.previous_actions.tolist()
        if cost is not None:
            request["cost"] = cost
        full = PlanRequest.model_validate(_with_images(request, images))
        [answer] = planner.plan([to_query(full, planner.card, time.monotonic())])
        plans.append(
            GoldenPlan(
                what=what,
                request=request,
                actions=tuple(map(tuple, answer.actions.tolist())),
                energies=tuple(answer.energies.tolist()),
                energy_now=answer.energy_now,
                reached=answer.reached,
            )
        )

    with contextlib.closing(task.open()) as simulation:
        kinds = {kind: make_pairs(task, simulation, "dev", 0, 2, kind) for kind in _kinds(planner.card)}
        for number, pair in enumerate(kinds["image"]):
            simulation.restore(pair.start)
            asked: list[PlanQuery] = []
            act = local_planner(_Listening(planner, asked)).begin(pair)
            frames = [simulation.frame()]
            for _ in range(max(STEPS) + 1 if number == 0 else 1):
                simulation.step(act(Observation(np.stack(frames), simulation.state())).action)
                frames.append(simulation.frame())
            picture = {"kind": "image", "image": _image(pair.goal_frame, images)}
            for step in STEPS if number == 0 else (0,):
                keep(f"picture of pair {number}, action {step}", asked[step], picture)
            if number == 0:
                some = {**picture, "slot_weights": [float(i % 3) for i in range(planner.card.state_shape[0])]}
                keep(
                    "a part of the picture, costs of control",
                    asked[-1],
                    some,
                    {"control": 0.5, "over_steps": "closest"},
                )
        for kind in ("text", "label"):
            for pair in kinds.get(kind, [])[:1]:
                simulation.restore(pair.start)
                query = PlanQuery(simulation.frame()[None], pair.goal, seed=7)
                keep(f"goal as {kind}", query, _goal(pair.goal))
    return GoldenRecord(model=name, weights=planner.card.fingerprint, images=tuple(images), plans=tuple(plans))


class _Listening:
    """A planner that keeps what it is asked."""

    def __init__(self, planner: Planner, asked: list[PlanQuery]) -> None:
        self._planner, self._asked = planner, asked

    @property
    def card(self) -> ModelCard:
        return self._planner.card

    def check(self, query: PlanQuery) -> None:
        self._planner.check(query)

    def plan(self, queries: list[PlanQuery]) -> Any:
        self._asked += queries
        return self._planner.plan(queries)


def _kinds(card: ModelCard) -> list[Any]:
    return [kind for kind in ("image", "text", "label") if kind in card.goals]


def _goal(goal: Goal) -> dict[str, Any]:
    if isinstance(goal, LabelGoal):
        return {"kind": "label", "labels": list(goal.labels)}
    assert not isinstance(goal, ImageGoal) and hasattr(goal, "text")
    return {"kind": "text", "text": goal.text}


def _image(frame: np.ndarray[Any, Any], images: list[str]) -> str:
    """The number of a picture among the record's, as ``#3``; it is added where it is new."""
    text = encode_image(frame)
    if text not in images:
        images.append(text)
    return f"#{images.index(text)}"


def _with_images(request: dict[str, Any], images: Sequence[str]) -> dict[str, Any]:
    """A request with its pictures in place of their numbers."""
    goal = dict(request["goal"])
    if "image" in goal:
        goal["image"] = images[int(goal["image"][1:])]
    return {**request, "frames": [images[int(text[1:])] for text in request["frames"]], "goal": goal}


def main() -> None:
    """Record, check or hash."""
    parser = argparse.ArgumentParser(description="Golden plans of the shipped models.")
    parser.add_argument("what", choices=("record", "check", "hash"))
    parser.add_argument("model", nargs="*", help="shipped models; by default all")
    options = parser.parse_args()
    wrong = []
    try:
        for name in options.model or zoo.names():
            if options.what == "record":
                print(write_record(make_record(name)), flush=True)
                continue
            record, planner = read_record(name), load_planner(zoo.path(name), threads=1)
            if options.what == "hash":
                print(f"{plan_hash(record, planner)}  {name}", flush=True)
                continue
            wrong += differences(record, planner)
    except UserError as error:
        print(f"golden: {error}", file=sys.stderr)
        sys.exit(2)
    for line in wrong:
        print(line)
    if options.what == "check" and not wrong:
        print("all plans are as recorded")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
