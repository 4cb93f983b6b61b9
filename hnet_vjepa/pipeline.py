"""The training pipeline: phases one after another, each from the checkpoint before, with a manifest of what was done.

``work_dir`` holds ``pipeline.json``, and for each phase a checkpoint ``<phase>/`` and its log ``<phase>.run/``.
This module is what an application embeds; ``hnet train`` calls it too.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from hnet_vjepa.checkpoint import Manifest, PhaseRecord, load_checkpoint, load_matching, read_manifest, save_checkpoint
from hnet_vjepa.config import PHASES, Config, PhaseName
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.errors import UserError, one_of
from hnet_vjepa.models.model import HNetVJEPA, Robot
from hnet_vjepa.planning.calibration import reached_energy
from hnet_vjepa.trainers.action_posttrain import Action
from hnet_vjepa.trainers.engine import Outcome, finish, train
from hnet_vjepa.trainers.language_align import Language
from hnet_vjepa.trainers.phase import Phase
from hnet_vjepa.trainers.pretrain import Pretrain
from hnet_vjepa.trainers.probe_train import Probe
from hnet_vjepa.utils.distrib import process_group
from hnet_vjepa.utils.files import write_json_atomic
from hnet_vjepa.utils.runtime import machine, set_seed, versions

# What a phase's result lives in: when any of it starts fresh, the phase has to be trained again.
PARTS: dict[PhaseName, tuple[str, ...]] = {
    "pretrain": ("backbone.",),
    "language": ("text.", "projector."),
    "probe": ("probe.",),
    "action": ("backbone.", "world_model."),
}


def parse_phases(text: str) -> tuple[PhaseName, ...]:
    """``"pretrain,action"`` to phases in their order. Raises UserError on an unknown or repeated phase."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in PHASES:
            raise one_of("phase", name, PHASES)
    if not names or len(set(names)) != len(names):
        raise UserError(f"phases '{text}' must name each wanted phase once; choose from: {', '.join(PHASES)}")
    return tuple(phase for phase in PHASES if phase in names)


def make_phase(name: PhaseName, trained: Sequence[PhaseName]) -> Phase:
    """The phase object; the action phase rehearses the heads that were trained before it."""
    if name == "pretrain":
        return Pretrain()
    if name == "language":
        return Language()
    if name == "probe":
        return Probe()
    return Action(tuple(phase for phase in trained if phase in ("language", "probe")))


def describe_robot(store: EpisodeStore) -> Robot:
    """Camera, action spec normalised on the training split, and labels of a data set."""
    actions = np.concatenate([e.actions for e in store.split("train")])
    return Robot(camera=store.info.camera, action=store.info.action.normalised_by(actions), labels=store.info.labels)


def run_pipeline(
    config: Config,
    data: Path | str,
    work_dir: Path | str,
    phases: Sequence[PhaseName] = PHASES,
    init_from: Path | str | None = None,
    progress: bool = True,
) -> Path:
    """Train ``phases`` on the episodes in ``data``; return the path of the last checkpoint.

    A run that was interrupted goes on where it was: finished phases are kept, the unfinished one resumes. The first
    phase starts from ``init_from`` (fine-tuning), else from the phase before it in ``work_dir``, else from scratch.

    Raises:
        UserError: bad data, or a work directory that holds a run with other settings.
        TrainingError: the loss became infinite or not a number.
    """
    work_dir = Path(work_dir)
    store = EpisodeStore(data, config.data.folds, config.data.held_out_fold)
    fingerprint = store.fingerprint()
    for name in phases:
        reason = make_phase(name, phases).ready(store)
        if reason:
            raise UserError(f"{store.path} can not train the phase '{name}': {reason}; leave it out of --phases")
    settings: dict[str, object] = {
        "config": config.model_dump(mode="json"),
        "data_fingerprint": fingerprint,
        "init_from": str(init_from or ""),
    }
    _check_same_run(work_dir, settings)
    with process_group():
        path: Path | None = None
        for name in phases:
            target = work_dir / name
            if (target / "manifest.json").is_file() and _finished(work_dir, name):
                path = target
                continue
            set_seed(config.seed)
            model, manifest = _start(config, store, work_dir, name, path, init_from)
            trained = manifest.trained()
            outcome = train(make_phase(name, trained), model, store, work_dir / f"{name}.run", progress)
            model = model.cpu()
            if _is_main():
                record = _record(name, outcome, store, fingerprint)
                kept = tuple(r for r in manifest.phases if r.phase != name)
                reached = reached_energy(model, store) if name == "action" else manifest.reached_energy
                manifest = Manifest(phases=(*kept, record), versions=versions(), reached_energy=reached)
                save_checkpoint(target, model, manifest)
                _write_pipeline(work_dir, settings, record)
                finish(work_dir / f"{name}.run")
            _wait()
            path = target
    assert path is not None
    return path


def _check_same_run(work_dir: Path, settings: dict[str, object]) -> None:
    file = work_dir / "pipeline.json"
    if not file.is_file():
        if _is_main():
            write_json_atomic(file, {"settings": settings, "phases": {}})
        return
    before = json.loads(file.read_text())["settings"]
    changed = _differences("", before, settings)
    if changed:
        raise UserError(
            f"{work_dir} holds a run with other settings ({', '.join(changed[:4])}); "
            "give another --work-dir, or delete this one"
        )


def _differences(prefix: str, before: object, now: object) -> list[str]:
    """Dotted names of the fields in which two nested mappings differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(set(before) | set(now))
        return [d for key in keys for d in _differences(f"{prefix}.{key}".lstrip("."), before.get(key), now.get(key))]
    return [] if before == now else [prefix]


def _finished(work_dir: Path, name: PhaseName) -> bool:
    return name in json.loads((work_dir / "pipeline.json").read_text())["phases"]


def _start(
    config: Config,
    store: EpisodeStore,
    work_dir: Path,
    name: PhaseName,
    path: Path | None,
    init_from: Path | str | None,
) -> tuple[HNetVJEPA, Manifest]:
    """The model a phase starts from, and what was done to it so far."""
    if path is None and init_from is not None:
        path = Path(init_from)
        model, source = HNetVJEPA(config, describe_robot(store)), load_checkpoint(path)
        fresh = load_matching(model, source.model)
        if _is_main() and fresh:
            print(
                f"from {path}: {len(fresh)} weights do not fit this robot or config and start fresh ({fresh[0]}, ...)"
            )
        kept = tuple(r for r in source.manifest.phases if not any(name.startswith(PARTS[r.phase]) for name in fresh))
        return model, source.manifest.model_copy(update={"phases": kept})
    if path is None:
        earlier = [p for p in PHASES[: PHASES.index(name)] if (work_dir / p / "manifest.json").is_file()]
        path = work_dir / earlier[-1] if earlier else None
    if path is None:
        return HNetVJEPA(config, describe_robot(store)), Manifest()
    return load_checkpoint(path).model, read_manifest(path)


def _record(name: PhaseName, outcome: Outcome, store: EpisodeStore, fingerprint: str) -> PhaseRecord:
    return PhaseRecord(
        phase=name,
        steps=outcome.steps,
        seconds=round(outcome.seconds, 2),
        metrics={key: float(f"{value:.6g}") for key, value in outcome.metrics.items()},
        data=store.info.source,
        data_fingerprint=fingerprint,
        data_settings=store.info.settings,
    )


def _write_pipeline(work_dir: Path, settings: dict[str, object], record: PhaseRecord) -> None:
    file = work_dir / "pipeline.json"
    done = json.loads(file.read_text())["phases"]
    done[record.phase] = {"checkpoint": record.phase, **record.model_dump(mode="json", exclude={"phase"})}
    about = {"machine": machine(), "versions": versions()}
    write_json_atomic(file, {"settings": settings, **about, "phases": done})


def _is_main() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def _wait() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
