"""Shipped models: names, where each is found, and what it was measured to reach.

A model is a folder with a planning checkpoint (``hnet export`` makes it). A checkout of the repository holds all of
them beside this file; a wheel holds ``fetch-reach`` alone. What is not here is looked for in the cache directory::

    <name>/weights.safetensors, config.json, robot.json, manifest.json    written by 'hnet export'
    <name>/CARD.md, results.json                                          written by 'python -m benchmarks.cards'
    index.json                                                            likewise: all shipped models, in every wheel
"""

from __future__ import annotations

import json
import os
from importlib import resources
from pathlib import Path
from typing import Any

from hnet_vjepa.errors import UserError, one_of

FOLDER = Path(str(resources.files("hnet_vjepa.zoo")))
CACHE_VARIABLE = "HNET_MODELS"


def cache_folder() -> Path:
    """Where models beyond the installed ones are kept: ``$HNET_MODELS``, else a folder in the user's cache."""
    if chosen := os.environ.get(CACHE_VARIABLE):
        return Path(chosen).expanduser()
    caches = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(caches).expanduser() / "hnet_vjepa" / "models"


def index() -> dict[str, dict[str, Any]]:
    """All shipped models, present or not: name to ``task``, ``bytes`` and ``results`` (None where not measured)."""
    file = FOLDER / "index.json"
    found: dict[str, dict[str, Any]] = json.loads(file.read_text()) if file.is_file() else {}
    return found


def present() -> dict[str, Path]:
    """Name to directory of the models on this machine; where a name is in both places, the installed one counts."""
    files = [file for folder in (cache_folder(), FOLDER) for file in folder.glob("*/manifest.json")]
    return {file.parent.name: file.parent for file in files}


def names() -> list[str]:
    """Names of all shipped models and of those that the user put into the cache directory, sorted."""
    return sorted({*index(), *present()})


def path(name: str) -> Path:
    """The directory of a model's checkpoint.

    Raises UserError when there is no such model, and, with the commands that make or install it, when it is not here.
    """
    if name not in names():
        raise one_of("model", name, names())
    if name not in present():
        raise UserError(f"model '{name}' is not here: {how_to_get(name)}")
    return present()[name]


def how_to_get(name: str) -> str:
    """How a shipped model that is not on this machine is made or installed, in one line."""
    return (
        f"a checkout of the repository has it in hnet_vjepa/zoo/{name}, 'python -m benchmarks.sims {name}' there "
        f"trains it again, and 'hnet export CHECKPOINT {cache_folder() / name}' installs one"
    )
