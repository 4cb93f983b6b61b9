"""The pairs that everybody is judged on, written down: another version of the physics can not change them silently.

``sims/manifests/<task>.json`` holds the held-out pairs of both splits (seed 0, image goals, the task's own distance):
each pair's seed, its start and its goal, and what the random floor and the scripted ceiling reach on the dev pairs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from hnet_vjepa.errors import UserError
from hnet_vjepa.specs import explain
from hnet_vjepa.utils.files import write_bytes_atomic
from sims.core.registry import TASKS
from sims.core.task import Simulation, State, Task
from sims.evaluation.evaluate import criteria_of, play
from sims.evaluation.pairs import GoalKind, Pair, Split, make_pairs
from sims.evaluation.policies import Policy, RandomPolicy, ceilings

FOLDER = Path(__file__).parent.parent / "manifests"
OWN_FOLDER = Path("manifests")  # of tasks outside this package, in the current directory
COUNTS: dict[Split, int] = {"dev": 100, "test": 300}
SEED = 0
TOLERANCE = 1e-3  # in every number of a state; the same physics on another machine stays far below
DIGITS = 5
PHYSICS = (
    "mujoco",
    "gymnasium",
    "gymnasium-robotics",
    "metaworld",
    "robosuite",
    "pymunk",
    "gym-hil",
    "ogbench",
    "dm-control",
    "numpy",
)

Numbers = tuple[float, ...]
Row = tuple[int, Numbers, Numbers]  # seed, start, goal
Rates = dict[str, dict[str, float]]  # criterion -> ever, end, held -> share of the episodes


class PairManifest(BaseModel):
    """The file's content."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Literal[1] = 1
    task: str
    steps: int
    floor: Rates
    ceiling: Rates
    versions: dict[str, str]
    dev: tuple[Row, ...]
    test: tuple[Row, ...]

    def rows(self, split: Split) -> tuple[Row, ...]:
        """The pairs of a split."""
        return self.dev if split == "dev" else self.test


def make_manifest(
    task: Task, simulation: Simulation, counts: dict[Split, int] = COUNTS, progress: bool = True
) -> PairManifest:
    """Draw the pairs of both splits, and measure floor and ceiling on the dev pairs."""
    pairs = {split: make_pairs(task, simulation, split, SEED, count, "image") for split, count in counts.items()}

    def measured(policy: Policy) -> Rates:
        result = play(task, simulation, policy, pairs["dev"], task.evaluation_steps, progress=progress)
        names = criteria_of(task, "image")
        return {name: {k: r.value for k, r in result.rates(i).items()} for i, name in enumerate(names)}

    return PairManifest(
        task=task.name,
        steps=task.evaluation_steps,
        floor=measured(RandomPolicy(task)),
        ceiling=next((measured(policy) for policy in ceilings(task)), {}),
        versions={name: metadata.version(name) for name in PHYSICS if name.replace("-", "_") in sys.modules},
        dev=tuple(map(_row, pairs["dev"])),
        test=tuple(map(_row, pairs["test"])),
    )


def _row(pair: Pair) -> Row:
    return pair.seed, _rounded(pair.start_state), _rounded(pair.goal_state)


def _rounded(state: State) -> Numbers:
    return tuple(round(float(number), DIGITS) for number in state)


def write_manifest(manifest: PairManifest, folder: Path = FOLDER) -> Path:
    """Write a manifest in one step, a pair per line, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = []
    for name, value in manifest.model_dump(mode="json").items():
        if name in COUNTS:
            parts.append(f' "{name}": [\n  ' + ",\n  ".join(json.dumps(row) for row in value) + "\n ]")
        else:
            parts.append(f' "{name}": {json.dumps(value)}')
    path = _path(manifest.task, folder)
    write_bytes_atomic(path, ("{\n" + ",\n".join(parts) + "\n}\n").encode())
    return path


def read_manifest(task_name: str, folder: Path = FOLDER) -> PairManifest | None:
    """Read a task's manifest; None when there is none. Raises UserError when it is damaged."""
    path = _path(task_name, folder)
    if not path.is_file():
        return None
    try:
        return PairManifest.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(
            f"{path} is damaged: {explain(error)}; 'hnet sims manifest {task_name}' writes it anew"
        ) from error


def check_pairs(
    task: Task,
    pairs: Sequence[Pair],
    split: Split,
    seed: int,
    kind: GoalKind,
    distance: int | None,
    folder: Path | None = None,
) -> str:
    """Compare drawn pairs with the task's manifest and return a sentence for the conditions of a result.

    ``folder``: by default ``folder_of(task)``.

    Raises UserError when a pair is another one than the manifest says: its numbers would not be comparable.
    """
    folder = folder_of(task) if folder is None else folder
    manifest = read_manifest(task.name, folder)
    if manifest is None:
        return "this task has no manifest of pairs"
    if seed != SEED or kind != "image" or distance is not None:
        return f"not in the manifest, which holds image goals of seed {SEED} at the task's own distance"
    known = manifest.rows(split)
    for pair, row in zip(pairs, known, strict=False):
        difference = _difference(pair, row)
        if difference > TOLERANCE:
            made = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
            raise UserError(
                f"{split} pair {pair.index} of {task.name} differs by {difference:.3g} from {_path(task.name, folder)} "
                f"(made with {made}): another version of the physics, so results would not be comparable; "
                "install those versions, or give --no-manifest"
            )
    compared = min(len(pairs), len(known))
    beyond = f"; {len(pairs) - compared} more are beyond it" if len(pairs) > compared else ""
    return f"as in the manifest ({compared} compared){beyond}"


def _difference(pair: Pair, row: Row) -> float:
    seed, start, goal = row
    drawn, known = np.concatenate([pair.start_state, pair.goal_state]), np.array([*start, *goal])
    if pair.seed != seed or drawn.shape != known.shape:
        return float("inf")
    return float(np.abs(drawn - known).max())


def folder_of(task: Task) -> Path:
    """Where a task's manifest is: in the package for a task of this package, else in the current directory."""
    return FOLDER if task.name in TASKS else OWN_FOLDER


def _path(task_name: str, folder: Path) -> Path:
    return folder / f"{task_name}.json"
