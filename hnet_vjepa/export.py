"""Checkpoints for planning only: without what only training needs, in half precision where that is harmless.

An exported checkpoint loads as any other does (``load_checkpoint``), serves, evaluates and draws its chunks. Training
can start from it too: what is left out then starts fresh, and says so.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from hnet_vjepa.checkpoint import FOLDED, GOAL_BANK_FILE, OOD_FILE, load_checkpoint, read_manifest, save_checkpoint
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.goals.factory import unneeded_modules

TRAINING_ONLY = ("target", "predictor", "dechunker")
FILES = ("weights.safetensors", OOD_FILE, GOAL_BANK_FILE, "config.json", "robot.json", "manifest.json")
BESIDE = ("CARD.md", "results.json")  # what ``python -m benchmarks.cards`` writes beside an exported checkpoint
# Rounding to 11 bits changes a tensor by about 0.0003 of its length; more means numbers too small or large for it.
HARMLESS = 1e-3


def export(checkpoint: Path, out: Path) -> Path:
    """Write ``checkpoint`` for planning only into the directory ``out`` and return ``out``.

    Left out are the EMA target, the predictor of masked chunks, the dechunker, the state decoder unless the energy uses
    it, and the heads of phases that were not trained; whitenings are folded into the layers that follow. An earlier
    export in ``out`` is replaced, together with its card. Raises UserError when ``checkpoint`` can not plan or ``out``
    holds anything else.
    """
    loaded = load_checkpoint(checkpoint)
    trained = loaded.manifest.trained()
    if "action" not in trained:
        raise UserError(f"{checkpoint} has no dynamics and can not plan; export a checkpoint of the phase 'action'")
    _refuse_to_overwrite(out)
    state_decoder = (
        () if loaded.model.state_decoder is None or loaded.model.config.plan.decoded_state else ("state_decoder",)
    )
    left_out = (
        *TRAINING_ONLY,
        *state_decoder,
        *unneeded_modules(trained),
    )
    origin = loaded.manifest.exported_from or loaded.fingerprint
    manifest = loaded.manifest.model_copy(update={"left_out": left_out, "exported_from": origin})
    loaded.model.world_model.fold()
    weights = {
        n: stored(tensor)
        for n, tensor in loaded.model.state_dict().items()
        if not (manifest.lacks(n) or n.startswith(FOLDED))
    }
    save_checkpoint(out, loaded.model, manifest, weights, loaded.ood, loaded.goal_bank)
    return out


def stored(tensor: Tensor) -> Tensor:
    """A float32 tensor in half precision when the way there and back changes next to nothing; others as they are."""
    if tensor.dtype != torch.float32:
        return tensor
    half = tensor.half()
    change = torch.linalg.vector_norm(half.float() - tensor)
    return half if change <= HARMLESS * torch.linalg.vector_norm(tensor) else tensor


def size(path: Path) -> int:
    """Bytes of a checkpoint's files."""
    return sum((path / name).stat().st_size for name in FILES if (path / name).is_file())


def _refuse_to_overwrite(out: Path) -> None:
    """Raise UserError unless ``out`` is free, empty or an earlier export."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise UserError(f"{out} is a file; name a new directory")
    if not (out / "manifest.json").is_file() or {file.name for file in out.iterdir()} - {*FILES, *BESIDE}:
        raise UserError(f"{out} holds something else; name a new directory")
    if not read_manifest(out).left_out:
        raise UserError(f"{out} holds a checkpoint that training can go on from; name a new directory")
