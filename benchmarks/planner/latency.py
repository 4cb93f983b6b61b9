"""How long a plan takes and how many CPU-seconds it costs, with a peer's plan beside it in the same run."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from benchmarks.part import Part
from benchmarks.planner.instrumented import (
    Spent,
    Watched,
    asked_again,
    closed_loop,
    measured,
    summarise,
    summary,
    threads,
)
from benchmarks.planner.peer import BLOCK, HORIZON, PICTURE, Peer, PlainSearch, make_peer
from hnet_vjepa.planning.planner import load_planner
from hnet_vjepa.utils.runtime import machine
from sims.core.task import Task
from sims.evaluation.pairs import make_pairs
from sims.evaluation.policies import check_card

PAIRS = 10  # dev pairs whose closed loop is asked again; one goal each
ROUNDS = 5  # in each of them every configuration is measured in turn


def peer_plan(peer: Peer, iterations: int, seed: int) -> Spent:
    """The cost of one plan of the peer: two pictures encoded, then the search."""
    pictures = torch.randn(2, *PICTURE, generator=torch.Generator().manual_seed(seed))
    search = PlainSearch(iterations=iterations)
    return measured(lambda: peer.plan(pictures[0], pictures[1], HORIZON, search, seed))[1]


def latency(
    task: Task,
    checkpoint: Path,
    pairs: int = PAIRS,
    rounds: int = ROUNDS,
    make: Callable[[int], Peer] = make_peer,
) -> Part:
    """Measure plans with one thread and with all, goals known and new, the peer with 10 and with 30 iterations.

    The 30 iterations are measured once, with one thread. Plans at a goal that is reached, for which nothing is
    searched, have a row of their own and count for none of the others.
    """
    cores = int(machine()["cores"])
    planner = load_planner(checkpoint)
    check_card(task, planner.card, "image")
    with contextlib.closing(task.open()) as simulation, threads(1):
        queries = closed_loop(task, simulation, planner, make_pairs(task, simulation, "dev", 0, pairs, "image"))
    peer = make(BLOCK * len(task.action.active))
    counts = sorted({1, cores})
    ours: dict[int, list[Watched]] = {count: [] for count in counts}
    unseen: list[Watched] = []
    peers: dict[tuple[int, int], list[Spent]] = {(10, count): [] for count in counts}
    run = itertools.count(1)
    for turn in range(rounds):
        for count in counts:
            with threads(count):
                ours[count].append(asked_again(planner, queries, next(run)))
        with threads(1):
            unseen.append(asked_again(planner, queries, next(run), new_goals=True))
        for count in counts:
            with threads(count):
                peers[10, count].append(peer_plan(peer, 10, turn))
    with threads(1):
        peers[30, 1] = [peer_plan(peer, 30, rounds)]
    still = any(reached for w in ours[1] for reached in w.reached)
    rows = [
        *({"who": "planner", "threads": count, **summary(ours[count])} for count in counts),
        {"who": "planner, goal seen for the first time", "threads": 1, **summary(unseen)},
        *([{"who": "planner, goal reached", "threads": 1, **summary(ours[1], True)}] if still else []),
        *({"who": f"peer x{n}", "threads": count, **summarise(spent)} for (n, count), spent in peers.items()),
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
    first, short, long = row["planner, goal seen for the first time", 1], row["peer x10", 1], row["peer x30", 1]
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
