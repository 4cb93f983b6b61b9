"""The training pipeline: phases in order, each from the previous checkpoint, with a manifest of the run.

``work_dir`` holds ``pipeline.json``, and for each phase a checkpoint ``<phase>/`` and its log ``<phase>.run/``; the
action phase logs what it begins with to ``encoder_adaptation.run/``, and its second half to ``heads.run/``.
This module is what an application embeds; ``hnet train`` calls it too.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from hnet_vjepa.checkpoint import Manifest, PhaseRecord, load_checkpoint, load_matching, read_manifest, save_checkpoint
from hnet_vjepa.config import PHASES, Config, PhaseName, parse_config
from hnet_vjepa.config.planning import TRAINING_FIELDS
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.data.verification import verified
from hnet_vjepa.errors import UserError, one_of
from hnet_vjepa.models.model import HNetVJEPA, Robot
from hnet_vjepa.tokenization import tokenize
from hnet_vjepa.trainers.action_posttrain import Action
from hnet_vjepa.trainers.calibrate import build_goal_bank, fit_ood_detector, measure_reached
from hnet_vjepa.trainers.encoded import Encoded
from hnet_vjepa.trainers.encoder_adaptation import EncoderAdaptation
from hnet_vjepa.trainers.engine import Outcome, check_data, train
from hnet_vjepa.trainers.heads import Heads
from hnet_vjepa.trainers.language_align import Language
from hnet_vjepa.trainers.phase import Phase
from hnet_vjepa.trainers.pretrain import Pretrain
from hnet_vjepa.trainers.probe_train import Probe
from hnet_vjepa.trainers.resume import drop_saves
from hnet_vjepa.utils.distrib import Parallelism, process_group
from hnet_vjepa.utils.files import write_json_atomic
from hnet_vjepa.utils.lock import locked
from hnet_vjepa.utils.runtime import machine, set_seed, versions

# Training a phase invalidates these phases, which depend on the modules that it changes.
UNDONE_BY: dict[PhaseName, tuple[PhaseName, ...]] = {
    "pretrain": ("pretrain", "language", "probe", "action"),
    "language": ("language", "probe", "action"),
    "probe": ("probe",),
    "action": ("action",),
}
# The modules that hold a phase's result: when a weight of them starts fresh, the phase counts as not trained.
PARTS: dict[PhaseName, tuple[str, ...]] = {
    "pretrain": ("backbone.",),
    "language": ("backbone.", "world_model.readout.", "text.", "projector."),
    "probe": ("backbone.", "world_model.readout.", "probe."),
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


def make_phase(name: PhaseName, trained: Sequence[PhaseName], store: EpisodeStore) -> Phase:
    """The phase object; the action phase rehearses the heads trained before it that the data can train."""
    simple: dict[PhaseName, Phase] = {"pretrain": Pretrain(), "language": Language(), "probe": Probe()}
    if name in simple:
        return simple[name]
    return Action(tuple(p for p in ("language", "probe") if p in trained and simple[p].ready(store) is None))


def _parts(phase: Phase, config: Config) -> list[Phase]:
    """The stages of a phase, in order."""
    if phase.name != "action":
        return [phase]
    return [*([EncoderAdaptation()] if config.encoder_adaptation else []), phase, Heads()]


def describe_robot(store: EpisodeStore, learns_states: bool = False) -> Robot:
    """Camera, action spec normalised on the training split, labels, and the states that supervise a model."""
    actions = np.concatenate([e.actions for e in store.split("train")])
    return Robot(
        camera=store.info.camera,
        action=store.info.action.normalised_by(actions),
        labels=store.info.labels,
        states=store.info.states if learns_states else (),
    )


def run_pipeline(
    config: Config,
    data: Path | str,
    work_dir: Path | str,
    phases: Sequence[PhaseName] = PHASES,
    init_from: Path | str | None = None,
    progress: bool = True,
    parallelism: Parallelism = Parallelism(),
) -> Path:
    """Train ``phases`` on the episodes in ``data``; return the path of the last checkpoint.

    A run that was interrupted goes on where it was: finished phases are kept, the unfinished one resumes. The first
    phase starts from ``init_from`` (fine-tuning), else from the phase before it in ``work_dir``, else from scratch.

    Raises:
        UserError: bad data, or a work directory that holds a run with other settings.
        TrainingError: loss or gradient became infinite or not a number.
    """
    work_dir = Path(work_dir)
    phases = parse_phases(",".join(phases))
    store = EpisodeStore(data, config.data.folds, config.data.held_out_fold)
    made = {name: make_phase(name, phases, store) for name in phases}
    unready = {name: reason for name, phase in made.items() if (reason := phase.ready(store))}
    if unready:
        reasons = ", ".join(f"'{name}' ({reason})" for name, reason in unready.items())
        left = ",".join(name for name in phases if name not in unready)
        advice = f"give --phases {left}" if left else "add what is missing to the recordings"
        raise UserError(f"{store.path} can not train {reasons}; {advice}")
    for phase in made.values():
        for part in _parts(phase, config):
            check_data(part, config, store)
    if config.learns_states and not store.info.states:
        raise UserError(
            f"{store.path} records no state, which encoder_adaptation.state_supervision would learn from; set it to 0"
        )
    settings: dict[str, object] = {
        "config": config.model_dump(mode="json"),
        "data_fingerprint": store.fingerprint(),
        "init_from": str(init_from or ""),
    }
    _check_same_run(work_dir, settings)
    path = Path(init_from) if init_from is not None else _before(phases[0], work_dir)
    if path is not None:
        read_manifest(path)
    encoded = Encoded()
    first_rank = os.environ.get("RANK", "0") == "0"
    with (
        locked(work_dir) if first_rank else contextlib.nullcontext(),
        verified(store) if first_rank else contextlib.nullcontext(lambda: None) as check_files,
        process_group(),
    ):
        for name in phases:
            check_files()
            path = _train_phase(name, config, store, work_dir, path, settings, progress, encoded, parallelism)
    assert path is not None
    return path


def _train_phase(
    name: PhaseName,
    config: Config,
    store: EpisodeStore,
    work_dir: Path,
    before: Path | None,
    settings: dict[str, object],
    progress: bool,
    encoded: Encoded,
    parallelism: Parallelism,
) -> Path:
    """Train one phase from the checkpoint ``before``, unless that was done already; return its checkpoint."""
    target = work_dir / name
    origin = "scratch" if before is None else read_manifest(before).fingerprint
    done = _read_pipeline(work_dir)["phases"].get(name)
    if done is not None and done["started_from"] == origin and (target / "manifest.json").is_file():
        if progress and _is_main():
            print(f"{name}: was finished before and is kept", flush=True)
            if load_checkpoint(target).model.config.plan != config.plan:
                print(f"{name}: it keeps its search; hnet serve and hnet evaluate change it by --set plan.FIELD=VALUE")
        return target
    set_seed(config.seed)
    model, manifest = _start(config, store, before)
    phase = make_phase(name, manifest.trained(), store)
    outcome = Outcome(0, 0.0, {})
    for part in _parts(phase, config):
        run = work_dir / f"{part.name}.run"
        outcome = outcome.then(train(part, model, store, run, origin, progress, encoded, parallelism))
    model = model.cpu()
    if _is_main():
        record = PhaseRecord(
            phase=name,
            started_from=origin,
            steps=outcome.steps,
            seconds=round(outcome.seconds, 2),
            metrics={key: float(f"{value:.6g}") for key, value in outcome.metrics.items() if math.isfinite(value)},
            data=store.info.source,
            data_fingerprint=str(settings["data_fingerprint"]),
            data_settings=store.info.settings,
        )
        kept = tuple(r for r in manifest.phases if r.phase not in UNDONE_BY[name])
        manifest = Manifest(phases=(*kept, record), versions=versions(), words=_words(name, manifest, kept, store))
        ood = goal_bank = None
        if "action" in manifest.trained():
            manifest = manifest.model_copy(update=measure_reached(model, store, manifest.trained()))
            ood = fit_ood_detector(model, store)
            if config.plan.goal_bank_size and {"language", "probe"} & set(manifest.trained()):
                goal_bank = build_goal_bank(model, store)
        save_checkpoint(target, model, manifest, ood=ood, goal_bank=goal_bank)
        _write_pipeline(work_dir, settings, record)
        for part in _parts(phase, config):
            drop_saves(work_dir / f"{part.name}.run")
    _wait()
    return target


def _words(name: PhaseName, before: Manifest, kept: Sequence[PhaseRecord], store: EpisodeStore) -> tuple[str, ...]:
    """The words of all captions that the text tower has learnt from, once phase ``name`` is done."""
    if name != "language" and "language" not in {record.phase for record in kept}:
        return ()
    if "language" in before.trained() and not before.words:
        return ()  # an older checkpoint, which does not list its words
    known = set(before.words)
    if name in ("language", "action"):  # the action phase rehearses
        sentences = {sentence for e in store.split("train") for captions in e.captions for sentence in captions}
        known |= {word for sentence in sentences for word in tokenize(sentence)}
    return tuple(sorted(known))


def _before(name: PhaseName, work_dir: Path) -> Path | None:
    """The checkpoint of the nearest earlier phase in a work directory."""
    earlier = [work_dir / p for p in PHASES[: PHASES.index(name)] if (work_dir / p / "manifest.json").is_file()]
    return earlier[-1] if earlier else None


def _check_same_run(work_dir: Path, settings: dict[str, object]) -> None:
    """Write ``pipeline.json``, or compare it with the requested run; a run without results may be replaced."""
    file = work_dir / "pipeline.json"
    if file.is_file():
        before = _read_pipeline(work_dir)
        changed = _differences("", _filled_up(before["settings"]), settings)
        if changed and (before["phases"] or any(work_dir.glob("*.run/resume"))):
            raise UserError(
                f"{work_dir} holds a run with other settings ({', '.join(changed[:4])}); "
                "give another --work-dir, or delete this one"
            )
        if not changed:
            return
    if _is_main():
        write_json_atomic(file, {"settings": settings, "phases": {}})


def _filled_up(settings: dict[str, Any]) -> dict[str, Any]:
    """A run's settings, completed by the defaults of fields that are newer than the run."""
    try:
        return {**settings, "config": parse_config(settings["config"], "").model_dump(mode="json")}
    except (KeyError, UserError):  # a field of it is gone: the difference will name it
        return settings


def _read_pipeline(work_dir: Path) -> dict[str, Any]:
    file = work_dir / "pipeline.json"
    try:
        content: dict[str, Any] = json.loads(file.read_text())
        return {"settings": content["settings"], "phases": content["phases"]}
    except FileNotFoundError:
        return {"settings": {}, "phases": {}}
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}); delete it to train again, or give another --work-dir") from error


def _differences(prefix: str, before: object, now: object) -> list[str]:
    """Dotted names of the fields in which two nested mappings differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted(set(before) | set(now))
        return [d for key in keys for d in _differences(f"{prefix}.{key}".lstrip("."), before.get(key), now.get(key))]
    # These change no result, and are what one changes after a kill.
    harmless = prefix.endswith((".save_every", ".log_every")) or _is_search(prefix)
    return [] if before == now or harmless else [prefix]


def _is_search(field: str) -> bool:
    """Whether a dotted field of the settings is one of the planner's search, which training does not read."""
    section, _, name = field.rpartition(".")
    return section == "config.plan" and name not in TRAINING_FIELDS


def _start(config: Config, store: EpisodeStore, before: Path | None) -> tuple[HNetVJEPA, Manifest]:
    """The model a phase starts from, and its manifest so far.

    A checkpoint of this very run is taken as it is. Another one (fine-tuning) gives every weight that fits; the robot's
    action normalisation stays the checkpoint's, since its dynamics were trained in that scale.
    """
    robot = describe_robot(store, config.learns_states)
    if before is None:
        return HNetVJEPA(config, robot), Manifest()
    source = load_checkpoint(before)
    same_actions = (source.model.robot.action.names, source.model.robot.action.active) == (
        robot.action.names,
        robot.action.active,
    )
    if same_actions:
        scale = {"mean": source.model.robot.action.mean, "std": source.model.robot.action.std}
        robot = robot.model_copy(update={"action": robot.action.model_copy(update=scale)})
    model = HNetVJEPA(config, robot)
    fresh = load_matching(model, source)
    lost = {p for p, parts in PARTS.items() if any(name.startswith(parts) for name in fresh)}
    lost |= set() if same_actions else {"action"}
    lost |= set() if robot.labels == source.model.robot.labels else {"probe"}
    kept = tuple(r for r in source.manifest.phases if r.phase not in lost)
    if _is_main() and len(kept) < len(source.manifest.phases):
        gone = ", ".join(r.phase for r in source.manifest.phases if r.phase in lost)
        print(f"{before} was made for another robot or config: what its phases {gone} learnt starts fresh", flush=True)
    if _is_main() and source.manifest.left_out:
        print(f"{before} is for planning only: {', '.join(source.manifest.left_out)} start fresh", flush=True)
    return model, source.manifest.model_copy(update={"phases": kept, "left_out": (), "exported_from": ""})


def _write_pipeline(work_dir: Path, settings: dict[str, object], record: PhaseRecord) -> None:
    file = work_dir / "pipeline.json"
    done = _read_pipeline(work_dir)["phases"]
    done[record.phase] = {"checkpoint": record.phase, **record.model_dump(mode="json", exclude={"phase"})}
    about = {"machine": machine(), "versions": versions()}
    write_json_atomic(file, {"settings": settings, **about, "phases": done})


def _is_main() -> bool:
    return not torch.distributed.is_initialized() or torch.distributed.get_rank() == 0


def _wait() -> None:
    if torch.distributed.is_initialized():
        torch.distributed.barrier()
