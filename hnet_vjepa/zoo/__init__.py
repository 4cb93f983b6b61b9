"""Models that come along: a folder here for each, with a checkpoint for planning only and a card.

::

    <name>/weights.safetensors, config.json, robot.json, manifest.json    made by 'hnet export'
    <name>/CARD.md, results.json                                          written by 'python -m benchmarks.cards'
"""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from hnet_vjepa.errors import UserError, one_of

FOLDER = Path(str(resources.files("hnet_vjepa.zoo")))


def names() -> list[str]:
    """Names of the models that came along."""
    return sorted(file.parent.name for file in FOLDER.glob("*/manifest.json"))


def path(name: str) -> Path:
    """The directory of a model's checkpoint. Raises UserError that lists the names when there is none."""
    if not names():
        raise UserError(f"there is no model '{name}': none came along with this installation")
    if name not in names():
        raise one_of("model", name, names())
    return FOLDER / name
