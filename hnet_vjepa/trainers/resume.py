"""Saves from which an interrupted stage goes on: the last two, each checked by its hashes before it is taken."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import safetensors.torch
from torch import Tensor

from hnet_vjepa.migration import is_format_1, upgrade_weights
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.utils.files import directory_atomic, sha256, write_json_atomic

FOLDER = "resume"
KEPT = 2
WEIGHTS, OPTIMIZER, PROGRESS = "weights.safetensors", "optimizer.safetensors", "progress.json"


@dataclass(frozen=True)
class Save:
    """What a stage goes on from: the next step, the seconds spent, and the state of model and optimiser."""

    step: int
    seconds: float
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]


def write_save(folder: Path, origin: str, save: Save) -> None:
    """Add a save to a stage's folder and drop those before the last two. Raises UserError when the disk is full."""
    saves = folder / FOLDER
    with directory_atomic(saves / f"step-{save.step:08d}") as target:
        for name, tensors in ((WEIGHTS, save.weights), (OPTIMIZER, save.optimizer)):
            (target / name).write_bytes(
                safetensors.torch.save({k: v.detach().cpu().clone().contiguous() for k, v in tensors.items()})
            )
        hashes = {name: sha256(target / name) for name in (WEIGHTS, OPTIMIZER)}
        progress = {"step": save.step, "seconds": save.seconds, "origin": origin, "sha256": hashes}
        write_json_atomic(target / PROGRESS, progress)
    for old in sorted(saves.glob("step-*"))[:-KEPT]:
        shutil.rmtree(old, ignore_errors=True)


def read_save(folder: Path, origin: str, model: HNetVJEPA, say: Callable[[str], None]) -> Save | None:
    """The newest intact save of the run that started from ``origin``; None when there is none.

    ``say`` gets a line about a save that is damaged. ``model`` names the shapes that saves of format 1 are upgraded to.
    """
    for saved in _saves(folder):
        try:
            done = json.loads((saved / PROGRESS).read_text())
            if done["origin"] != origin:
                return None
            for name, expected in done.get("sha256", {}).items():
                if sha256(saved / name) != expected:
                    raise ValueError(f"the SHA-256 of {name} differs")
            weights = safetensors.torch.load((saved / WEIGHTS).read_bytes())
            optimizer = safetensors.torch.load((saved / OPTIMIZER).read_bytes())
        except (OSError, ValueError, KeyError, TypeError, safetensors.SafetensorError) as error:
            say(f"{saved} is damaged ({error}); the save before it is taken")
            continue
        return Save(int(done["step"]), float(done["seconds"]), _current(weights, model), optimizer)
    return None


def drop_saves(folder: Path) -> None:
    """Remove what only an interrupted run needs."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)


def _saves(folder: Path) -> list[Path]:
    """The saves of a stage, the newest first; one of an earlier version lies in the folder itself, without hashes."""
    saves = sorted((folder / FOLDER).glob("step-*"), reverse=True)
    return [*saves, *([folder / FOLDER] if (folder / FOLDER / PROGRESS).is_file() else [])]


def _current(weights: dict[str, Tensor], model: HNetVJEPA) -> dict[str, Tensor]:
    if not is_format_1(weights):
        return weights
    slots, state_dim = model.config.model.backbone.slots, model.config.model.world_model.state_dim
    return upgrade_weights(weights, slots, state_dim, exported=False)
