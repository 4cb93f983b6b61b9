"""Where the planner of an evaluation comes from: a checkpoint in this process, or a running service."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hnet_vjepa.checkpoint import read_manifest
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.interface import ModelCard
from hnet_vjepa.planning.planner import load_planner
from planner_service.client import PlanError, PlannerClient
from sims.evaluation.pairs import refuse_evaluation_data
from sims.evaluation.policies import PlannerPolicy, local_planner, remote_planner


@dataclass(frozen=True)
class CheckpointSource:
    """A checkpoint. ``name``: what results call it; ``plan``: changed search settings (see with_plan)."""

    path: Path
    name: str
    plan: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ServiceSource:
    """A running planner service."""

    url: str
    token: str | None = None


@dataclass(frozen=True)
class OpenPlanner:
    """A planner that is ready. ``conditions``: what a result records of it."""

    policy: PlannerPolicy
    card: ModelCard
    conditions: dict[str, str]


@contextlib.contextmanager
def open_planner(source: CheckpointSource | ServiceSource, deadline_ms: float | None = None) -> Iterator[OpenPlanner]:
    """Load the checkpoint, or connect to the service for as long as the block runs.

    ``deadline_ms``: time per plan after which the best one so far is taken. Raises UserError when the service does not
    answer, and when the checkpoint does not plan or was trained on evaluation episodes.
    """
    deadline = {} if deadline_ms is None else {"deadline": f"{deadline_ms:g} ms"}
    if isinstance(source, ServiceSource):
        with PlannerClient(source.url, source.token) as client:
            try:
                card = client.model()
            except PlanError as error:
                raise UserError(f"the planner at {source.url} does not answer as it should: {error}") from error
            conditions = {"planner": source.url, **_facts(card), **deadline}
            yield OpenPlanner(remote_planner(client, card, deadline_ms), card, conditions)
        return
    for phase in read_manifest(source.path).phases:
        refuse_evaluation_data(phase.data_settings, f"{source.path}, phase {phase.phase},")
    planner = load_planner(source.path, plan=source.plan)
    conditions = {"planner": source.name, **_facts(planner.card), **changed_settings(source.plan), **deadline}
    yield OpenPlanner(local_planner(planner, deadline_ms), planner.card, conditions)


def changed_settings(plan: Mapping[str, str]) -> dict[str, str]:
    """What a result records of changed search settings; nothing where there are none."""
    return {"changed settings": ", ".join(f"plan.{name}={value}" for name, value in plan.items())} if plan else {}


def _facts(card: ModelCard) -> dict[str, str]:
    search = card.search
    return {
        "model": f"{card.name}, {card.parameters:,} parameters, phases {', '.join(card.phases)}",
        "weights (SHA-256)": card.fingerprint,
        "search": f"{search.candidates} candidates, {search.iterations} iterations, horizon {search.horizon}",
    }
