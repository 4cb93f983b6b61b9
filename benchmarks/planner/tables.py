"""The planner's tables by name; each is made by the part that measures what it shows."""

from __future__ import annotations

from benchmarks.planner import (
    ablation,
    alternatives,
    calibration,
    composition,
    deadline,
    dynamics,
    episode_cost,
    latency,
    long_horizon,
    memory,
    ood,
    pareto,
    trained_peer,
)
from benchmarks.table import MakeTable

TABLES: dict[str, MakeTable] = {
    "planner-latency": latency.table,
    "planner-episode": episode_cost.table,
    "planner-pareto": pareto.table,
    "planner-ablation": ablation.table,
    "planner-trained-peer": trained_peer.table,
    "planner-long-horizon": long_horizon.table,
    "planner-deadlines": deadline.table,
    "planner-memory": memory.table,
    "planner-calibration": calibration.table,
    "planner-ood": ood.table,
    "planner-alternatives": alternatives.table,
    "planner-avoidance": composition.avoidance_table,
    "planner-over-steps": composition.over_steps_table,
    "planner-regions": composition.regions_table,
    "planner-dynamics": dynamics.table,
}
