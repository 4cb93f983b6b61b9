"""How fast a training runs and what it waits for: a line of ``speed.jsonl`` per logged step."""

from __future__ import annotations

import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from hnet_vjepa.utils.collectives import max_over_ranks, mean_over_ranks

KB = 1024


class SpeedMeter:
    """Adds up the time of steps, and the part of it in which the step waits for its clips, between two lines."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._begin()

    def _begin(self) -> None:
        self._clips, self._steps, self._waited, self._started = 0, 0, 0.0, time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Time in the block is waiting for data."""
        begun = time.monotonic()
        yield
        self._waited += time.monotonic() - begun

    def step(self, clips: int) -> None:
        """A step over ``clips`` clips of all ranks is done."""
        self._clips, self._steps = self._clips + clips, self._steps + 1

    def line(self) -> dict[str, float]:
        """The values since the last line, the same on all ranks, which all call it.

        ``clips_per_s``, over all ranks; ``step_s``; ``data_wait_share``, mean over ranks, and
        ``slowest_data_wait_share``, of the rank that waits longest (the others wait for it); ``peak_memory_mb`` of a
        rank: of its GPU, else its resident memory.
        """
        spent = time.monotonic() - self._started
        mean = mean_over_ranks(torch.tensor([spent, self._waited], dtype=torch.float64, device=self._device))
        most = max_over_ranks(torch.tensor([self._waited, peak_memory_mb()], dtype=torch.float64, device=self._device))
        found = {
            "clips_per_s": self._clips / float(mean[0]),
            "step_s": float(mean[0]) / max(1, self._steps),
            "data_wait_share": float(mean[1] / mean[0]),
            "slowest_data_wait_share": float(most[0] / mean[0]),
            "peak_memory_mb": float(most[1]),
        }
        self._begin()
        return found


def peak_memory_mb() -> float:
    """The most memory that this process has held: on the GPU where there is one, else resident."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / KB**2
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / KB
