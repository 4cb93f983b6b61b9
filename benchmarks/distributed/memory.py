"""Memory of the transformer on long sequences: sharded over ranks, and with recomputation of activations.

Every measurement is a process group of its own. A rank's peak is that of its resident memory (VmHWM) less what it held
before the forward pass: activations, gradients and the attention's working memory, without the weights. One rank
computes attention by torch's own function, which keeps all scores because log sizes get gradient; sharded ranks compute
those of 512 queries at a time, which is a part of what they save. Only the transformer's blocks are sharded: encoder,
router and predictor are not measured here.
"""

from __future__ import annotations

import datetime
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import spawn

from benchmarks.part import Part
from benchmarks.table import Result, Table
from hnet_vjepa.config import BackboneConfig
from hnet_vjepa.models.vjepa.vit import HNetViT
from hnet_vjepa.utils.collectives import lay_out

LENGTHS = (4096, 16384)  # chunks of a clip
WIDTH, DEPTH, HEADS = 192, 2, 3
LARGE = (1024, 24, 16)  # width, depth and heads of ViT-L
LARGE_LENGTH = 2048


def measure(work: Path) -> Part:
    """Peak memory per rank by length and ranks; with and without recomputation at the depth of ViT-L."""
    sizes = (WIDTH, DEPTH, HEADS)
    peaks = {f"{length}/{ranks}": peak(length, ranks, sizes, False) for length in LENGTHS for ranks in (1, 2)}
    peaks["recompute off"], peaks["recompute on"] = (peak(LARGE_LENGTH, 1, LARGE, again) for again in (False, True))
    metrics = {
        "context_parallel_peak_memory_ratio_2": round(peaks["16384/2"] / peaks["16384/1"], 3),
        "recompute_peak_memory_ratio": round(peaks["recompute on"] / peaks["recompute off"], 3),
    }
    settings = {"width": WIDTH, "depth": DEPTH, "heads": HEADS, "large": list(LARGE), "large_length": LARGE_LENGTH}
    return Part(settings, metrics, {"peak_mb": {name: round(value / 2**20) for name, value in peaks.items()}})


def peak(length: int, ranks: int, sizes: tuple[int, int, int], recompute: bool) -> float:
    """The largest peak of a rank in bytes, for forward and backward over a sequence of ``length`` chunks."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(_rank, (ranks, length, sizes, recompute, folder), nprocs=ranks)
        return max(float(path.read_text()) for path in Path(folder).glob("peak-*"))


def _rank(rank: int, ranks: int, length: int, sizes: tuple[int, int, int], recompute: bool, folder: str) -> None:
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    patience = datetime.timedelta(minutes=30)
    store = f"file://{folder}/store"
    dist.init_process_group("gloo", init_method=store, rank=rank, world_size=ranks, timeout=patience)
    lay_out(ranks)
    model = backbone(sizes, recompute)
    tokens = torch.randn(1, length, sizes[0], requires_grad=True)
    log_sizes = torch.rand(1, length, requires_grad=True) + 1
    mask = torch.zeros(1, length, dtype=torch.bool)
    before = memory("VmRSS")
    started = time.monotonic()
    model._contextualise(tokens, log_sizes, mask, 1, True).square().mean().backward()
    (Path(folder) / f"peak-{rank}").write_text(str(memory("VmHWM") - before))
    dist.barrier()
    dist.destroy_process_group()
    print(f"{length} chunks, rank {rank} of {ranks}: {time.monotonic() - started:.0f} s", flush=True)
    os._exit(0)


def backbone(sizes: tuple[int, int, int], recompute: bool) -> HNetViT:
    """A backbone whose transformer has this width, depth and number of heads."""
    width, depth, heads = sizes
    encoder: dict[str, Any] = {"widths": [width, width]}
    vit = {"depth": depth, "heads": heads, "recompute": recompute}
    return HNetViT(BackboneConfig.model_validate({"encoder": encoder, "vit": vit}))


def memory(name: str) -> int:
    """A field of this process's status in bytes: VmRSS is what it holds, VmHWM the most that it ever held."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{name}:"))) * 1024


def table(result: Result) -> Table:
    """Peak memory per rank by length and ranks."""
    peaks = result.parts["memory"]["peak_mb"]
    rows = [[*name.split("/"), f"{peaks[name]:,} MB"] for name in peaks if "/" in name]
    settings = result.parts["memory"]["settings"]
    width, depth, _ = settings["large"]
    note = (
        f"\nForward and backward of {settings['depth']} layers of width {settings['width']}. With recomputation, "
        f"{depth} layers of width {width} (ViT-L) over {settings['large_length']:,} chunks take "
        f"{peaks['recompute on']:,} MB in place of {peaks['recompute off']:,} MB.\n"
    )
    return Table(["chunks", "ranks", "peak memory of a rank"], rows, note, ("memory",))
