"""CPU-seconds that an episode's plans cost, with those of a peer beside them, one thread each.

Here every action is planned anew. A peer's plan covers 25 steps of the environment (5 blocks of 5 actions), which are
done without looking, so that it needs far fewer plans. The peer is not trained: that it would succeed as often is
assumed in its favour.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from benchmarks.part import Part
from benchmarks.planner.instrumented import Spent, Watched, stamped, summarise, threads
from benchmarks.planner.latency import peer_plan
from benchmarks.planner.peer import BLOCK, HORIZON, Peer, make_peer
from hnet_vjepa.planning.planner import load_planner
from sims.core.task import Task
from sims.evaluation.evaluate import criteria_of, play
from sims.evaluation.pairs import budget, make_pairs
from sims.evaluation.policies import check_card, local_planner
from sims.evaluation.results import MethodResult, Rollout
from sims.evaluation.units import length

DISTANCE = 25  # steps of the environment to the goal; the budget is twice as many, as the peers' protocol has it
PAIRS = 21
GROUPS = 3  # the peer plans once between two groups of pairs


def episode_cost(
    task: Task,
    checkpoint: Path,
    tolerance: float,
    pairs: int = PAIRS,
    groups: int = GROUPS,
    make: Callable[[int], Peer] = make_peer,
) -> Part:
    """Play dev pairs and divide what a peer's plans for such an episode cost by what these did."""
    planner = load_planner(checkpoint)
    check_card(task, planner.card, "image")
    peer, peers = make(BLOCK * len(task.action.active)), list[Spent]()
    steps = budget(task, DISTANCE)
    rollouts, spent = list[Rollout](), list[Spent]()
    with contextlib.closing(task.open()) as simulation, threads(1):
        drawn = make_pairs(task, simulation, "dev", 0, pairs, "image", DISTANCE)
        for turn in range(groups):
            instrumented = Watched(planner, stamped)
            played = play(task, simulation, local_planner(instrumented), drawn[turn::groups], steps, progress=False)
            rollouts += played.rollouts
            spent += instrumented.spent[1:]  # the first is asked twice: see ``play``
            peers.append(peer_plan(peer, 10, turn))
    ours = sum(s.cpu_s for s in spent) / len(rollouts)
    peer_plans = -(-steps * task.interval // (BLOCK * HORIZON))
    theirs = peer_plans * summarise(peers)["cpu_s"]
    method, criterion = MethodResult("planner", tuple(rollouts)), task.tolerances.index(tolerance)
    rates = method.rates(criterion)
    return Part(
        {
            "task": task.name,
            "weights": planner.card.fingerprint,
            "search": asdict(planner.card.search),
            "distance": DISTANCE,
            "split": "dev",
            "pairs": pairs,
            "tolerance": length(tolerance, task.unit),
        },
        {
            "cpu_s_per_episode": ours,
            "peer_cpu_s_per_episode": theirs,
            "cpu_s_per_episode_ratio_peer": theirs / ours,
            f"success_end_d{DISTANCE}": rates["end"].value,
            f"success_ever_d{DISTANCE}": rates["ever"].value,
        },
        {
            "criterion": criteria_of(task, "image")[criterion],
            "success": {when: {"value": rate.value, **asdict(rate)} for when, rate in rates.items()},
            "steps": steps * task.interval,
            "plans": len(spent) / len(rollouts),
            "peer_plans": peer_plans,
            "planner": summarise(spent),
            "peer": summarise(peers),
            "assumed": "the peer is not trained; it is taken to succeed as often",
        },
    )
