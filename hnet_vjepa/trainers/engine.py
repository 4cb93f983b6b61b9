"""The one training loop: optimiser, schedule, accumulation, clipping, EMA, saving, resuming, logging.

Which clips a step sees and what is hidden in them depends on (seed, step) alone, and no layer draws random numbers, so
a run that was killed goes on exactly as it would have.
"""

from __future__ import annotations

import functools
import math
import os
import signal
import time
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from torch import Tensor

from hnet_vjepa.config import Config, StageConfig
from hnet_vjepa.data.batch import Batch, ClipSampler
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.errors import UserError
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.trainers.collapse import CanCollapse, CollapseMonitor, Spread
from hnet_vjepa.trainers.encoded import Encoded, encode_once
from hnet_vjepa.trainers.log import TrainingLog, logged_before
from hnet_vjepa.trainers.optimisation import Optimisation, StageLoss
from hnet_vjepa.trainers.phase import Phase, Prepares
from hnet_vjepa.trainers.resume import Save, read_save, write_save
from hnet_vjepa.trainers.speed import SpeedMeter
from hnet_vjepa.utils.collectives import (
    any_rank,
    broadcast_from_first,
    data_rank,
    differing_ranks,
    gather_values,
    lay_out,
    mean_over_ranks,
    without_other_ranks,
)
from hnet_vjepa.utils.distrib import Parallelism, make_accelerator, world_size
from hnet_vjepa.utils.progress import progress_counter
from hnet_vjepa.utils.runtime import choose_precision
from hnet_vjepa.utils.termination import termination

VERIFY_EVERY = 50  # steps between two comparisons of the ranks' weights
NAMED = 4  # clips that an error names at most


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


def train(
    phase: Phase,
    model: HNetVJEPA,
    store: EpisodeStore,
    folder: Path,
    origin: str = "",
    progress: bool = True,
    encoded: Encoded | None = None,
    parallelism: Parallelism = Parallelism(),
) -> Outcome:
    """Train one phase of ``model`` in place and evaluate it.

    Args:
        folder: receives ``log.jsonl`` and ``speed.jsonl`` (a line per logged step; see SpeedMeter.line), for a phase
            that can collapse ``spread.jsonl`` (how much its features differ from frame to frame) and, while the phase
            runs, ``resume/``, from which an interrupted run goes on.
        origin: names the weights that ``model`` starts with; what a run with another origin left is ignored.
        encoded: what phases before this one made of the store's frames, for those that leave the backbone as it is.
        parallelism: how the run is spread over the ranks that a launcher started.

    Raises:
        UserError: the data can not train this phase, or the batch can not be shared out among the ranks.
        TrainingError: loss or gradient are not finite, the representation has collapsed, or the ranks' weights differ;
            the last save is kept.
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
    parts = world_size() // parallelism.context
    config.check_ranks(phase.name, parts)
    micro_batch = config.batch_size // (parts * config.accumulate)
    accelerator = make_accelerator(parallelism, micro_batch, config.accumulate, config.clip_norm)
    lay_out(parallelism.context)
    main, spreads = accelerator.is_main_process, folder / "spread.jsonl"
    say = functools.partial(print, flush=True) if progress and main else lambda line: None
    model.requires_grad_(False)
    for module in phase.modules(model):
        module.requires_grad_(True)
    if phase.ema(model) is not None:
        model.target.load_state_dict(model.backbone.state_dict())
    saved = read_save(folder, origin, model, say)
    if saved is not None:
        model.load_state_dict(saved.weights)
    first, seconds = (0, 0.0) if saved is None else (saved.step, saved.seconds)
    model.to(accelerator.device).eval()
    started = time.monotonic()  # what is prepared and encoded once is part of the training
    if isinstance(phase, Prepares):
        phase.prepare(model, store)
    if encode_once(model, sampler, encoded or Encoded()):
        say(f"{phase.name}: the backbone does not learn, so every frame was encoded once")
    broadcast_from_first(model)
    model.train()
    bf16 = choose_precision(model.config.precision) == "bf16"
    optimisation = Optimisation.prepare(accelerator, StageLoss(phase, model, bf16), config)
    if saved is not None:
        optimisation.load(saved.optimizer)
        say(f"{phase.name}: goes on at step {first} of {config.steps}")
    log = TrainingLog(folder / "log.jsonl", first) if main else None
    meter, speed_log = SpeedMeter(model.device), TrainingLog(folder / "speed.jsonl", first) if main else None
    monitor, spread_log = None, None
    if isinstance(phase, CanCollapse):
        before = [Spread(**{f.name: line[f.name] for f in fields(Spread)}) for line in logged_before(spreads, first)]
        monitor = CollapseMonitor(phase, model, store, before)
        spread_log = TrainingLog(spreads, first) if main else None

    def save(step: int) -> None:
        spent = seconds + time.monotonic() - started
        state = optimisation.state()  # ZeRO gathers it from all ranks
        if main:
            write_save(folder, origin, Save(step, spent, model.state_dict(), state))
        accelerator.wait_for_everyone()

    stop = False
    with (
        progress_counter(phase.name, config.steps, "step", progress and main, first=first) as done,
        termination() as asked_to_stop,
    ):
        for step in range(first, config.steps):
            rate = learning_rate(step, config)
            optimisation.set_learning_rate(rate)
            terms, norm = _step(optimisation, phase, model, sampler, config, meter, step)
            meter.step(config.batch_size)
            momentum = phase.ema(model)
            if momentum is not None:
                model.update_target(momentum)
            if step % config.log_every and step != config.steps - 1:
                done(1)
            else:
                done(1, f"loss {sum(terms.values()):.3f}")
                if log is not None:
                    log.write({"step": step, "learning_rate": rate, "grad_norm": norm, **terms})
                speed = meter.line()
                if speed_log is not None:
                    speed_log.write({"step": step, **speed})
                if monitor is not None:
                    found = monitor.measure()
                    if spread_log is not None:
                        spread_log.write({"step": step, **asdict(found)})
                    problem = monitor.problem()
                    if problem is not None:  # the same on all ranks, so that none waits for another
                        raise TrainingError(
                            f"the representation has collapsed in {phase.name} at step {step}: {problem}"
                        )
            if (step + 1) % VERIFY_EVERY == 0 or step + 1 == config.steps:
                _verify(phase, model, step)
            stop = any_rank(asked_to_stop(), model.device)
            if stop or ((step + 1) % config.save_every == 0 and step + 1 < config.steps):
                save(step + 1)
            if stop:
                say(f"{phase.name}: stopped after step {step}, which is saved")
                break
    if stop:
        os.kill(os.getpid(), signal.SIGTERM)  # to whoever handles it outside
        raise KeyboardInterrupt
    seconds += time.monotonic() - started
    model.eval().requires_grad_(False)
    optimisation.release()
    metrics = phase.evaluate(model, store)
    return Outcome(config.steps, seconds, metrics)


def _step(
    optimisation: Optimisation,
    phase: Phase,
    model: HNetVJEPA,
    sampler: ClipSampler,
    config: StageConfig,
    meter: SpeedMeter,
    step: int,
) -> tuple[dict[str, float], float]:
    """One optimiser step over ``accumulate`` parts of the global batch.

    Returns the loss terms, means over the global batch, and the gradient's norm before clipping.
    """
    size = config.batch_size // config.accumulate
    accelerator = optimisation.accelerator
    sums: dict[str, float] = {}
    norm: Tensor | None = None
    for part in range(config.accumulate):
        number = step * config.accumulate + part
        with meter.waiting():
            batch = sampler.batch(number, size, *data_rank())
        batch = batch.to(accelerator.device)
        with accelerator.accumulate(optimisation.loss):
            loss, terms = optimisation.loss(batch)
            values = mean_over_ranks(torch.stack(list(terms.values())))
            if values.isfinite().all():  # the same on all ranks, so that none waits for another
                norm = optimisation.backward(loss, config.clip_norm)
        if not values.isfinite().all() or (norm is not None and not norm.isfinite()):
            what = "loss" if not values.isfinite().all() else "gradient"
            shown = ", ".join(f"{name} {value:.3g}" for name, value in zip(terms, values.tolist(), strict=True))
            clips = _not_finite(phase, model, sampler, batch)
            raise TrainingError(
                f"the {what} is not finite at step {step} of {phase.name} ({shown}); {clips}; "
                "look at these recordings, or lower the learning rate"
            )
        for name, value in zip(terms, values.tolist(), strict=True):
            sums[name] = sums.get(name, 0.0) + value / config.accumulate
    assert norm is not None
    return sums, float(norm)


@torch.no_grad()
def _not_finite(phase: Phase, model: HNetVJEPA, sampler: ClipSampler, batch: Batch) -> str:
    """The clips of all ranks whose loss is not finite when they are alone in a batch; else all clips of the batch."""
    rank, device = torch.distributed.get_rank() if torch.distributed.is_initialized() else 0, model.device
    named = [f"rank {rank}, {sampler.describe(key)}" for key in batch.keys]
    with without_other_ranks():
        bad = [
            name
            for name, key in zip(named, batch.keys, strict=True)
            if not all(
                bool(term.isfinite().all())
                for term in phase.loss(model, sampler.clips([sampler.clip_of(key)], [key]).to(device)).values()
            )
        ]
    of_ranks = [name for part in gather_values(bad, device) for name in part]
    if of_ranks:
        return f"not finite by itself: {'; '.join(of_ranks[:NAMED])}"
    of_ranks = [name for part in gather_values(named, device) for name in part]
    return f"the batch: {'; '.join(of_ranks[:NAMED])}" + (" ..." if len(of_ranks) > NAMED else "")


def _verify(phase: Phase, model: HNetVJEPA, step: int) -> None:
    """Raise TrainingError when a rank's weights or EMA target are not the first rank's, bit by bit."""
    others = differing_ranks(model, model.device)
    if others:
        raise TrainingError(
            f"the weights of ranks {', '.join(map(str, others))} differ from those of rank 0 after step {step} of "
            f"{phase.name}; the last save is intact, give the same command again"
        )
