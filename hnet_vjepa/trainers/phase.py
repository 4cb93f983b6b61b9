"""What a training phase, or half of one, says to the one loop: the modules it trains, its loss, what judges it."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from hnet_vjepa.config import Stage
from hnet_vjepa.data.batch import Batch
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.models.model import HNetVJEPA


class Phase(Protocol):
    """One training phase. Everything else (optimiser, schedule, checkpoint, resume, logging) is the engine's."""

    name: Stage
    hindsight: bool  # its batches need a hindsight goal

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


@runtime_checkable
class Prepares(Protocol):
    """A phase that looks at the data before its first step."""

    def prepare(self, model: HNetVJEPA, store: EpisodeStore) -> None:
        """Set what is no parameter; the same whenever it is done with the same weights."""
        ...
