"""CPU-seconds of an episode's plans, beside those of a peer, one thread each.

This planner plans every action anew. A peer's plan covers 25 steps of the environment (5 blocks of 5 actions) that are
executed open loop, so it needs far fewer plans. The peer is not trained; in its favour, the same success is assumed.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from benchmarks.part import Part
from benchmarks.planner.instrumented import InstrumentedPlanner, PlanCost, stamped, summarise, threads
from benchmarks.planner.latency import peer_plan
from benchmarks.planner.peer import BLOCK, HORIZON, Peer, make_peer
from benchmarks.table import Result, Table, rate
from hnet_vjepa.planning.planner import load_planner
from sims.core.task import Task
from sims.evaluation.evaluate import criteria_of, play
from sims.evaluation.pairs import budget, make_pairs
from sims.evaluation.policies import check_card, local_planner
from sims.evaluation.results import MethodResult, Rollout
from sims.evaluation.units import length

DISTANCE = 25  # steps of the environment to the goal; the budget is twice as many, as in the peers' protocol
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
    """Play dev pairs and divide the cost of a peer's plans for such an episode by the cost of the planner's."""
    planner = load_planner(checkpoint)
    check_card(task, planner.card, "image")
    peer, peers = make(BLOCK * len(task.action.active)), list[PlanCost]()
    steps = budget(task, DISTANCE)
    rollouts, costs = list[Rollout](), list[PlanCost]()
    with contextlib.closing(task.open()) as simulation, threads(1):
        drawn = make_pairs(task, simulation, "dev", 0, pairs, "image", DISTANCE)
        for turn in range(groups):
            instrumented = InstrumentedPlanner(planner, stamped)
            played = play(task, simulation, local_planner(instrumented), drawn[turn::groups], steps, progress=False)
            rollouts += played.rollouts
            costs += instrumented.costs[1:]  # the first query is repeated: see ``play``
            peers.append(peer_plan(peer, 10, turn))
    ours = sum(cost.cpu_s for cost in costs) / len(rollouts)
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
            "plans": len(costs) / len(rollouts),
            "peer_plans": peer_plans,
            "planner": summarise(costs),
            "peer": summarise(peers),
            "assumed": "the peer is not trained; it is taken to succeed as often",
        },
    )


def table(result: Result) -> Table:
    """CPU-seconds per episode of the planner and of the peer."""
    part = result.parts["episode"]
    ours, theirs = part["planner"]["cpu_s"] * part["plans"], part["peer"]["cpu_s"] * part["peer_plans"]
    rows = [
        [
            "planner, every action planned anew",
            f"{part['plans']:.0f}",
            f"{part['planner']['cpu_s']:.3g}",
            f"{ours:.3g}",
            rate(part["success"]["end"]),
        ],
        [
            "peer x10, plans executed open loop",
            f"{part['peer_plans']}",
            f"{part['peer']['cpu_s']:.3g}",
            f"{theirs:.3g}",
            "assumed to be the same",
        ],
    ]
    settings = part["settings"]
    note = (
        f"{settings['pairs']} episodes of {part['steps']} steps, goals {settings['distance']} steps away, one thread: "
        f"the peer costs {theirs / ours:.0f} times as much."
    )
    head = ["", "plans", "CPU-seconds per plan", "per episode", f"within {settings['tolerance']} at the end"]
    return Table(head, rows, note, ("episode",))
