"""The action spec of a folder of recordings: ``robot.json``, or else what the recorded columns show."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from hnet_vjepa.data.importers.tables import Table, check_same_columns, read_text, stack_columns
from hnet_vjepa.data.importers.videos import NO_ACTIONS
from hnet_vjepa.errors import UserError
from hnet_vjepa.specs import ActionSpec, bounds_of, explain

# Column names of clocks and counters, which must not be taken for actions.
CLOCKS = {"t", "time", "timestamp", "stamp", "step", "frame", "index", "frame_index", "episode", "episode_index"}


def action_spec(file: Path, tables: Sequence[Table]) -> tuple[ActionSpec, list[str]]:
    """The action spec, from ``robot.json`` or else from the recorded columns, and notes on what was assumed."""
    if not tables:
        return ActionSpec(names=(), units=(), low=(), high=(), active=()), [NO_ACTIONS]
    if file.exists():
        spec = _read_robot(file)
        return spec, _compare_with_robot(spec, file, tables)
    names = tables[0].names
    check_same_columns([(table.file.parent, table) for table in tables], "actions")
    if clocks := [name for name in names if name.lower() in CLOCKS]:
        raise UserError(
            f"{tables[0].file}: '{clocks[0]}' does not look like an action; delete the column, or name the action's "
            f"columns in {file}"
        )
    actions = stack_columns(tables, names)
    low, high = bounds_of(actions)
    active = tuple(column for column in range(len(names)) if actions[:, column].any())
    if not active:
        raise UserError(f"{file.parent}: all actions are zero; record episodes in which the robot moves")
    spec = ActionSpec(names=names, units=("unknown",) * len(names), low=low, high=high, active=active)
    ranges = ", ".join(f"{name} {a:.4g} to {b:.4g}" for name, a, b in zip(names, low, high, strict=True))
    return spec, [f"no robot.json: the bounds are those of the recorded actions ({ranges}); give a real robot's own"]


def _compare_with_robot(spec: ActionSpec, file: Path, tables: Sequence[Table]) -> list[str]:
    """Notes on recorded actions that differ from ``robot.json``. Raises UserError when a column is missing."""
    for table in tables:
        if missing := [name for name in spec.names if name not in table.names]:
            raise UserError(f"{table.file}: no column {', '.join(missing)}; {file} names {', '.join(spec.names)}")
    extra = {name for table in tables for name in table.names} - set(spec.names)
    return _differing(spec, stack_columns(tables, spec.names), extra)


def as_robot(
    file: Path, names: Sequence[str], actions: Sequence[NDArray[np.float32]], notes: list[str]
) -> tuple[ActionSpec, list[NDArray[np.float32]]]:
    """The action spec in ``file``, and the episodes' actions (T x D with columns ``names``) as it describes them.

    Raises UserError when it names a column that is not recorded.
    """
    spec = _read_robot(file)
    if missing := [name for name in spec.names if name not in names]:
        raise UserError(f"{file} names {', '.join(missing)}; recorded are {', '.join(names) or 'no actions'}")
    chosen = [rows[:, [list(names).index(name) for name in spec.names]].copy() for rows in actions]
    notes += _differing(spec, np.concatenate(chosen), set(names) - set(spec.names))
    for rows in chosen:
        rows[:, [column for column in range(spec.dim) if column not in spec.active]] = 0
    return spec, chosen


def _differing(spec: ActionSpec, actions: NDArray[np.float32], extra: set[str]) -> list[str]:
    """Notes on recorded actions (N x dim) that differ from the spec, and on ``extra`` columns."""
    notes = []
    if extra:
        notes.append(f"columns that robot.json does not name are ignored: {', '.join(sorted(extra))}")
    if inactive := [n for i, n in enumerate(spec.names) if i not in spec.active and actions[:, i].any()]:
        notes.append(f"columns that robot.json does not list as active are set to zero: {', '.join(inactive)}")
    outside = (actions < np.array(spec.low, np.float32)) | (actions > np.array(spec.high, np.float32))
    if count := int(outside[:, list(spec.active)].any(axis=1).sum()):
        notes.append(f"{count} of {len(actions)} actions exceed the bounds in robot.json; planned actions will not")
    return notes


def _read_robot(file: Path) -> ActionSpec:
    try:
        fields: dict[str, Any] = json.loads(read_text(file))
        for field in ("names", "low", "high"):
            if field not in fields:
                raise UserError(f"{file}: '{field}' is missing; needs names, low, high (and may have units, active)")
        count = len(fields["names"])
        defaults = {"units": ["unknown"] * count, "active": list(range(count))}
        return ActionSpec.model_validate({**defaults, **fields})
    except ValidationError as error:
        raise UserError(f"{file}: {explain(error)}") from error
    except (ValueError, TypeError) as error:
        raise UserError(f"{file} is not a JSON object of names, units, low, high, active ({error})") from error
