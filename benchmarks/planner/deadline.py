"""Deadline overrun of the running service, for requests whose search would take much longer than the deadline."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from benchmarks.part import Part
from benchmarks.planner.cells import search_size
from benchmarks.planner.instrumented import closed_loop_queries, quantiles, stamped, threads
from benchmarks.serving import serving
from benchmarks.table import Result, Table
from hnet_vjepa.planning.interface import PlanQuery, SearchSettings
from hnet_vjepa.planning.planner import load_planner
from planner_service.client import PlannerClient
from sims.core.task import Task
from sims.evaluation.pairs import make_pairs
from sims.evaluation.policies import check_card

DEADLINES_MS = (15.0, 30.0, 60.0)
PAIRS = 20  # dev pairs whose closed loop is replayed
WIDE = SearchSettings(candidates=128, iterations=64, horizon=8, elites=16)  # the service's limits
LONG = 100  # iterations of the checkpoint's own search: the service's limit


def lateness(
    client: PlannerClient, queries: Sequence[PlanQuery], deadline_ms: float, search: SearchSettings
) -> dict[str, Any]:
    """Send every query with a deadline; quantiles of the time from the deadline to the reply (negative: in time).

    ``client_ms``: measured from sending the request to the parsed reply, network and JSON included; ``server_ms``: as
    reported by the service, from the request's last byte to the finished answer. ``iterations``: mean of the search.
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
    """Start the service, one thread, and send requests with each deadline in turn, for long and for wide searches.

    Many short iterations of a long search fit into the deadline; one iteration of a wide search may exceed it.
    """
    planner = load_planner(checkpoint)
    check_card(task, planner.card, "image")
    with contextlib.closing(task.open()) as simulation, threads(1):
        queries = closed_loop_queries(task, simulation, planner, make_pairs(task, simulation, "dev", 0, pairs, "image"))
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(checkpoint, Path(folder) / "service.log") as url,
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


def table(result: Result) -> Table:
    """Deadline overrun, as seen by the client and by the service."""
    part = result.parts["deadline"]
    rows = [
        [
            f"{row['deadline_ms']:.0f} ms",
            search_size(row["search"]),
            *(" / ".join(f"{row[who][q]:+.1f}" for q in ("p50", "p95", "p99")) for who in ("client_ms", "server_ms")),
            f"{100 * row['met']:.1f} %",
            f"{row['iterations']:.1f}",
        ]
        for row in part["rows"]
    ]
    requests = " or ".join(sorted({str(row["requests"]) for row in part["rows"]}))
    note = (
        f"{requests} requests per row, one after another over a socket, for a search that takes longer; milliseconds "
        "after the deadline, negative before it."
    )
    head = [
        "deadline",
        "search",
        "seen by the client, p50 / p95 / p99",
        "by the service",
        "met, as reported by the service",
        "iterations",
    ]
    return Table(head, rows, note, ("deadline",))
