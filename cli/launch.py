"""Several ranks from one command: ``hnet train --nproc 2`` starts itself again under torchrun."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hnet_vjepa.errors import UserError


@dataclass(frozen=True)
class Launch:
    """How many ranks run where.

    ``nproc``: ranks on this machine. ``nnodes``: machines; with more than one, ``rdzv_endpoint`` (HOST:PORT of one of
    them, the same for all) is where they meet. ``max_restarts``: how often all ranks are started again after a crash.
    """

    nproc: int = 1
    nnodes: int = 1
    rdzv_endpoint: str | None = None
    max_restarts: int = 0

    @property
    def several(self) -> bool:
        """Whether torchrun is needed."""
        return self.nproc > 1 or self.nnodes > 1 or self.max_restarts > 0


def check_launch(launch: Launch, environment: Mapping[str, str]) -> None:
    """Raise UserError when ranks can not be started this way."""
    if launch.several and "WORLD_SIZE" in environment:
        raise UserError("this is a rank of a launcher already; leave --nproc, --nnodes and --max-restarts to it")
    if launch.nnodes > 1 and launch.rdzv_endpoint is None:
        raise UserError(f"--nnodes {launch.nnodes} needs --rdzv-endpoint HOST:PORT, the same on every machine")
    if launch.rdzv_endpoint is not None:
        host, _, port = launch.rdzv_endpoint.rpartition(":")
        if not host or not port.isdigit():
            raise UserError(f"--rdzv-endpoint {launch.rdzv_endpoint}: write it as HOST:PORT, for instance robot1:29500")


def torchrun(launch: Launch, words: Sequence[str]) -> list[str]:
    """The command that starts ``hnet train WORDS`` on every rank of this machine."""
    meet = ["--standalone"]
    if launch.nnodes > 1:
        meet = ["--rdzv-backend=c10d", f"--rdzv-endpoint={launch.rdzv_endpoint}", "--rdzv-id=hnet"]
    return [
        *(sys.executable, "-m", "torch.distributed.run"),
        *(f"--nproc-per-node={launch.nproc}", f"--nnodes={launch.nnodes}", *meet),
        f"--max-restarts={launch.max_restarts}",
        *("-m", "cli", "train", *words),
    ]


def surroundings(launch: Launch, environment: Mapping[str, str], cores: int) -> dict[str, str]:
    """The environment of the ranks: cores shared out among them, and a store of its own for every restart.

    torchrun sets one thread per rank otherwise. A restarted group would read stale keys from a shared store (torch
    2.13; pytorch issue 135712).
    """
    changed = {**environment, "OMP_NUM_THREADS": environment.get("OMP_NUM_THREADS", str(max(1, cores // launch.nproc)))}
    if launch.max_restarts:
        changed["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    return changed


def start(launch: Launch, words: Sequence[str]) -> None:
    """Become torchrun; this does not return. Signals then reach it directly. Raises UserError as ``check_launch``."""
    check_launch(launch, os.environ)
    command = torchrun(launch, words)
    os.execve(command[0], command, surroundings(launch, os.environ, len(os.sched_getaffinity(0))))
