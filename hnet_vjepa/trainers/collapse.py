"""Representation collapse: constant features satisfy a predictor perfectly and are worth nothing.

While a stage trains, the same frames are encoded at every logged step. The run stops when their features hardly differ
any more, or differ in one direction only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from hnet_vjepa.data.batch import clip_batches
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.models.model import HNetVJEPA
from hnet_vjepa.trainers.linear_probe import effective_rank

PICTURES = 64  # enough to tell a rank of 2 from one of 20, at the cost of half a training step
# Measured on simulated robots (64 numbers a slot): fresh networks deviate by 0.02 to 0.10, healthy ones by no less than
# 0.006 in their first steps and by 0.5 to 0.8 in the end, with effective ranks of 19 to 45 throughout. Without the
# variance term Push-T fell to 0.0004 within 15 steps, a toy of 16 numbers to 0.0012 in 75; its healthy rank is 8 to 10.
LEAST_DEVIATION = 0.002
LEAST_RANK = 2.0
PATIENCE = 3  # measurements in a row


@runtime_checkable
class CanCollapse(Protocol):
    """A phase whose representation could collapse."""

    def representation(self, model: HNetVJEPA, video: Tensor) -> tuple[Tensor, Tensor]:
        """Features of normalised video B x T x H x W x 3: B x N x D, and their mask B x N (True = padding)."""
        ...

    def remedy(self, model: HNetVJEPA) -> str:
        """What to do when it has collapsed: the fields to change, with their values."""
        ...


@dataclass(frozen=True)
class Spread:
    """How much the features of different frames differ, for a representation of D numbers a slot."""

    effective_rank: float  # 1 to D: how many directions it differs in
    deviation: float  # mean over the D numbers of their standard deviation, as a share of the root mean square of all
    least_deviation: float  # of the number that differs least


def spread(tokens: Tensor, mask: Tensor) -> Spread:
    """Effective rank and deviations of tokens B x N x D where ``mask`` (B x N, True = padding) is False.

    Every slot is centred on its own mean over the B frames: slots that differ from each other by their position alone
    carry no information on the frame.
    """
    live = (~mask)[..., None].double()  # B x N x 1
    tokens = tokens.double() * live
    around = (tokens - tokens.sum(0) / live.sum(0).clamp(min=1))[~mask]  # rows x D
    scale = (tokens.square().sum() / (live.sum() * tokens.shape[-1]).clamp(min=1)).sqrt().clamp(min=1e-12)
    deviations = around.square().mean(0).sqrt() / scale if len(around) else tokens.new_zeros(tokens.shape[-1])  # D
    rank = effective_rank(around.cpu().numpy()) if len(around) else 1.0
    return Spread(rank, float(deviations.mean()), float(deviations.min()))


def collapsed(history: Sequence[Spread]) -> str | None:
    """What is wrong with a representation, given its spread so far, oldest first; None while it is healthy.

    It takes the last ``PATIENCE`` measurements: a representation may be poor for a moment and recover.
    """
    last = history[-PATIENCE:]
    if len(last) < PATIENCE:
        return None
    if all(found.deviation < LEAST_DEVIATION for found in last):
        shown = ", ".join(f"{found.deviation:.2g}" for found in last)
        return f"different pictures look the same to it (deviation {shown}; healthy is above {LEAST_DEVIATION:g})"
    if all(found.effective_rank < LEAST_RANK for found in last):
        shown = ", ".join(f"{found.effective_rank:.2f}" for found in last)
        return f"pictures differ in one direction only (effective rank {shown}; healthy is above {LEAST_RANK:g})"
    return None


class CollapseMonitor:
    """Measures the spread of a phase's features on a fixed set of training frames while it trains."""

    def __init__(
        self, phase: CanCollapse, model: HNetVJEPA, store: EpisodeStore, before: Sequence[Spread] = ()
    ) -> None:
        self.phase, self.model = phase, model
        self.video = next(
            clip_batches(store, model.robot.action, "train", 1, model.device, PICTURES)
        ).video  # B x 1 x H x W x 3
        self.history = list(before)  # of a run that was interrupted

    @torch.no_grad()
    def measure(self) -> Spread:
        """Measure now and add it to the history."""
        training = self.model.training
        self.model.eval()  # a measurement must not consume the random numbers of the training
        found = spread(*self.phase.representation(self.model, self.video))
        self.model.train(training)
        self.history.append(found)
        return found

    def problem(self) -> str | None:
        """What is wrong and what to do about it; None while all is well."""
        reason = collapsed(self.history)
        return None if reason is None else f"{reason}; {self.phase.remedy(self.model)}"
