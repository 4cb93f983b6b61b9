"""Interleaved timing of calls, exponents and crossovers of their cost, and peak memory."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import ParamSpec, TypeVar

import torch
from torch import nn

from hnet_vjepa.errors import UserError

STATUS = Path("/proc/self/status")
STATM = Path("/proc/self/statm")
MOST_ROUNDS = 30

P = ParamSpec("P")
T = TypeVar("T")


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    rounds: int = 3,
    seconds: float = 1.0,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Seconds of every call, interleaved so that other load on the machine affects all of them.

    Every call is made once before, unmeasured. There are at least ``rounds`` rounds, then more until ``seconds`` have
    passed or 30 are done, since short calls need many.
    """
    for call in calls.values():
        call()
    spent: dict[str, list[float]] = {name: [] for name in calls}
    begun, done = clock(), 0
    while done < rounds or (done < MOST_ROUNDS and clock() - begun < seconds):
        for name, call in calls.items():
            before = clock()
            call()
            spent[name].append(clock() - before)
        done += 1
    return spent


def medians(spent: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """The median of every call."""
    return {name: statistics.median(values) for name, values in spent.items()}


def exponent(sizes: Sequence[float], costs: Sequence[float]) -> float:
    """b of the least-squares fit ``cost = a * size ** b`` in logarithms."""
    x, y = [math.log(size) for size in sizes], [math.log(cost) for cost in costs]
    return statistics.linear_regression(x, y).slope


def crossover(sizes: Sequence[float], first: Sequence[float], second: Sequence[float]) -> float | None:
    """The size from which on ``second`` costs less than ``first``, for ascending sizes; None when it never does.

    Costs are interpolated as powers of the size. Returns the smallest size when ``second`` is cheaper everywhere.
    """
    ahead = [math.log(b / a) for a, b in zip(first, second, strict=True)]  # negative where the second is cheaper
    if ahead[-1] >= 0:
        return None
    last = max((i for i, value in enumerate(ahead) if value >= 0), default=-1)
    if last < 0:
        return float(sizes[0])
    share = ahead[last] / (ahead[last] - ahead[last + 1])
    return float(sizes[last] * (sizes[last + 1] / sizes[last]) ** share)


@contextlib.contextmanager
def time_of_parts(parts: Mapping[str, Sequence[nn.Module]]) -> Iterator[dict[str, float]]:
    """Sum the seconds of named modules' forward passes while the block runs."""
    spent = dict.fromkeys(parts, 0.0)
    with contextlib.ExitStack() as stack:
        for name, modules in parts.items():
            for module in modules:
                begun: list[float] = []

                def start(*_: object, begun: list[float] = begun) -> None:
                    begun.append(time.perf_counter())

                def stop(*_: object, begun: list[float] = begun, name: str = name) -> None:
                    spent[name] += time.perf_counter() - begun.pop()

                stack.callback(module.register_forward_pre_hook(start).remove)
                stack.callback(module.register_forward_hook(stop).remove)
        yield spent


def resident_mb() -> float:
    """Resident memory of this process in MiB. Raises UserError on systems other than Linux."""
    return int(_read(STATM).split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def peak_mb() -> float:
    """Peak resident memory of this program in MiB.

    Not ``ru_maxrss``, which a new process inherits from the one that started it. Raises UserError on systems other than
    Linux.
    """
    line = next(line for line in _read(STATUS).splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 2**10


def _read(path: Path) -> str:
    if not path.is_file():
        raise UserError(f"no {path}: resident memory can be measured on Linux only")
    return path.read_text()


def in_own_process(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call ``work`` in a fresh process with as many torch threads, whose memory is then only its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), torch.set_num_threads, (_threads(),)) as pool:
        return pool.submit(work, *args, **kwargs).result()


def _threads() -> int:
    return torch.get_num_threads()
