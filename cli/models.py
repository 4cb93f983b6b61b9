"""``hnet models`` and ``hnet export``: the models that came along, and how such a model is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from hnet_vjepa import zoo
from hnet_vjepa.errors import UserError

MODEL_HELP = "Or a model that came along; 'hnet models' shows them."


def models() -> None:
    """Print the models that came along: what --model can be, what each was trained for, and what it reached."""
    from hnet_vjepa.checkpoint import read_manifest
    from hnet_vjepa.export import size

    if not zoo.names():
        print("no models came along with this installation")
    for name in zoo.names():
        folder = zoo.path(name)
        manifest = read_manifest(folder)
        results = folder / "results.json"
        print(name)
        for what, value in (
            ("task", manifest.phases[-1].data),
            ("phases", ", ".join(manifest.trained())),
            ("size", f"{size(folder) / 1e6:.1f} MB"),
            ("reached", reached(json.loads(results.read_text())) if results.is_file() else "not measured"),
            ("card", str(folder / "CARD.md") if (folder / "CARD.md").is_file() else ""),
        ):
            if value:
                print(f"  {what + ':':<10}{value}")


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint that plans; the phase 'action' makes one.")],
    out: Annotated[Path, typer.Argument(help="A new directory.")],
) -> None:
    """Write a checkpoint for planning only: without what only training needs, in half precision where harmless.

    It serves and evaluates as the original does. Training can start from it; what is left out then starts fresh.

    Example: hnet export outputs/mine/action mine
    """
    from hnet_vjepa.checkpoint import read_manifest
    from hnet_vjepa.export import export as write
    from hnet_vjepa.export import size

    before, after = size(checkpoint) if (checkpoint / "manifest.json").is_file() else 0, size(write(checkpoint, out))
    left_out = ", ".join(read_manifest(out).left_out)
    print(f"{out}: {after / 1e6:.1f} MB instead of {before / 1e6:.1f} MB; left out: {left_out}")


def chosen_checkpoint(checkpoint: Path | None, model: str | None, or_url: bool = False) -> Path:
    """The directory of the checkpoint that --checkpoint or --model asks for.

    Raises UserError unless exactly one of them is given, and when there is no such model. ``or_url``: --url would do.
    """
    if checkpoint is not None and model is not None:
        raise UserError("give --checkpoint or --model, not both")
    if checkpoint is not None:
        return checkpoint
    if model is not None:
        return zoo.path(model)
    url = "--url, for a running service, " if or_url else ""
    which = f"choose from: {', '.join(zoo.names())}" if zoo.names() else "here none did"
    raise UserError(
        f"give {url}--checkpoint, a directory that 'hnet train' wrote, or --model, one that came along ({which})"
    )


def trained_task(checkpoint: Path) -> str:
    """Name of the simulated robot that a checkpoint was trained for. Raises UserError when it is none."""
    from hnet_vjepa.checkpoint import read_manifest
    from sims.core.registry import TASKS

    phases = read_manifest(checkpoint).phases
    source = phases[-1].data if phases else "nothing"
    if source not in TASKS:
        raise UserError(f"{checkpoint} was trained on '{source}', which is none of the simulated robots; give --task")
    return source


def reached(results: dict[str, Any]) -> str:
    """One line of a model's results.json: success at the end of an episode, beside floor and ceiling."""
    low, high = results["ci95"]
    return (
        f"{results['success_end']:.0%} at the end of {results['episodes']} episodes (95 % interval {low:.0%} to "
        f"{high:.0%}); random actions {results['random_success_end']:.0%}, ceiling {results['ceiling_success_end']:.0%}"
    )
