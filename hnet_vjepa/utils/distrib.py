"""Starting a distributed run: the accelerator, its checks, and the process group."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DeepSpeedPlugin, DistributedType, InitProcessGroupKwargs

from hnet_vjepa.errors import UserError
from hnet_vjepa.utils.deepspeed_config import completed, read_deepspeed_config


@dataclass(frozen=True)
class Parallelism:
    """How a run is spread over ranks. It changes no loss, so it is a property of the run and not of the configuration.

    ``deepspeed``: DeepSpeed's JSON file, for ZeRO; None for DistributedDataParallel. ``context``: how many ranks share
    their clips and shard the transformer's sequence of a clip among them (ring attention).
    """

    deepspeed: Path | None = None
    context: int = 1


def world_size() -> int:
    """How many ranks the launcher started; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE", 1))


def make_accelerator(parallelism: Parallelism, micro_batch: int, accumulate: int, clip_norm: float) -> Accelerator:
    """accelerate's object for one process, or for the ranks that a launcher started.

    accelerate reads settings from ACCELERATE_* variables and then silently does something else than it was asked to
    (on a CPU above all), so those are refused and what came out is compared with what was wanted. ``micro_batch``:
    clips of one rank in one forward.

    Raises:
        UserError: ACCELERATE_* variables are set; DeepSpeed is not installed, or its file contradicts the rest.
        RuntimeError: accelerate made other ranks than the launcher started.
    """
    set_before = sorted(name for name in os.environ if name.startswith("ACCELERATE_"))
    if set_before:
        raise UserError(f"unset {', '.join(set_before)}: the run is configured by its config file and its launcher")
    world, on_cpu = world_size(), not torch.cuda.is_available()
    AcceleratorState._reset_state(reset_partial_state=world == 1)  # an application may train twice, differently
    arguments: dict[str, Any] = {"cpu": on_cpu, "gradient_accumulation_steps": accumulate}
    launched = {DistributedType.MULTI_CPU, DistributedType.MULTI_GPU}
    wanted = {DistributedType.NO, *(launched if "WORLD_SIZE" in os.environ else ())} if world == 1 else launched
    if parallelism.deepspeed is not None:
        settings = completed(
            read_deepspeed_config(parallelism.deepspeed), micro_batch, accumulate, clip_norm, parallelism.deepspeed
        )
        _prepare_deepspeed(on_cpu)
        # accelerate ignores the plugin under cpu=True, and sees one rank without a backend that it is told (1.15).
        arguments = {"deepspeed_plugin": DeepSpeedPlugin(hf_ds_config=settings)}
        arguments |= {"kwargs_handlers": [InitProcessGroupKwargs(backend="gloo")]} if on_cpu else {}
        wanted = {DistributedType.DEEPSPEED}
    try:
        accelerator = Accelerator(mixed_precision="no", **arguments)  # autocast is the engine's, for all alike
    finally:
        for name in [name for name in os.environ if name.startswith("ACCELERATE_")]:
            del os.environ[name]  # accelerate leaves some for processes that it might start
    if accelerator.num_processes != world or accelerator.distributed_type not in wanted:
        raise RuntimeError(
            f"accelerate made {accelerator.num_processes} processes of type {accelerator.distributed_type}; "
            f"the launcher started {world}"
        )
    return accelerator


def _prepare_deepspeed(on_cpu: bool) -> None:
    """Import DeepSpeed so that it compiles nothing and runs without a launcher too.

    Raises UserError when it is not installed.
    """
    try:
        import deepspeed
    except ImportError as error:
        raise UserError("DeepSpeed is not installed; give: pip install 'hnet-vjepa[deepspeed]'") from error
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    if on_cpu:
        # On a CPU, every start would compile a library for an inference all-reduce (0.19: 147 s, and an error without
        # a compiler). No setting prevents it; a test notices when this name changes.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if "WORLD_SIZE" not in os.environ:  # what a launcher sets
        alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}
        os.environ.update(alone, MASTER_PORT=str(_free_port()))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
