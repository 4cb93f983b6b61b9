"""The planner: latency, cost beside a peer, success, and the contribution of each component.

``python -m benchmarks.planner`` measures the parts of ``benchmarks/results/planner.json`` that are missing or were
measured with other weights, one after another; an interrupted run can be resumed. ``--part NAME`` measures a part again
(``dynamics-TASK`` trains its own models, those that are missing in ``outputs/dynamics``). Timings need a machine
without other load.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from benchmarks import render
from benchmarks.part import Part
from benchmarks.planner.ablation import ablation
from benchmarks.planner.alternatives import alternatives
from benchmarks.planner.calibration import calibration
from benchmarks.planner.composition import composition
from benchmarks.planner.deadline import deadline
from benchmarks.planner.dynamics import STUDIES, dynamics
from benchmarks.planner.episode_cost import episode_cost
from benchmarks.planner.latency import latency
from benchmarks.planner.long_horizon import BEHIND_WALLS, IMAGES, long_horizon
from benchmarks.planner.memory import memory
from benchmarks.planner.ood import ood
from benchmarks.planner.pareto import pareto
from benchmarks.planner.trained_peer import trained_peer
from benchmarks.recipes import RECIPES
from benchmarks.record import RESULTS, ROOT, merge_result, read_result
from cli.stopping import stoppable
from hnet_vjepa import zoo
from hnet_vjepa.checkpoint import read_manifest
from hnet_vjepa.errors import UserError, one_of
from sims.core.registry import get_task

TASK = "fetch-reach"
TOLERANCE = 0.03  # metres, for success
COMPARED = (TASK, "point-maze", "two-room")
OBJECT = "meta-world-drawer-open"
# 75 steps of the environment are only 4 actions in point-maze.
DISTANT = {TASK: IMAGES, "two-room": (*IMAGES, *BEHIND_WALLS), "point-maze": BEHIND_WALLS}
PLOTS = ROOT / "docs" / "images"


@dataclass(frozen=True)
class Measurement:
    """How a part is measured, and the checkpoint that it is about; None where it trains its own models."""

    measure: Callable[[], Part]
    checkpoint: Path | None


def parts(checkpoint: Path) -> dict[str, Measurement]:
    """Every part by name. ``checkpoint`` is the model of fetch-reach; the other tasks' models are the shipped ones."""

    def model(name: str) -> Path:
        return checkpoint if name == TASK else zoo.path(name)

    def of(name: str, part: Callable[..., Part], *options: object) -> Measurement:
        return Measurement(lambda: part(get_task(name), model(name), *options), model(name))

    return {
        "latency": of(TASK, latency),
        "episode": of(TASK, episode_cost, TOLERANCE),
        "pareto": of(TASK, pareto, TOLERANCE, PLOTS / "planner_pareto.png"),
        "deadline": of(TASK, deadline),
        "memory": Measurement(lambda: memory(checkpoint), checkpoint),
        "ood": of(TASK, ood),
        "trained-peer": of(TASK, trained_peer, RECIPES[TASK].episodes),
        "composition": of(TASK, composition),
        **{f"dynamics-{study.task.name}": Measurement(partial(dynamics, study), None) for study in STUDIES},
        **{f"ablation-{name}": of(name, ablation) for name in (*COMPARED, OBJECT)},
        **{f"alternatives-{name}": of(name, alternatives) for name in COMPARED},
        **{f"long-horizon-{name}": of(name, long_horizon, goals) for name, goals in DISTANT.items()},
        # Last, since a checkpoint without a success curve ends the run.
        "calibration": of(TASK, calibration, PLOTS / "planner_calibration.png"),
    }


def is_measured(name: str, checkpoint: Path | None) -> bool:
    """Whether the result has this part, measured with the checkpoint's weights if it is about one."""
    part = read_result("planner")["parts"].get(name) if (RESULTS / "planner.json").is_file() else None
    if part is None or checkpoint is None:
        return part is not None
    return bool(part["settings"].get("weights") == read_manifest(checkpoint).fingerprint)


@stoppable()
def main() -> None:
    """Measure the parts that are named, or those that are missing."""
    parser = argparse.ArgumentParser(description="Measure the planner, part by part.")
    parser.add_argument("--checkpoint", type=Path, help=f"directory of a checkpoint for {TASK}; default: the shipped")
    parser.add_argument("--part", action="append", default=[], help="measure this part again; can be repeated")
    options = parser.parse_args()
    try:
        known = parts(options.checkpoint or zoo.path(TASK))
        for name in options.part:
            if name not in known:
                raise one_of("part", name, known)
        for name in options.part or [name for name, m in known.items() if not is_measured(name, m.checkpoint)]:
            part = known[name].measure()
            command = f"python -m benchmarks.planner --part {name}"
            path = merge_result("planner", name, command, part.settings, part.metrics, **part.behind)
            print(f"{path}: {name} {part.metrics}", flush=True)
    except UserError as error:
        print(f"planner: {error}", file=sys.stderr)
        sys.exit(2)
    render.main()


if __name__ == "__main__":
    main()
