"""The one training loop: optimiser, schedule, accumulation, clipping, EMA, saving, resuming, logging.

Which clips a step sees and what is hidden in them depends on (seed, step) alone, and no layer draws random numbers, so
a run that was killed goes on exactly as it would have.
"""

from __future__ import annotations

import json
import math
import shutil
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import safetensors.torch
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from hnet_vjepa.config import Config, StageConfig
from hnet_vjepa.data.batch import Batch, ClipSampler
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.errors import UserError
from hnet_vjepa.migration import is_format_1, upgrade_weights
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.trainers.collapse import CanCollapse, CollapseMonitor, Spread
from hnet_vjepa.trainers.encoded import Encoded, encode_once
from hnet_vjepa.trainers.log import TrainingLog, logged_before
from hnet_vjepa.trainers.phase import Phase, Prepares
from hnet_vjepa.utils.distrib import make_accelerator, world_size
from hnet_vjepa.utils.files import directory_atomic, write_json_atomic
from hnet_vjepa.utils.progress import progress_counter
from hnet_vjepa.utils.runtime import choose_precision


class TrainingError(UserError):
    """Training can not go on (the gradient is not a number, or all pictures look alike); what was saved is intact."""


@dataclass(frozen=True)
class Outcome:
    """What a phase did. ``seconds`` counts every part of a run that was interrupted."""

    steps: int
    seconds: float
    metrics: dict[str, float]

    def then(self, other: Outcome) -> Outcome:
        """Both one after the other."""
        return Outcome(self.steps + other.steps, self.seconds + other.seconds, self.metrics | other.metrics)


class _PhaseLoss(nn.Module):
    """The phase's loss as a module's forward, which is what data-parallel wrappers need to see."""

    def __init__(self, phase: Phase, model: HNetVJEPA) -> None:
        super().__init__()
        self.phase, self.model = phase, model

    def forward(self, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        terms = self.phase.loss(self.model, batch)
        return torch.stack([term.float() for term in terms.values()]).sum(), {k: v.detach() for k, v in terms.items()}


def learning_rate(step: int, config: StageConfig) -> float:
    """Linear warm-up, then half a cosine to zero."""
    warmup = max(1, round(config.warmup * config.steps))
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, config.steps - warmup)))


def check_data(phase: Phase, config: Config, store: EpisodeStore) -> None:
    """Raise UserError, before anything heavy starts, when this data or these ranks can not train and judge a phase."""
    settings = config.phase(phase.name)
    reason = phase.ready(store)
    if reason:
        raise UserError(f"{store.path} can not train the phase '{phase.name}': {reason}; leave it out of --phases")
    for split in ("train", "held_out"):
        ClipSampler(store, store.info.action, split, settings.clip_frames, config.seed)
    ranks = world_size()
    if settings.batch_size % (ranks * settings.accumulate):
        raise UserError(
            f"{phase.name}.batch_size = {settings.batch_size} can not be shared out among {ranks} ranks "
            f"and {settings.accumulate} accumulation steps; it must be a multiple of {ranks * settings.accumulate}"
        )


def train(
    phase: Phase,
    model: HNetVJEPA,
    store: EpisodeStore,
    folder: Path,
    origin: str = "",
    progress: bool = True,
    encoded: Encoded | None = None,
) -> Outcome:
    """Train one phase of ``model`` in place and evaluate it.

    Args:
        folder: receives ``log.jsonl`` (one line per logged step), for a phase that can collapse ``spread.jsonl`` (how
            much its features differ from frame to frame) and, while the phase runs, ``resume/``, from which
            an interrupted run goes on.
        origin: names the weights that ``model`` starts with; what a run with another origin left is ignored.
        encoded: what phases before this one made of the store's frames, for those that leave the backbone as it is.

    Raises:
        UserError: the data can not train this phase, or the batch can not be shared out among the ranks.
        TrainingError: loss or gradient are not finite, or the representation has collapsed; the last save is kept.
    """
    config = model.config.phase(phase.name)
    check_data(phase, model.config, store)
    data = model.config.data
    sampler = ClipSampler(
        store,
        model.robot.action,
        "train",
        config.clip_frames,
        model.config.seed,
        data.shift,
        data.brightness,
        phase.hindsight,
    )
    accelerator = make_accelerator(choose_precision(model.config.precision), config.accumulate)
    model.requires_grad_(False)
    for module in phase.modules(model):
        module.requires_grad_(True)
    if phase.ema(model) is not None:
        model.target.load_state_dict(model.backbone.state_dict())
    trained = [p for p in model.parameters() if p.requires_grad]
    decayed = [p for p in trained if p.ndim > 1]
    groups = [
        {"params": decayed, "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.98), fused=True)
    first, seconds = _resume(folder, model, optimizer, trained, origin)
    model.to(accelerator.device).eval()
    started = time.monotonic()  # what is prepared and encoded once is part of the training
    if isinstance(phase, Prepares):
        phase.prepare(model, store)
    if encode_once(model, sampler, encoded or Encoded()) and progress and accelerator.is_main_process:
        print(f"{phase.name}: the backbone does not learn, so every frame was encoded once", flush=True)
    model.train()
    loss_module, wrapped = accelerator.prepare(_PhaseLoss(phase, model), optimizer)

    main, spreads = accelerator.is_main_process, folder / "spread.jsonl"
    if first and progress and main:
        print(f"{phase.name}: goes on at step {first} of {config.steps}", flush=True)
    log = TrainingLog(folder / "log.jsonl", first) if main else None
    monitor, spread_log = None, None
    if isinstance(phase, CanCollapse):
        before = [Spread(**{f.name: line[f.name] for f in fields(Spread)}) for line in logged_before(spreads, first)]
        monitor = CollapseMonitor(phase, model, store, before)
        spread_log = TrainingLog(spreads, first) if main else None
    with progress_counter(phase.name, config.steps, "step", progress and main, first=first) as done:
        for step in range(first, config.steps):
            rate = learning_rate(step, config)
            for group in wrapped.param_groups:
                group["lr"] = rate
            terms, norm = _step(accelerator, loss_module, wrapped, trained, sampler, config, step)
            momentum = phase.ema(model)
            if momentum is not None:
                model.update_target(momentum)
            if step % config.log_every and step != config.steps - 1:
                done(1)
            else:
                values = {name: float(value) for name, value in terms.items()}
                done(1, f"loss {sum(values.values()):.3f}")
                if log is not None:
                    log.write({"step": step, "learning_rate": rate, "grad_norm": norm, **values})
                if monitor is not None:
                    found = monitor.measure()
                    if spread_log is not None:
                        spread_log.write({"step": step, **asdict(found)})
                    problem = monitor.problem()
                    if problem is not None:  # the same on all ranks, so that none waits for another
                        raise TrainingError(
                            f"the representation has collapsed in {phase.name} at step {step}: {problem}"
                        )
            if (step + 1) % config.save_every == 0 and step + 1 < config.steps:
                if main:
                    _save(folder, model, optimizer, trained, origin, step + 1, seconds + time.monotonic() - started)
                accelerator.wait_for_everyone()
    seconds += time.monotonic() - started
    model.eval().requires_grad_(False)
    metrics = phase.evaluate(model, store)
    accelerator.free_memory()
    return Outcome(config.steps, seconds, metrics)


def finish(folder: Path) -> None:
    """Remove what only an interrupted run needs."""
    shutil.rmtree(folder / "resume", ignore_errors=True)


def _step(
    accelerator: Accelerator,
    loss_module: nn.Module,
    optimizer: torch.optim.Optimizer,
    trained: list[nn.Parameter],
    sampler: ClipSampler,
    config: StageConfig,
    step: int,
) -> tuple[dict[str, Tensor], float]:
    """One optimiser step over ``accumulate`` parts of the global batch; the loss terms and the gradient's norm."""
    size = config.batch_size // config.accumulate
    sums: dict[str, Tensor] = {}
    norm = torch.zeros(())
    for part in range(config.accumulate):
        number = step * config.accumulate + part
        batch = sampler.batch(number, size, accelerator.process_index, accelerator.num_processes)
        with accelerator.accumulate(loss_module):
            with accelerator.autocast():
                loss, terms = loss_module(batch.to(accelerator.device))
            accelerator.backward(loss)
            if accelerator.sync_gradients:
                norm = accelerator.clip_grad_norm_(trained, config.clip_norm)
                if not torch.isfinite(norm):  # the same on all ranks, so that none waits for another
                    shown = ", ".join(f"{name} {float(value):.3g}" for name, value in terms.items())
                    raise TrainingError(f"the gradient is not finite at step {step} ({shown}); lower the learning rate")
            optimizer.step()
            optimizer.zero_grad()
        for name, value in terms.items():
            sums[name] = sums.get(name, torch.zeros_like(value)) + value / config.accumulate
    return sums, float(norm)


def _save(
    folder: Path,
    model: HNetVJEPA,
    optimizer: torch.optim.Optimizer,
    trained: list[nn.Parameter],
    origin: str,
    step: int,
    seconds: float,
) -> None:
    """Write what is needed to go on from ``step``."""
    moments = {}
    for i, parameter in enumerate(trained):
        for name, value in optimizer.state[parameter].items():
            moments[f"{i}.{name}"] = value.detach().contiguous().cpu()
    with directory_atomic(folder / "resume") as target:
        weights = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
        (target / "weights.safetensors").write_bytes(safetensors.torch.save(weights))
        (target / "optimizer.safetensors").write_bytes(safetensors.torch.save(moments))
        write_json_atomic(target / "progress.json", {"step": step, "seconds": seconds, "origin": origin})


def _resume(
    folder: Path, model: HNetVJEPA, optimizer: torch.optim.Optimizer, trained: list[nn.Parameter], origin: str
) -> tuple[int, float]:
    """Load what ``_save`` wrote, if there is anything; the step to go on from and the seconds already spent."""
    source = folder / "resume"
    if not (source / "progress.json").is_file():
        return 0, 0.0
    done = json.loads((source / "progress.json").read_text())
    if done["origin"] != origin:
        return 0, 0.0
    weights = safetensors.torch.load((source / "weights.safetensors").read_bytes())
    if is_format_1(weights):
        slots, state_dim = model.config.model.backbone.slots, model.config.model.world_model.state_dim
        weights = upgrade_weights(weights, slots, state_dim, exported=False)
    model.load_state_dict(weights)
    moments = safetensors.torch.load((source / "optimizer.safetensors").read_bytes())
    for key, value in moments.items():
        index, name = key.split(".", 1)
        parameter = trained[int(index)]
        # The fused optimiser walks through memory: moments must lie there in the weight's own order (channels last).
        laid_out = torch.empty_like(parameter).copy_(value) if value.shape == parameter.shape else value
        optimizer.state[parameter][name] = laid_out
    return int(done["step"]), float(done["seconds"])
