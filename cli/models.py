"""``hnet models`` and ``hnet export``: the shipped models, and how such a model is made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from hnet_vjepa import zoo
from hnet_vjepa.errors import UserError

MODEL_HELP = "Or a shipped model; 'hnet models' lists them."


def models() -> None:
    """List the shipped models: where each is, what it was trained for, and what it was measured to reach.

    A model that is not on this machine is listed with the commands that make or install it.
    """
    known, here = zoo.index(), zoo.present()
    for name in zoo.names():
        facts = known.get(name, {})
        if name in here:
            facts = {**facts, **installed(here[name])}
        results = facts.get("results")
        print(name)
        for what, value in (
            ("task", facts["task"]),
            ("phases", facts.get("phases", "")),
            ("size", f"{facts['bytes'] / 1e6:.1f} MB"),
            ("reached", reached(results) if results else "not measured"),
            ("where", str(here[name]) if name in here else f"not here: {zoo.how_to_get(name)}"),
        ):
            if value:
                print(f"  {what + ':':<10}{value}")


def installed(folder: Path) -> dict[str, Any]:
    """What the files of a model that is here say of it: ``task``, ``phases`` and ``bytes``."""
    from hnet_vjepa.checkpoint import read_manifest
    from hnet_vjepa.export import size

    manifest = read_manifest(folder)
    return {"task": manifest.phases[-1].data, "phases": ", ".join(manifest.trained()), "bytes": size(folder)}


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A checkpoint that plans; the phase 'action' makes one.")],
    out: Annotated[Path, typer.Argument(help="A new directory.")],
) -> None:
    """Write a planning checkpoint: without the modules that only training needs, in half precision where harmless.

    It serves and evaluates like the original. Training can start from it (--init-from); the modules that were left out
    are then initialised anew.

    Example: hnet export outputs/mine/action mine
    """
    from hnet_vjepa.checkpoint import read_manifest
    from hnet_vjepa.export import export as write
    from hnet_vjepa.export import size

    before, after = size(checkpoint) if (checkpoint / "manifest.json").is_file() else 0, size(write(checkpoint, out))
    left_out = ", ".join(read_manifest(out).left_out)
    print(f"{out}: {after / 1e6:.1f} MB instead of {before / 1e6:.1f} MB; left out: {left_out}")


def chosen_checkpoint(checkpoint: Path | None, model: str | None, or_url: bool = False) -> Path:
    """The directory of the checkpoint given by --checkpoint or --model.

    Raises UserError unless exactly one of them is given, and when there is no such model. ``or_url``: --url is allowed
    too, and the message says so.
    """
    if checkpoint is not None and model is not None:
        raise UserError("give --checkpoint or --model, not both")
    if checkpoint is not None:
        return checkpoint
    if model is not None:
        return zoo.path(model)
    url = "--url, for a running service, " if or_url else ""
    raise UserError(
        f"give {url}--checkpoint, a directory that 'hnet train' wrote, or --model, a shipped model "
        f"({', '.join(zoo.names())})"
    )


def trained_task(checkpoint: Path) -> str:
    """Name of the task that a checkpoint was trained for. Raises UserError when it is not a simulated one."""
    from hnet_vjepa.checkpoint import read_manifest
    from sims.core.registry import TASKS

    phases = read_manifest(checkpoint).phases
    source = phases[-1].data if phases else "nothing"
    if source not in TASKS:
        raise UserError(f"{checkpoint} was trained on '{source}', which is not a simulated task; give --task")
    return source


def reached(results: dict[str, Any]) -> str:
    """Success at the end of an episode beside random actions and scripted controller, as one line."""
    low, high = results["ci95"]
    return (
        f"{results['success_end']:.0%} at the end of {results['episodes']} episodes (95 % interval {low:.0%} to "
        f"{high:.0%}); random actions {results['random_success_end']:.0%}, ceiling {results['ceiling_success_end']:.0%}"
    )
