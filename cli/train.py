"""``hnet train``: the four phases."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

from cli.launch import Launch, start
from hnet_vjepa.config import PHASES, load_config, parse_yaml
from hnet_vjepa.errors import UserError
from hnet_vjepa.utils.deepspeed_config import read_deepspeed_config

COLLECTED = Path("data/fetch-reach")  # where 'hnet data collect' writes to


def train(
    data: Annotated[
        Path, typer.Option(help="Directory of episodes, made by 'hnet data collect' or 'hnet data import'.")
    ] = COLLECTED,
    config: Annotated[str, typer.Option(help="A configuration's name, or a YAML file.")] = "fetch_reach",
    phases: Annotated[str, typer.Option(help="Which phases, separated by commas.")] = "pretrain,language,probe,action",
    work_dir: Annotated[Path, typer.Option(help="Where checkpoints, logs and pipeline.json go.")] = Path("outputs"),
    init_from: Annotated[Path | None, typer.Option(help="A checkpoint to fine-tune on these episodes.")] = None,
    set_: Annotated[
        list[str] | None, typer.Option("--set", help="Change one field: --set action.steps=500. May be repeated.")
    ] = None,
    deepspeed: Annotated[
        Path | None,
        typer.Option(help="DeepSpeed's JSON file, for ZeRO in place of DDP; deepspeed_zero2.json is shipped."),
    ] = None,
    context_parallel: Annotated[
        int, typer.Option(min=1, help="Ranks that share a clip and shard its sequence of chunks (ring attention).")
    ] = 1,
    nproc: Annotated[int, typer.Option(min=1, help="Ranks on this machine: one per GPU, or CPU processes.")] = 1,
    nnodes: Annotated[int, typer.Option(min=1, help="Machines; give the same command on each.")] = 1,
    rdzv_endpoint: Annotated[
        str | None, typer.Option(help="HOST:PORT of one of the machines, where all of them meet.")
    ] = None,
    max_restarts: Annotated[
        int, typer.Option(min=0, help="How often all ranks are started again after one of them died.")
    ] = 0,
) -> None:
    """Train a world model on recorded episodes.

    Each phase starts from the one before and writes its own checkpoint. A run that was killed goes on where it was
    when the same command is given again. The last checkpoint is what 'hnet serve' and 'hnet evaluate' take.

    Examples:

    hnet train --data data/mine --config fetch_reach --work-dir outputs

    hnet train --data data/mine --nproc 8                        # one machine, eight GPUs

    hnet train --data data/mine --nproc 8 --nnodes 2 --rdzv-endpoint robot1:29500   # on each of two machines

    hnet train --data data/mine --nproc 8 --deepspeed deepspeed_zero2.json   # optimiser state and gradients sharded
    """
    launch = Launch(nproc, nnodes, rdzv_endpoint, max_restarts)
    loaded = load_config(config, overrides(set_ or []))
    if deepspeed is not None:
        read_deepspeed_config(deepspeed)
    if launch.several:
        if nproc * nnodes % context_parallel:
            raise UserError(f"--context-parallel {context_parallel} does not divide the {nproc * nnodes} ranks")
        # What is wrong is said here, in one line, and not by every rank and its launcher.
        for name in (name.strip() for name in phases.split(",")):
            if name in PHASES:
                getattr(loaded, name).check_ranks(name, nproc * nnodes // context_parallel)
        check_collected(data)
        words = ["--data", str(data), "--config", config, "--phases", phases, "--work-dir", str(work_dir)]
        words += [] if init_from is None else ["--init-from", str(init_from)]
        words += [] if deepspeed is None else ["--deepspeed", str(deepspeed)]
        words += ["--context-parallel", str(context_parallel)]
        start(launch, [*words, *(word for setting in set_ or [] for word in ("--set", setting))])
    from hnet_vjepa.pipeline import parse_phases, run_pipeline
    from hnet_vjepa.utils.distrib import Parallelism

    chosen = parse_phases(phases)
    check_collected(data)
    last = run_pipeline(loaded, data, work_dir, chosen, init_from, parallelism=Parallelism(deepspeed, context_parallel))
    if os.environ.get("RANK", "0") != "0":
        return
    done = json.loads((work_dir / "pipeline.json").read_text())["phases"]
    for name in chosen:
        shown = ", ".join(f"{key} {value:.4g}" for key, value in headline(done[name]["metrics"]).items())
        print(f"{name:9} {done[name]['seconds']:7.1f} s   {shown}")
    print(f"checkpoint: {last}")


def check_collected(data: Path) -> None:
    """Raise UserError, with the command that helps, when the default directory of episodes is not there."""
    if data == COLLECTED and not data.exists():
        raise UserError(f"there are no episodes in {data}; 'hnet data collect' records some, or name yours with --data")


def overrides(settings: list[str]) -> dict[str, object]:
    """``["action.steps=5"]`` to ``{"action.steps": 5}``; values are YAML.

    Raises UserError naming the field when its value is not YAML, and without a field or an '='.
    """
    changes: dict[str, object] = {}
    for setting in settings:
        field, equals, value = setting.partition("=")
        shown = f"--set {' '.join(setting.split())}:"
        if not field or not equals:
            raise UserError(f"{shown} write it as field=value, for instance action.steps=500")
        changes[field] = parse_yaml(value, f"{shown} the value of {field}")
    return changes


def headline(metrics: dict[str, float]) -> dict[str, float]:
    """The metrics to print: those that are not one of a series."""
    return {key: value for key, value in metrics.items() if "/" not in key}
