"""``hnet train``: the four phases."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from hnet_vjepa.config import load_config
from hnet_vjepa.errors import UserError


def train(
    data: Annotated[
        Path, typer.Option(help="Directory of episodes, made by 'hnet data collect' or 'hnet data import'.")
    ],
    config: Annotated[str, typer.Option(help="A configuration's name, or a YAML file.")] = "fetch_reach",
    phases: Annotated[str, typer.Option(help="Which phases, separated by commas.")] = "pretrain,language,probe,action",
    work_dir: Annotated[Path, typer.Option(help="Where checkpoints, logs and pipeline.json go.")] = Path("outputs"),
    init_from: Annotated[Path | None, typer.Option(help="A checkpoint to fine-tune on these episodes.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change one field: --set action.steps=500. May be repeated.")
    ] = None,
) -> None:
    """Train a world model on recorded episodes.

    Each phase starts from the one before and writes its own checkpoint. A run that was killed goes on where it was
    when the same command is given again. The last checkpoint is what 'hnet serve' and 'hnet evaluate' take.

    Example: hnet train --data episodes --config fetch_reach --work-dir outputs
    """
    from hnet_vjepa.pipeline import parse_phases, run_pipeline

    chosen = parse_phases(phases)
    loaded = load_config(config, overrides(set_ or []))
    last = run_pipeline(loaded, data, work_dir, chosen, init_from)
    done = json.loads((work_dir / "pipeline.json").read_text())["phases"]
    for name in chosen:
        shown = ", ".join(f"{key} {value:.4g}" for key, value in headline(done[name]["metrics"]).items())
        print(f"{name:9} {done[name]['seconds']:7.1f} s   {shown}")
    print(f"checkpoint: {last}")


def overrides(settings: list[str]) -> dict[str, object]:
    """``["action.steps=5"]`` to ``{"action.steps": 5}``; values are YAML. Raises UserError without an '='."""
    import yaml

    for setting in settings:
        if "=" not in setting:
            raise UserError(f"--set {setting}: write it as field=value, for instance action.steps=500")
    return {field: yaml.safe_load(value) for field, value in (s.split("=", 1) for s in settings)}


def headline(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics to print: those that are not one of a series."""
    return {key: value for key, value in metrics.items() if "/" not in key}
