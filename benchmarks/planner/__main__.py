"""The planner: how fast, how cheap beside a peer, how good, and what each part of it is worth.

``python -m benchmarks.planner`` makes the parts of ``benchmarks/results/planner.json`` that are missing or were made
with other weights, one after another; a run that was stopped goes on. ``--part NAME`` makes a part anew (of
``dynamics-TASK``, which trains its own models, what is missing in ``outputs/dynamics``). Timings need a machine that
has nothing else to do.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
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
from benchmarks.planner.long_horizon import ASKED, BEHIND_WALLS, far
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
from sims.core.task import Task

TASK = "fetch-reach"
TOLERANCE = 0.03  # metres, for success
COMPARED = (TASK, "point-maze", "two-room")
OBJECT = "meta-world-drawer-open"
FAR = {TASK: ASKED, "two-room": (*ASKED, *BEHIND_WALLS), "point-maze": BEHIND_WALLS}  # 75 steps: 4 actions in the maze
IMAGES = ROOT / "docs" / "images"


def parts(checkpoint: Path) -> dict[str, tuple[Path | None, Callable[[], Part]]]:
    """Every part by name: the checkpoint it is about, if any, and what makes it.

    ``checkpoint`` is the one for fetch-reach.
    """
    task = get_task(TASK)
    made: dict[str, tuple[Path | None, Callable[[], Part]]] = {
        "latency": (checkpoint, lambda: latency(task, checkpoint)),
        "episode": (checkpoint, lambda: episode_cost(task, checkpoint, TOLERANCE)),
        "pareto": (checkpoint, lambda: pareto(task, checkpoint, TOLERANCE, IMAGES / "planner_pareto.png")),
        "deadline": (checkpoint, lambda: deadline(task, checkpoint)),
        "memory": (checkpoint, lambda: memory(checkpoint)),
        "familiarity": (checkpoint, lambda: ood(task, checkpoint)),
        "trained-peer": (checkpoint, lambda: trained_peer(task, checkpoint, RECIPES[TASK].episodes)),
        "composition": (checkpoint, lambda: composition(task, checkpoint)),
        **{f"dynamics-{study.task.name}": (None, partial(dynamics, study)) for study in STUDIES},
    }

    def on_task(part: Callable[[Task, Path], Part], name: str, source: Path) -> Callable[[], Part]:
        return lambda: part(get_task(name), source)

    for name in COMPARED:
        source = checkpoint if name == TASK else zoo.path(name)
        made[f"ablation-{name}"] = (source, on_task(ablation, name, source))
        made[f"alternatives-{name}"] = (source, on_task(alternatives, name, source))

    made[f"ablation-{OBJECT}"] = (zoo.path(OBJECT), on_task(ablation, OBJECT, zoo.path(OBJECT)))

    def far_away(name: str, source: Path) -> Callable[[], Part]:
        return lambda: far(get_task(name), source, FAR[name])

    for name in FAR:
        source = checkpoint if name == TASK else zoo.path(name)
        made[f"far-{name}"] = (source, far_away(name, source))
    # Last, since a checkpoint that says no probabilities ends the run.
    made["calibration"] = (checkpoint, lambda: calibration(task, checkpoint, IMAGES / "planner_calibration.png"))
    return made


def is_made(name: str, checkpoint: Path | None) -> bool:
    """Whether the result has a part of this name that was made with these weights, if it is about any."""
    part = read_result("planner")["parts"].get(name) if (RESULTS / "planner.json").is_file() else None
    if part is None or checkpoint is None:
        return part is not None
    return bool(part["settings"].get("weights") == read_manifest(checkpoint).fingerprint)


@stoppable()
def main() -> None:
    """Make the parts that are asked for."""
    parser = argparse.ArgumentParser(description="Measure the planner, part by part.")
    parser.add_argument("--checkpoint", type=Path, help=f"directory of a checkpoint for {TASK}; by default the zoo's")
    parser.add_argument("--part", action="append", default=[], help="make this part anew; may be given several times")
    options = parser.parse_args()
    try:
        known = parts(options.checkpoint or zoo.path(TASK))
        for name in options.part:
            if name not in known:
                raise one_of("part", name, known)
        for name in options.part or [name for name, (source, _) in known.items() if not is_made(name, source)]:
            part = known[name][1]()
            command = f"python -m benchmarks.planner --part {name}"
            path = merge_result("planner", name, command, part.settings, part.metrics, **part.behind)
            print(f"{path}: {name} {part.metrics}", flush=True)
    except UserError as error:
        print(f"planner: {error}", file=sys.stderr)
        sys.exit(2)
    render.main()


if __name__ == "__main__":
    main()
