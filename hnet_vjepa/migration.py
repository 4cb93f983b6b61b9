"""What older files say, in the words of this version: names of fields, names of weights, and the order of inputs.

Format 2 renamed modules and configuration fields, and fixed the order in which the policy prior's first layer reads its
inputs: ``[all of the state, all of its change, all of the goal, action]``. Format 1 had two orders with the same names
and shapes: the older one read ``[state, change, goal]`` slot by slot; the newer one came together with the prior's
whitening. A checkpoint of format 1 that holds a whitening has the newer order, one that is whole and holds none the
older one, and its weights are put in order. An exported one holds no whitening either way; its order cannot be known,
and it is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from hnet_vjepa.errors import UserError

if TYPE_CHECKING:  # 'hnet --help' reads the configuration's old names without loading torch
    from torch import Tensor

SECTIONS = {"grounding": "encoder_adaptation"}
FIELDS: dict[tuple[str, ...], dict[str, str]] = {
    ("encoder_adaptation",): {"keep": "distillation", "states": "state_supervision"},
    ("model", "world_model"): {"proposal_width": "policy_prior_width", "code": "macro_latent_dim"},
    ("plan",): {
        "proposals": "prior_candidates",
        "habit": "behaviour_prior",
        "remembered": "goal_bank_size",
        "coarse_candidates": "macro_candidates",
        "coarse_iterations": "macro_iterations",
        "steps": "temporal_distance",
        "told": "decoded_state",
        "leaps": "temporal_consistency",
        "late": "step_weight_exponent",
    },
}
MODULES = {
    "gauge": "state_decoder",
    "world_model.steps": "world_model.temporal_distance",
    "world_model.proposal": "world_model.policy_prior",
    "world_model.coarse": "world_model.macro_dynamics",
}
METRICS = {  # prefixes of the metrics of phases, in manifests
    "grounded_readout_": "adapted_linear_probe_",
    "state_readout_": "state_linear_probe_",
    "readout_": "linear_probe_",
    "proposal_": "policy_prior_",
}
FILES = {"familiarity.safetensors": "ood.safetensors", "memory.safetensors": "goal_bank.safetensors"}

PRIOR = "world_model.policy_prior."
FIRST_LAYER = PRIOR + "mlp.0.weight"
PARTS = 3  # state, change and goal


def rename_metrics(metrics: Mapping[str, float]) -> dict[str, float]:
    """A phase's metrics with old names replaced."""

    def renamed(name: str) -> str:
        old = next((prefix for prefix in METRICS if name.startswith(prefix)), "")
        return METRICS.get(old, "") + name.removeprefix(old)

    return {renamed(name): value for name, value in metrics.items()}


def rename_fields(values: Mapping[str, Any], where: str) -> tuple[dict[str, Any], list[tuple[str, str]]]:
    """A configuration's nested mapping with old field names replaced, and the dotted names (old, new) that were.

    Raises UserError when a field is there under both names.
    """
    found: list[tuple[str, str]] = []

    def renamed(section: Mapping[str, Any], names: Mapping[str, str], path: tuple[str, ...]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, value in section.items():
            new = names.get(name, name)
            if new != name:
                old_name, new_name = (".".join((*path, n)) for n in (name, new))
                if new in section:
                    raise UserError(f"config {where}: {old_name} is the old name of {new_name}; give only one of them")
                found.append((old_name, new_name))
            result[new] = value
        return result

    def walk(section: Mapping[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
        names = FIELDS.get(path, {}) if path else SECTIONS
        result = renamed(section, names, path)
        return {n: walk(v, (*path, n)) if isinstance(v, Mapping) else v for n, v in result.items()}

    return walk(values, ()), found


def current_field(field: str) -> str:
    """A configuration's dotted field (``plan.habit``) by its current name."""
    first, *rest = field.split(".")
    section = SECTIONS.get(first, first)
    path: tuple[str, ...] = (section,)
    names = [section]
    for name in rest:
        current = FIELDS.get(path, {}).get(name, name)
        names.append(current)
        path = (*path, current)
    return ".".join(names)


def current_module(name: str) -> str:
    """A module's or weight's name of format 1 (``gauge.linear.weight``) in the current words."""
    for old, new in MODULES.items():
        if name == old or name.startswith(f"{old}."):
            return new + name[len(old) :]
    return name


def current_modules(names: Iterable[str]) -> tuple[str, ...]:
    """See ``current_module``."""
    return tuple(map(current_module, names))


def is_format_1(weights: Mapping[str, Tensor]) -> bool:
    """Whether a state dict has names of format 1. Every model of format 1 has a ``world_model.steps``."""
    return any(current_module(name) != name for name in weights)


def upgrade_weights(weights: Mapping[str, Tensor], slots: int, state_dim: int, exported: bool) -> dict[str, Tensor]:
    """A state dict of format 1 with current names, the policy prior's inputs in the current order.

    Raises UserError for an exported one, whose order is not known (see above).
    """
    renamed = {current_module(name): tensor for name, tensor in weights.items()}
    if exported:
        raise UserError(
            "was exported with format 1, which does not say in which order its policy prior reads states; "
            "export its training checkpoint again (hnet export), or train it again"
        )
    if not any(name.startswith(f"{PRIOR}whitening.") for name in renamed):
        renamed[FIRST_LAYER] = slot_order_to_part_order(renamed[FIRST_LAYER], slots, state_dim)
    return renamed


def slot_order_to_part_order(weight: Tensor, slots: int, state_dim: int) -> Tensor:
    """Columns ``[state, change, goal]`` slot by slot to all states, all changes, all goals: W x (3 S d + A), both."""
    import torch

    places = PARTS * slots * state_dim
    by_slot = weight[:, :places].unflatten(1, (slots, PARTS, state_dim))
    return torch.cat([by_slot.transpose(1, 2).flatten(1), weight[:, places:]], 1).contiguous()
