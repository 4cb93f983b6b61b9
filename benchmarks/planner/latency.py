"""Latency and CPU-seconds of a plan, beside a peer's plan measured in the same run."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.part import Part
from benchmarks.planner.cells import milliseconds, search_size
from benchmarks.planner.instrumented import (
    InstrumentedPlanner,
    PlanCost,
    closed_loop_queries,
    measure,
    replay,
    summarise,
    summary,
    threads,
)
from benchmarks.planner.peer import BLOCK, HORIZON, IMAGE, Peer, PlainSearch, make_peer
from benchmarks.table import Result, Table
from hnet_vjepa.planning.planner import load_planner
from hnet_vjepa.utils.runtime import machine
from sims.core.task import Task
from sims.evaluation.pairs import make_pairs
from sims.evaluation.policies import check_card

PAIRS = 10  # dev pairs whose closed loop is replayed; one goal each
ROUNDS = 5  # in each of them every configuration is measured in turn


def peer_plan(peer: Peer, iterations: int, seed: int) -> PlanCost:
    """The cost of one plan of the peer: two images are encoded, then the search runs."""
    images = torch.randn(2, *IMAGE, generator=torch.Generator().manual_seed(seed))
    search = PlainSearch(iterations=iterations)
    return measure(lambda: peer.plan(images[0], images[1], HORIZON, search, seed))[1]


def latency(
    task: Task,
    checkpoint: Path,
    pairs: int = PAIRS,
    rounds: int = ROUNDS,
    make: Callable[[int], Peer] = make_peer,
) -> Part:
    """Measure plans with one thread and with all, for cached and new goals, the peer with 10 and with 30 iterations.

    The 30 iterations are measured once, with one thread. Plans at a reached goal, which need no search, have a row of
    their own.
    """
    cores = int(machine()["cores"])
    planner = load_planner(checkpoint)
    check_card(task, planner.card, "image")
    with contextlib.closing(task.open()) as simulation, threads(1):
        queries = closed_loop_queries(task, simulation, planner, make_pairs(task, simulation, "dev", 0, pairs, "image"))
    peer = make(BLOCK * len(task.action.active))
    counts = sorted({1, cores})
    ours: dict[int, list[InstrumentedPlanner]] = {count: [] for count in counts}
    new_goals: list[InstrumentedPlanner] = []
    peers: dict[tuple[int, int], list[PlanCost]] = {(10, count): [] for count in counts}
    run = itertools.count(1)
    for turn in range(rounds):
        for count in counts:
            with threads(count):
                ours[count].append(replay(planner, queries, next(run)))
        with threads(1):
            new_goals.append(replay(planner, queries, next(run), new_goals=True))
        for count in counts:
            with threads(count):
                peers[10, count].append(peer_plan(peer, 10, turn))
    with threads(1):
        peers[30, 1] = [peer_plan(peer, 30, rounds)]
    reached = any(flag for planner in ours[1] for flag in planner.reached)
    rows = [
        *({"who": "planner", "threads": count, **summary(ours[count])} for count in counts),
        {"who": "planner, new goal", "threads": 1, **summary(new_goals)},
        *([{"who": "planner, goal reached", "threads": 1, **summary(ours[1], True)}] if reached else []),
        *({"who": f"peer x{n}", "threads": count, **summarise(costs)} for (n, count), costs in peers.items()),
    ]
    return Part(
        {
            "task": task.name,
            "weights": planner.card.fingerprint,
            "search": asdict(planner.card.search),
            "rounds": rounds,
            "peer": {
                **asdict(PlainSearch()),
                "iterations": [10, 30],
                "horizon": HORIZON,
                "block": BLOCK,
                "parameters": sum(p.numel() for p in peer.parameters()),
                "origin": "own code from the published description, random weights",
            },
        },
        _metrics(rows),
        {"rows": rows},
    )


def _metrics(rows: list[dict[str, Any]]) -> dict[str, float]:
    row = {(r["who"], r["threads"]): r for r in rows}
    one, every = row["planner", 1], row["planner", max(r["threads"] for r in rows)]
    first, short, long = row["planner, new goal", 1], row["peer x10", 1], row["peer x30", 1]
    return {
        **{f"plan_ms_{q}": one["wall_ms"][q] for q in ("p50", "p95", "p99")},
        "plan_ms_p50_all_threads": every["wall_ms"]["p50"],
        "plan_ms_p50_first_goal": first["wall_ms"]["p50"],
        "encode_ms_p50": one["encode_ms"]["p50"],
        "search_ms_p50": one["search_ms"]["p50"],
        "cpu_s_per_plan": one["cpu_s"],
        "peer_cpu_s_per_plan_x10": short["cpu_s"],
        "peer_cpu_s_per_plan_x30": long["cpu_s"],
        "cpu_s_ratio_peer_x10": short["cpu_s"] / one["cpu_s"],
        "cpu_s_ratio_peer_x30": long["cpu_s"] / one["cpu_s"],
    }


def table(result: Result) -> Table:
    """Wall and CPU time of a plan, of the planner and of the peer."""
    part = result.parts["latency"]
    rows = []
    for row in part["rows"]:
        wall = " / ".join(milliseconds(row["wall_ms"][q]) for q in ("p50", "p95", "p99"))
        inside = [milliseconds(row[key]["p50"]) if key in row else "–" for key in ("encode_ms", "search_ms")]
        rows.append([row["who"], str(row["threads"]), wall, *inside, f"{row['cpu_s']:.3g}", str(row["plans"])])
    peer = part["settings"]["peer"]
    note = (
        f"The planner searches {search_size(part['settings']['search'])} (candidates x iterations x horizon). The peer "
        f"is a network of LeWM's size ({peer['parameters'] / 1e6:.1f} million parameters; {peer['origin']}) under "
        f"plain CEM with {peer['candidates']} candidates, {' or '.join(map(str, peer['iterations']))} iterations and "
        f"{peer['horizon']} blocks of {peer['block']} actions; only its cost is meaningful."
    )
    head = ["", "threads", "ms p50 / p95 / p99", "encode, p50", "search, p50", "CPU-seconds", "plans"]
    return Table(head, rows, note, ("latency",))
