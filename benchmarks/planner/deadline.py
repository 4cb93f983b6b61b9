"""How late the running service answers when a request has a deadline and its search would take much longer."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.demo import service
from benchmarks.part import Part
from benchmarks.planner.instrumented import closed_loop, quantiles, stamped, threads
from hnet_vjepa.planning.interface import PlanQuery, SearchSettings
from hnet_vjepa.planning.planner import load_planner
from planner_service.client import PlannerClient
from sims.core.task import Task
from sims.evaluation.pairs import make_pairs
from sims.evaluation.policies import check_card

DEADLINES_MS = (15.0, 30.0, 60.0)
PAIRS = 20  # dev pairs whose closed loop is asked again
WIDE = SearchSettings(candidates=128, iterations=64, horizon=8, elites=16)  # as much as the service takes
LONG = 100  # iterations, the most that the service takes, of the checkpoint's own search


def lateness(
    client: PlannerClient, queries: Sequence[PlanQuery], deadline_ms: float, search: SearchSettings
) -> dict[str, Any]:
    """Ask every query with a deadline; quantiles of how long after it the answer was there, negative when before.

    ``client_ms``: from sending the request to having the answer, network and JSON included; ``server_ms``: from the
    request's last byte to the answer's making, as the service says. ``iterations``: of the search, on average.
    """
    replies = [
        client.plan(q.frames, q.goal, q.seed, q.previous_actions, deadline_ms=deadline_ms, search=search)
        for q in queries
    ]
    return {
        "deadline_ms": deadline_ms,
        "search": asdict(search),
        "requests": len(replies),
        "client_ms": quantiles([r.timing_ms["round_trip"] - deadline_ms for r in replies]),
        "server_ms": quantiles([r.timing_ms["total"] - deadline_ms for r in replies]),
        "met": sum(r.deadline_met for r in replies) / len(replies),
        "iterations": sum(r.iterations for r in replies) / len(replies),
    }


def deadline(task: Task, checkpoint: Path, pairs: int = PAIRS) -> Part:
    """Start the service, one thread, and ask it with every deadline in turn, for searches that are long or wide.

    Of a long one many short iterations fit; of a wide one a single iteration may take longer than the deadline allows.
    """
    planner = load_planner(checkpoint)
    check_card(task, planner.card, "image")
    with contextlib.closing(task.open()) as simulation, threads(1):
        queries = closed_loop(task, simulation, planner, make_pairs(task, simulation, "dev", 0, pairs, "image"))
    with (
        tempfile.TemporaryDirectory() as folder,
        service(checkpoint, Path(folder) / "service.log") as url,
        PlannerClient(url) as client,
    ):
        searches = (replace(planner.card.search, iterations=LONG), WIDE)
        kinds = list(itertools.product(searches, DEADLINES_MS))
        rows = [
            lateness(client, [stamped(query, run) for query in queries], ms, search)
            for run, (search, ms) in enumerate(kinds, 1)
        ]
    return Part(
        {"task": task.name, "weights": planner.card.fingerprint, "threads": 1},
        {
            "deadline_overrun_ms_p99": max(row["client_ms"]["p99"] for row in rows),
            "deadline_overrun_server_ms_p99": max(row["server_ms"]["p99"] for row in rows),
        },
        {"rows": rows},
    )
