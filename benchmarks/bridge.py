"""Four phases on 25 real WidowX episodes, with five-fold cross-validation over episodes.

``python -m benchmarks.bridge PATH/bridge_sample.tfrecord`` imports the records, trains every fold (a fifth of the
episodes held out each time) with ``--config bridge`` and writes ``benchmarks/results/bridge.json``. The interval is
Student's t over the five folds, which share training episodes, so it is approximate.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import tempfile
from pathlib import Path

from benchmarks import render
from benchmarks.record import write_result
from cli.train import overrides
from hnet_vjepa.config import load_config
from hnet_vjepa.data.importers.rlds import import_rlds
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.pipeline import run_pipeline

FOLDS = 5
T_95 = 2.776  # Student's t, 4 degrees of freedom, two-sided 95 %


def summarise(values: list[float]) -> dict[str, float]:
    """Mean over the folds, with its 95 % interval when all folds have the value."""
    mean = statistics.fmean(values)
    half = T_95 * statistics.stdev(values) / math.sqrt(len(values)) if len(values) == FOLDS else math.nan
    spread = {} if math.isnan(half) else {"low": mean - half, "high": mean + half}
    return {"mean": mean, **spread, "folds": len(values)}


def main() -> None:
    """Train and evaluate all folds."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("records", type=Path, help="a TFRecord file of RLDS episodes")
    parser.add_argument("--set", action="append", default=[], help="change one field of the config")
    options = parser.parse_args()
    per_fold: list[dict[str, dict[str, float]]] = []
    seconds = 0.0
    with tempfile.TemporaryDirectory() as folder:
        data = import_rlds(options.records, Path(folder) / "bridge", progress=False)
        store = EpisodeStore(data)
        for fold in range(FOLDS):
            changes = {**overrides(options.set), "data.folds": FOLDS, "data.held_out_fold": fold}
            config = load_config("bridge", changes)
            work_dir = Path(folder) / f"fold{fold}"
            run_pipeline(config, data, work_dir, progress=False)
            phases = json.loads((work_dir / "pipeline.json").read_text())["phases"]
            per_fold.append({name: phase["metrics"] for name, phase in phases.items()})
            seconds += sum(phase["seconds"] for phase in phases.values())
            print(f"fold {fold}: {sum(p['seconds'] for p in phases.values()):.0f} s of training", flush=True)
        episodes, frames = len(store.episodes), sum(len(e) for e in store.episodes)
    phases_summary = {
        name: {
            key: summarise([fold[name][key] for fold in per_fold if key in fold[name]])
            for key in per_fold[0][name]
            if not key.startswith(("ap/", "frequency/"))
        }
        for name in per_fold[0]
    }
    action, language, probe = (phases_summary[name] for name in ("action", "language", "probe"))
    metrics = {
        "open_loop_ratio": action["open_loop_ratio"]["mean"],
        "retrieval_accuracy": language["retrieval_accuracy"]["mean"],
        "retrieval_chance": language["retrieval_chance"]["mean"],
        "retrieval_constant": language["retrieval_constant"]["mean"],
        "mean_ap": probe["mean_ap"]["mean"],
        "mean_frequency": probe["mean_frequency"]["mean"],
        "train_s_per_fold": seconds / FOLDS,
    }
    settings = {"episodes": episodes, "frames": frames, "folds": FOLDS, "config": config.model_dump(mode="json")}
    command = "python -m benchmarks.bridge bridge_sample.tfrecord"
    print(write_result("bridge", command, settings, metrics, phases=phases_summary))
    render.main()
    print(json.dumps(metrics, indent=2))


if __name__ == "__main__":
    main()
