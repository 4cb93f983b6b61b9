"""What a training phase says to the one loop: which modules it trains, its loss, and the metric that judges it."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor, nn

from hnet_vjepa.config import PhaseName
from hnet_vjepa.data.batch import Batch
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.models.model import HNetVJEPA


class Phase(Protocol):
    """One training phase. Everything else (optimiser, schedule, checkpoint, resume, logging) is the engine's."""

    name: PhaseName

    def modules(self, model: HNetVJEPA) -> list[nn.Module]:
        """The modules that this phase trains; all others are frozen."""
        ...

    def loss(self, model: HNetVJEPA, batch: Batch) -> dict[str, Tensor]:
        """The terms of the loss, already weighted; their sum is minimised."""
        ...

    def ema(self, model: HNetVJEPA) -> float | None:
        """Momentum of the EMA target after every step, or None when the phase has no target."""
        ...

    def evaluate(self, model: HNetVJEPA, store: EpisodeStore) -> dict[str, float]:
        """Metrics on held-out episodes, each beside its baseline."""
        ...

    def ready(self, store: EpisodeStore) -> str | None:
        """Why this data can not train the phase, or None when it can."""
        ...
