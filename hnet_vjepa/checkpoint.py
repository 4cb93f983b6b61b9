"""Checkpoints: a directory of safetensors and JSON whose manifest holds the hash of every file.

::

    weights.safetensors   all modules
    ood.safetensors       out-of-distribution detector, once the phase 'action' is done
    goal_bank.safetensors planning states of the training, of which text and label goals retrieve one
    config.json           Config
    robot.json            camera, action spec with normalisation, labels
    manifest.json         phases trained, metrics, data, versions, and the SHA-256 of the files above

Nothing is ever unpickled. A directory appears in one step, when all of it is on the disk. A checkpoint for planning
only (``hnet_vjepa.export``) leaves out the modules that its manifest names.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from safetensors import SafetensorError
from torch import Tensor

from hnet_vjepa.calibration.goal_bank import GoalBank, load_goal_bank, save_goal_bank
from hnet_vjepa.calibration.ood import OODDetector, load_ood, save_ood
from hnet_vjepa.calibration.success import SuccessCurve
from hnet_vjepa.config import Config, PhaseName
from hnet_vjepa.errors import UserError
from hnet_vjepa.migration import FILES, current_modules, rename_fields, rename_metrics, upgrade_weights
from hnet_vjepa.models.model import HNetVJEPA, Robot
from hnet_vjepa.utils.files import directory_atomic, sha256, write_json_atomic

FORMAT = 2  # with every change of what a weight, a field or a file means; hnet_vjepa.migration reads older ones
OOD_FILE = "ood.safetensors"
GOAL_BANK_FILE = "goal_bank.safetensors"
ADDED = (
    "words",
    "left_out",
    "exported_from",
    "success",
)  # older manifests lack these; where empty they are not hashed
# Weights that exported and older checkpoints lack and do not need.
FOLDED = ("world_model.temporal_distance.whitening.", "world_model.policy_prior.whitening.")


class PhaseRecord(BaseModel):
    """One trained phase: data, steps and metrics."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    phase: PhaseName
    started_from: str = Field(description="fingerprint of the checkpoint before it, or 'scratch'")
    steps: int
    seconds: float
    metrics: dict[str, float]
    data: str = Field(description="where the episodes came from")
    data_fingerprint: str
    data_settings: dict[str, str | int | float]


class Manifest(BaseModel):
    """How a checkpoint was trained, what it contains, and the hashes of its files."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: int = FORMAT
    phases: tuple[PhaseRecord, ...] = ()
    reached_energy: float | None = Field(default=None, description="energy below which an image goal counts as reached")
    reached_text_energy: float | None = Field(default=None, description="the same for goals in words")
    success: SuccessCurve | None = Field(default=None, description="success probability of plans to image goals")
    versions: dict[str, str] = Field(default_factory=dict)
    words: tuple[str, ...] = Field(default=(), description="words of the captions it was trained on; empty: not known")
    left_out: tuple[str, ...] = Field(
        default=(), description="modules left out of the file; planning does not need them"
    )
    exported_from: str = Field(default="", description="fingerprint of the whole checkpoint that it was made from")
    files: dict[str, str] = Field(default_factory=dict, description="SHA-256 of every file")

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights."""
        return self.files["weights.safetensors"]

    def trained(self) -> tuple[PhaseName, ...]:
        """Names of the phases, in the order they were trained."""
        return tuple(record.phase for record in self.phases)

    def lacks(self, name: str) -> bool:
        """Whether a weight of that name is left out."""
        return name.startswith(tuple(f"{module}." for module in self.left_out))


@dataclass(frozen=True)
class Checkpoint:
    """A loaded checkpoint."""

    path: Path
    model: HNetVJEPA
    manifest: Manifest
    ood: OODDetector | None = None  # None: out-of-distribution pictures are not detected
    goal_bank: GoalBank | None = None  # None: goals in words and labels have no goal state

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the weights."""
        return self.manifest.fingerprint


def save_checkpoint(
    path: Path,
    model: HNetVJEPA,
    manifest: Manifest,
    weights: Mapping[str, Tensor] | None = None,
    ood: OODDetector | None = None,
    goal_bank: GoalBank | None = None,
) -> None:
    """Write a checkpoint in one atomic step, replacing an older one. Raises UserError when the disk is full.

    ``weights``: what to write instead of all of the model's own, if not everything or not in full precision.
    """
    with directory_atomic(path) as folder:
        written = model.state_dict() if weights is None else weights
        content = safetensors.torch.save({name: tensor.contiguous() for name, tensor in written.items()})
        (folder / "weights.safetensors").write_bytes(content)
        if ood is not None:
            save_ood(folder / OOD_FILE, ood)
        if goal_bank is not None:
            save_goal_bank(folder / GOAL_BANK_FILE, goal_bank)
        write_json_atomic(folder / "config.json", model.config.model_dump(mode="json"))
        write_json_atomic(folder / "robot.json", model.robot.model_dump(mode="json"))
        files = {file.name: sha256(file) for file in sorted(folder.iterdir())}
        manifest = manifest.model_copy(update={"files": files, "format": FORMAT})
        files["manifest.json"] = _own_hash(manifest)
        write_json_atomic(folder / "manifest.json", manifest.model_dump(mode="json"))


def amend_manifest(path: Path, **fields: Any) -> Manifest:
    """Change fields of a checkpoint's manifest in place, atomically; the weights stay. Return the new one."""
    manifest = read_manifest(path).model_copy(update=fields)
    manifest.files["manifest.json"] = _own_hash(manifest)
    write_json_atomic(path / "manifest.json", manifest.model_dump(mode="json"))
    return manifest


def read_manifest(path: Path) -> Manifest:
    """Read a checkpoint's manifest. Raises UserError when there is none or it is not one."""
    file = path / "manifest.json"
    if not file.is_file() and (path / "pipeline.json").is_file():
        inside = sorted(p.parent.name for p in path.glob("*/manifest.json"))
        raise UserError(
            f"{path} is a work directory; take a checkpoint in it: {', '.join(inside) or 'none is finished yet'}"
        )
    if not file.is_file():
        raise UserError(f"{path} is not a checkpoint (it has no manifest.json); a training run writes one per phase")
    try:
        manifest = Manifest.model_validate_json(file.read_bytes())
    except ValidationError as error:
        raise UserError(f"{file} is damaged: {error.errors()[0]['msg']}") from error
    if manifest.files.get("manifest.json") != _own_hash(manifest):
        raise UserError(f"{file} is not the file that was saved (its SHA-256 differs); take another checkpoint")
    if not 1 <= manifest.format <= FORMAT:
        raise UserError(f"{file} has format {manifest.format}; this version reads formats 1 to {FORMAT}")
    phases = tuple(r.model_copy(update={"metrics": rename_metrics(r.metrics)}) for r in manifest.phases)
    return manifest.model_copy(update={"left_out": current_modules(manifest.left_out), "phases": phases})


def _own_hash(manifest: Manifest) -> str:
    """SHA-256 of a manifest without the entry that holds it."""
    files = {name: value for name, value in manifest.files.items() if name != "manifest.json"}
    unused = {name for name in ADDED if not getattr(manifest, name)}
    content = manifest.model_copy(update={"files": files}).model_dump_json(exclude=unused)
    return hashlib.sha256(content.encode()).hexdigest()


def load_checkpoint(path: Path | str, device: str | torch.device = "cpu") -> Checkpoint:
    """Load a checkpoint. Raises UserError naming the file when one is missing, truncated or altered."""
    path = Path(path)
    manifest = read_manifest(path)
    old = {new: name for name, new in FILES.items()} if manifest.format == 1 else {}
    extras = {name: old.get(name, name) for name in (OOD_FILE, GOAL_BANK_FILE)}
    extras = {name: stored for name, stored in extras.items() if stored in manifest.files}
    for name in ("weights.safetensors", "config.json", "robot.json", *extras.values()):
        if not (path / name).is_file():
            raise UserError(f"{path / name} is missing; the checkpoint is incomplete")
        if manifest.files.get(name) != sha256(path / name):
            raise UserError(
                f"{path / name} is not the file that was saved (its SHA-256 differs); take another checkpoint"
            )
    try:
        fields, _ = rename_fields(json.loads((path / "config.json").read_bytes()), str(path))
        config = Config.model_validate(fields)
        robot = Robot.model_validate_json((path / "robot.json").read_bytes())
        weights = safetensors.torch.load((path / "weights.safetensors").read_bytes())
        if manifest.format == 1:
            slots, state_dim = config.model.backbone.slots, config.model.world_model.state_dim
            weights = upgrade_weights(weights, slots, state_dim, bool(manifest.left_out))
        model = HNetVJEPA(config, robot)
        own = model.state_dict().items()
        fresh = {name: tensor for name, tensor in own if manifest.lacks(name) or name.startswith(FOLDED)}
        model.load_state_dict({**fresh, **weights})  # half precision becomes float32 here
        ood = load_ood(path / extras[OOD_FILE]) if OOD_FILE in extras else None
        goal_bank = load_goal_bank(path / extras[GOAL_BANK_FILE]) if GOAL_BANK_FILE in extras else None
    except UserError as error:
        raise UserError(f"{path} {error}") from None
    except (ValidationError, SafetensorError, RuntimeError, KeyError) as error:
        raise UserError(f"{path} does not fit this version: {' '.join(str(error).split())[:300]}") from error
    return Checkpoint(path, model.to(device).eval(), manifest, ood, goal_bank)


def load_matching(model: HNetVJEPA, source: Checkpoint) -> list[str]:
    """Copy every weight of ``source`` that fits a place in ``model``; return the names of those that start fresh.

    What a checkpoint for planning only leaves out starts fresh.
    """
    own = model.state_dict()
    given = {name: tensor for name, tensor in source.model.state_dict().items() if not source.manifest.lacks(name)}
    fitting = {name: tensor for name, tensor in given.items() if name in own and own[name].shape == tensor.shape}
    model.load_state_dict(fitting, strict=False)
    return sorted(set(own) - set(fitting))
