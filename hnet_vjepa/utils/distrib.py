"""One place where a run becomes distributed, and where that is checked instead of believed."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedType

from hnet_vjepa.errors import UserError


def world_size() -> int:
    """How many ranks the launcher started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1))


def make_accelerator(precision: str, accumulate: int) -> Accelerator:
    """Make accelerate's object for one process, or for the ranks that torchrun started.

    accelerate reads settings from ACCELERATE_* variables and then silently does something else than it was asked to
    (on a CPU above all), so those are refused and what came out is compared with what was wanted.

    Raises:
        UserError: ACCELERATE_* variables are set.
        RuntimeError: accelerate made other ranks than the launcher started.
    """
    meddling = sorted(
        name for name in os.environ if name.startswith("ACCELERATE_") and name != "ACCELERATE_MIXED_PRECISION"
    )
    if meddling:
        raise UserError(f"unset {', '.join(meddling)}: the run is configured by its config file and its launcher")
    world = world_size()
    on_cpu = not torch.cuda.is_available()
    AcceleratorState._reset_state(reset_partial_state=world == 1)  # an application may train twice, differently
    accelerator = Accelerator(
        cpu=on_cpu,
        mixed_precision="bf16" if precision == "bf16" else "no",
        gradient_accumulation_steps=accumulate,
    )
    expected = {DistributedType.NO} if world == 1 else {DistributedType.MULTI_CPU, DistributedType.MULTI_GPU}
    if accelerator.num_processes != world or accelerator.distributed_type not in expected:
        raise RuntimeError(
            f"accelerate made {accelerator.num_processes} processes of type {accelerator.distributed_type}; "
            f"the launcher started {world}"
        )
    return accelerator


@contextlib.contextmanager
def process_group() -> Iterator[None]:
    """Leave the process group properly at the end, if it came about inside the block.

    Without the barrier a rank may abort while another still sends; after an error there is nobody to wait for.
    """
    already = torch.distributed.is_initialized()
    try:
        yield
        if torch.distributed.is_initialized() and not already:
            torch.distributed.barrier()
    finally:
        if torch.distributed.is_initialized() and not already:
            torch.distributed.destroy_process_group()
