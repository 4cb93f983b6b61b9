"""Cards of the shipped models, written from their manifests and ``benchmarks/results/sims.json``.

``python -m benchmarks.cards`` writes ``CARD.md`` and ``results.json`` beside each model, and ``index.json`` with the
facts of all of them; ``--check`` only reports whether these files are current, which a test does too.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch

from benchmarks.record import RESULTS, read_result
from benchmarks.table import markdown, rate
from hnet_vjepa import zoo
from hnet_vjepa.checkpoint import Manifest, read_manifest
from hnet_vjepa.export import size
from hnet_vjepa.models.model import Robot
from hnet_vjepa.utils.files import write_bytes_atomic
from sims.core.registry import TASKS
from sims.reporting.baselines import compared

DISTANCES = "d"  # a summary named d25 is of goals 25 steps of the environment away
INDEXED = ("success_end", "ci95", "episodes", "random_success_end", "ceiling_success_end")
CELLS = (("random", "end"), ("planner", "ever"), ("planner", "end"), ("scripted", "end"))


@dataclass(frozen=True)
class Model:
    """The facts of a card that are not results. ``licence``: of the simulator the model was trained in."""

    name: str
    manifest: Manifest
    robot: Robot
    parameters: int
    bytes: int
    description: str = ""
    licence: str = ""

    @property
    def task(self) -> str:
        """Name of the task that it was trained for."""
        return self.manifest.phases[-1].data


def read_model(name: str) -> Model:
    """Read a shipped model. Raises UserError when it does not exist, is not here or is damaged."""
    folder = zoo.path(name)
    manifest = read_manifest(folder)
    weights = safetensors.torch.load((folder / "weights.safetensors").read_bytes())
    task = TASKS.get(manifest.phases[-1].data)
    return Model(
        name,
        manifest,
        Robot.model_validate_json((folder / "robot.json").read_bytes()),
        sum(tensor.numel() for tensor in weights.values()),
        size(folder),
        task.description if task else "",
        task.licence if task else "",
    )


def measured(model: Model, results: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The metrics and the row of a model in the results; None when they hold none, or one of other weights."""
    metrics, row = (results.get(part, {}).get(model.task) for part in ("metrics", "rows"))
    if not metrics or not row or row["weights"] not in (model.manifest.fingerprint, model.manifest.exported_from):
        return None
    return metrics, row


def render_card(model: Model, results: Mapping[str, Any]) -> str:
    """The text of a card. ``results``: the content of sims.json, or nothing where it is not there."""
    camera, action, last = model.robot.camera, model.robot.action, model.manifest.phases[-1]
    commands = ", ".join(
        f"{action.names[i]} ({action.low[i]:g} to {action.high[i]:g} {action.units[i]})" for i in action.active
    )
    settings = ", ".join(f"{name} {value}" for name, value in last.data_settings.items())
    phases = ", ".join(f"{p.phase} ({p.steps} steps, {p.seconds:.0f} s)" for p in model.manifest.phases)
    found = measured(model, results)
    facts = {
        "task": f"`{model.task}`{f': {model.description}' if model.description else ''}",
        "camera": f"{camera.height} × {camera.width} pixels, {camera.name}, every {camera.dt:g} s",
        "actions": commands,
        "data": f"{model.task}: {settings}; the task's data policy, scripted behaviour mixed with noise",
        "state supervision": ", ".join(model.robot.states),
        "phases": f"{phases}; {sum(p.seconds for p in model.manifest.phases):.0f} s in all",
        "training command": f"`python -m benchmarks.sims {model.task}`",
        "size": f"{model.parameters:,} parameters, {model.bytes / 1e6:.1f} MB",
        "left out": f"{', '.join(model.manifest.left_out)}: not needed for planning" if model.manifest.left_out else "",
        "weights (SHA-256)": f"`{model.manifest.fingerprint}`",
        "exported from": f"`{model.manifest.exported_from}`" if model.manifest.exported_from else "",
        "licence of the simulator": model.licence,
    }
    parts = [
        f"# {model.name}\n\nA world model for planning: `hnet serve --model {model.name}`, "
        f"`hnet evaluate --model {model.name}`.\n",
        markdown(("", ""), [(name, value) for name, value in facts.items() if value]),
        "## Results\n",
        "Not measured with these weights.\n" if found is None else _results(*found),
        "## Metrics of each phase\n\nOn episodes that were held out of training.\n",
        markdown(
            ("phase", "metric", "value", "baseline"),
            [
                (r.phase, r.what, r.value, r.baseline)
                for r in compared({p.phase: p.metrics for p in model.manifest.phases})
            ],
        ),
    ]
    if found is not None and (fails := found[1].get("diagnosis", "")):
        parts += ["## Diagnosis\n", f"{fails.strip()}\n"]
    return "\n".join(parts)


def _results(metrics: Mapping[str, Any], row: Mapping[str, Any]) -> str:
    """Success of the model between floor and ceiling, by kind and distance of goals, and how it was measured."""
    rows = []
    for kind, methods in row["summary"].items():
        steps = kind.removeprefix(DISTANCES)
        goals = f"image, {steps} steps away" if steps.isdigit() else kind
        for criterion in methods["planner"]["success"]:
            cells = [rate(methods[method]["success"][criterion][when]) for method, when in CELLS]
            rows.append((goals, criterion, *cells))
    machine = row["machine"]
    head = ("goals", "within", "random, at the end", "model, ever", "model, at the end", "scripted, at the end")
    return (
        f"{markdown(head, rows)}\n{metrics['episodes']} test pairs for the task's own goals, {row['steps']} actions; "
        "95 % Wilson intervals in brackets. *random* is the floor; *scripted* knows the true state and is the ceiling."
        f"\n\nMeasured by `{row['command']}` on {row['date']} "
        f"({machine['cpu']}, {machine['cores']} cores; commit {row['commit']}).\n"
    )


def rendered(model: Model, results: Mapping[str, Any]) -> dict[Path, str]:
    """The generated files beside a model, with their current content."""
    files = {zoo.path(model.name) / "CARD.md": render_card(model, results)}
    if found := measured(model, results):
        files[zoo.path(model.name) / "results.json"] = json.dumps(found[0], indent=2) + "\n"
    return files


def index_entry(model: Model, results: Mapping[str, Any]) -> dict[str, Any]:
    """What ``hnet models`` prints of a model that is not on the machine."""
    found = measured(model, results)
    return {
        "task": model.task,
        "bytes": model.bytes,
        "results": {field: found[0][field] for field in INDEXED} if found else None,
    }


def stale() -> dict[Path, str]:
    """The generated files whose content is not current, with their current content."""
    results = read_result("sims") if (RESULTS / "sims.json").is_file() else {}
    models = [read_model(name) for name in shipped()]
    wanted = {path: text for model in models for path, text in rendered(model, results).items()}
    index = {model.name: index_entry(model, results) for model in models}
    wanted[zoo.FOLDER / "index.json"] = json.dumps(index, indent=2) + "\n"
    return {path: text for path, text in wanted.items() if not path.is_file() or path.read_text() != text}


def shipped() -> list[str]:
    """Names of the models in the repository's own folder."""
    return sorted(name for name, folder in zoo.present().items() if folder.parent == zoo.FOLDER)


def main() -> None:
    """Write the cards, or check them."""
    old = stale()
    if "--check" in sys.argv:
        if old:
            sys.exit(f"stale: {', '.join(f'{p.parent.name}/{p.name}' for p in old)}; run python -m benchmarks.cards")
        return
    for path, text in old.items():
        write_bytes_atomic(path, text.encode())


if __name__ == "__main__":
    main()
