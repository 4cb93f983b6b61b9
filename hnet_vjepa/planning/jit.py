"""Tracing by TorchScript: functions of tensors recorded once per input shape and replayed without Python.

Encoding one picture is about 500 operations of a few microseconds each; the Python between them takes longer than the
operations do.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

log = logging.getLogger(__name__)

Function = Callable[..., tuple[Tensor, ...]]
Shapes = tuple[tuple[int, ...], ...]

WARM = 3  # runs after which TorchScript's profiling executor stops specialising
CLOSE = 1e-4  # tolerance for numbers of the order of 1


def jit_trace(function: Function, kinds: Sequence[Shapes]) -> Function:
    """``function``, replayed from a trace for float inputs of these shapes; other shapes call the function itself.

    The function must do the same operations for all inputs of one shape, and its weights must not require gradients;
    the trace keeps their present values. Shapes that can not be traced, or whose trace disagrees with the function,
    call the function, too.
    """
    replays = {shapes: replay for shapes in kinds if (replay := _trace(function, shapes)) is not None}

    def call(*inputs: Tensor) -> tuple[Tensor, ...]:
        return replays.get(tuple(tuple(x.shape) for x in inputs), function)(*inputs)

    return call


def _trace(function: Function, shapes: Shapes) -> Function | None:
    random = torch.Generator().manual_seed(0)
    example, other = ([torch.randn(shape, generator=random) for shape in shapes] for _ in range(2))
    try:
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that sizes become constants, which is intended
            replay: Function = torch.jit.trace(function, tuple(example), check_trace=False)
            for _ in range(WARM):
                replay(*example)
            pairs = list(zip(replay(*other), function(*other), strict=True))
    except (RuntimeError, ValueError, TypeError) as error:
        log.info("not traced: %s", error)
        return None
    if all(torch.allclose(x.float(), y.float(), rtol=CLOSE, atol=CLOSE) for x, y in pairs):
        return replay
    log.warning("a trace disagrees with its function and is not used")
    return None
