"""Other search settings for a trained checkpoint: fields of its configuration's section ``plan``, changed at load."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hnet_vjepa.checkpoint import Checkpoint
from hnet_vjepa.config import Config, PlanConfig, parse_config, parse_yaml
from hnet_vjepa.config.planning import ENERGY_FIELDS
from hnet_vjepa.errors import UserError, one_of

SECTION = "plan."
TRAINED = ("goal_bank_size",)  # read in training only


def plan_settings(options: Sequence[str]) -> dict[str, str]:
    """Values of ``--set`` as fields of the section ``plan``: ``["plan.candidates=16"]`` to ``{"candidates": "16"}``.

    Raises UserError for what is not written as ``plan.FIELD=VALUE`` and for a field that does not exist or that only
    training reads.
    """
    allowed = [f"{SECTION}{name}" for name in PlanConfig.model_fields if name not in TRAINED]
    changes: dict[str, str] = {}
    for option in options:
        field, equals, value = option.partition("=")
        if not equals:
            raise UserError(f"--set {option}: write it as field=value, for instance plan.candidates=16")
        if field not in allowed:
            raise one_of("field of --set", field, allowed)
        changes[field.removeprefix(SECTION)] = value
    return changes


def with_plan(checkpoint: Checkpoint, changes: Mapping[str, str]) -> Checkpoint:
    """The checkpoint with other values in its configuration's section ``plan``; the weights are shared.

    ``changes``: fields (``candidates``) and values as text. Where they change the energy of states, its calibration
    does not apply: no image goal counts as reached, and no probability of success is given. Raises UserError naming
    the field, the value and what is allowed.
    """
    if not changes:
        return checkpoint
    before = checkpoint.model.config
    values = before.model_dump(mode="json")
    read = {name: parse_yaml(value, f"--set {SECTION}{name}") for name, value in changes.items()}
    config: Config = parse_config({**values, "plan": {**values["plan"], **read}}, str(checkpoint.path))
    model = copy.copy(checkpoint.model)
    model.config = config
    manifest = checkpoint.manifest
    if any(getattr(config.plan, name) != getattr(before.plan, name) for name in ENERGY_FIELDS):
        manifest = manifest.model_copy(update={"reached_energy": None, "success": None})
    return replace(checkpoint, model=model, manifest=manifest)
