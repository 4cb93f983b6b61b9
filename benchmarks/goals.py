"""Closed-loop success with goals in words and as labels, on phrasings that no training caption used.

``python -m benchmarks.goals CHECKPOINT`` plays the test pairs in process, beside the random floor and the scripted
ceiling, and writes ``benchmarks/results/goals.json`` and the table that is rendered from it. Success means that what
was said is true of the simulator's state; a goal is never true at the start.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
from pathlib import Path

from benchmarks import render
from benchmarks.record import write_result
from hnet_vjepa.checkpoint import read_manifest
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.planner import load_planner
from sims.evaluate import as_text, evaluate, summary
from sims.policies import Policy, RandomPolicy, ScriptedPolicy, check_card, local_planner
from sims.protocol import GoalKind, make_pairs, refuse_evaluation_data
from sims.registry import get_task

TASK = "fetch-reach"
KINDS: tuple[GoalKind, ...] = ("text", "label")


def main() -> None:
    """Play both kinds of goals."""
    parser = argparse.ArgumentParser(description="Closed-loop success with goals in words and as labels.")
    parser.add_argument("checkpoint", type=Path, help="for instance outputs/demo/training/action")
    parser.add_argument("--episodes", type=int, default=300)
    options = parser.parse_args()
    try:
        manifest = read_manifest(options.checkpoint)
        for phase in manifest.phases:
            refuse_evaluation_data(phase.data_settings, f"{options.checkpoint}, phase {phase.phase},")
        planner = load_planner(options.checkpoint, threads=1)
        task = get_task(TASK)
        summaries, metrics = {}, {}
        with contextlib.closing(task.open()) as simulation:
            for kind in KINDS:
                check_card(task, planner.card, kind)
                pairs = make_pairs(task, simulation, "test", 0, options.episodes, kind)
                policies: list[Policy] = [RandomPolicy(task), local_planner(planner), ScriptedPolicy(task)]
                result = evaluate(task, simulation, policies, pairs, "test", 0, kind)
                print(as_text(result))
                summaries[kind] = {method.name: summary(result, method) for method in result.methods}
                metrics[f"{kind}_success_end"] = result.method("planner").end(0).value
                metrics[f"{kind}_random_success_end"] = result.method("random").end(0).value
    except UserError as error:
        print(f"goals: {error}", file=sys.stderr)
        sys.exit(2)
    settings = {"task": TASK, "episodes": options.episodes, "split": "test", "weights": manifest.fingerprint}
    command = "python -m benchmarks.goals outputs/demo/training/action"
    print(write_result("goals", command, settings, metrics, summary=summaries))
    render.main()


if __name__ == "__main__":
    main()
