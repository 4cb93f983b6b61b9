"""DeepSpeed's JSON file: found, checked against the run's configuration, and completed by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hnet_vjepa.errors import UserError

SHIPPED = Path(__file__).resolve().parent.parent / "configs"
AUTO = "auto"
LARGEST_STAGE = 2  # stage 3 shards the weights, which the EMA target follows at every step
# Blocks that would take over what is decided elsewhere, and where that is.
DECIDED = {
    "optimizer": "every stage has its own AdamW",
    "scheduler": "every stage has its own schedule",
    "fp16": "set the configuration's field 'precision'",
    "bf16": "set the configuration's field 'precision'",
    "torch_autocast": "set the configuration's field 'precision'",
    "activation_checkpointing": "set the configuration's field 'model.backbone.vit.recompute'",
}


def read_deepspeed_config(path: Path) -> dict[str, Any]:
    """DeepSpeed's settings in a JSON file, or in the file of that name that is shipped with this package.

    Raises UserError when there is none, it is no JSON object, or asks for what this training does not do.
    """
    found = path if path.is_file() else SHIPPED / path.name
    if not found.is_file() or found.suffix != ".json":
        shipped = ", ".join(sorted(file.name for file in SHIPPED.glob("*.json")))
        raise UserError(f"{path}: there is no such DeepSpeed configuration; shipped with this package: {shipped}")
    try:
        settings = json.loads(found.read_text())
    except ValueError as error:
        raise UserError(f"{found} is no JSON: {error}") from error
    if not isinstance(settings, dict):
        raise UserError(f"{found}: must be a JSON object of DeepSpeed's settings")
    for block, instead in DECIDED.items():
        given = settings.get(block)
        if given and (not isinstance(given, dict) or given.get("enabled", True)):
            raise UserError(f"{found}: leave '{block}' out; {instead}")
    zero = settings.get("zero_optimization", {})
    stage = zero.get("stage", 0) if isinstance(zero, dict) else zero
    if stage not in range(LARGEST_STAGE + 1):
        raise UserError(f"{found}: zero_optimization.stage is {stage!r}; allowed are 0 to {LARGEST_STAGE}")
    if isinstance(zero, dict) and zero.get("offload_optimizer", {}).get("device", "none") != "none":
        raise UserError(
            f"{found}: leave zero_optimization.offload_optimizer out; it would compile an optimiser of its own"
        )
    return settings


def completed(
    settings: dict[str, Any], micro_batch: int, accumulate: int, clip_norm: float, where: Path
) -> dict[str, Any]:
    """The settings with what a stage's configuration decides, in place of "auto".

    ``micro_batch``: clips of one rank in one forward. Raises UserError naming a field whose value is another one.
    """
    decided: dict[str, tuple[float, str]] = {
        "train_micro_batch_size_per_gpu": (micro_batch, "batch_size / (ranks * accumulate)"),
        "gradient_accumulation_steps": (accumulate, "accumulate"),
        "gradient_clipping": (clip_norm, "clip_norm"),
    }
    for name, (value, field) in decided.items():
        given = settings.get(name, AUTO)
        if given not in (AUTO, value):
            raise UserError(f'{where}: {name} = {given}, but {field} is {value:g}; write "auto"')
    total = settings.get("train_batch_size", AUTO)
    if total != AUTO:
        raise UserError(f"{where}: leave train_batch_size out; the configuration's batch_size decides")
    kept = {name: value for name, value in settings.items() if name != "train_batch_size"}
    return {**kept, **{name: value for name, (value, _) in decided.items()}}
