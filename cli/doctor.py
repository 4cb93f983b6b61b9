"""``hnet doctor``: what works on this machine, and what to do where it does not."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.table import Table

TRY_S = 12.0  # time limit of one trial program; all run in parallel
GIB = 2**30
RANKS_HELP = "several ranks: docs/distributed_training.md"
SLOW_HELP = "slow, not broken: run 'hnet doctor' again when the machine is idle"

# Imports run in a process of their own, so that a crash or a hang does not end the doctor.
TRY_TORCH = """
import json, torch
cpu = torch.backends.cpu.get_cpu_capability()
cuda = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
print(json.dumps({"version": torch.__version__, "threads": torch.get_num_threads(), "cpu": cpu, "cuda": cuda,
                  "built_for_cuda": torch.version.cuda}))
"""


@dataclass(frozen=True)
class Finding:
    """One row: ``ok``, ``note`` (hnet works all the same) or ``fail`` (it does not), what was found, what to do."""

    name: str
    status: Literal["ok", "note", "fail"]
    found: str
    advice: str = ""


@dataclass(frozen=True)
class Trial:
    """The end of a trial program, and what it printed: all of it where it is ok, else the reason in one line."""

    end: Literal["ok", "failed", "slow"]
    output: str


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Check what works on this machine and print what to do where it does not.

    Exit status 1 when something is missing that hnet needs.
    """
    findings = examine()
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        Console(width=None if sys.stdout.isatty() else 120).print(_table(findings))
    if any(finding.status == "fail" for finding in findings):
        raise typer.Exit(1)


def examine() -> list[Finding]:
    """Run all checks in parallel and return their findings in a fixed order. Raises nothing."""
    checks: dict[str, Callable[[], list[Finding]]] = {
        "python": _python,
        "torch": _torch,
        "rendering": _rendering,
        "mujoco": _mujoco,
        "torch-geometric": _torch_geometric,
        "deepspeed": _deepspeed,
        "port 8000": _port,
        "disk": _disk,
        "memory": _memory,
    }
    with ThreadPoolExecutor(len(checks)) as pool:
        pending = {name: pool.submit(check) for name, check in checks.items()}
        findings: list[Finding] = []
        for name, future in pending.items():
            try:
                findings += future.result()
            except Exception as error:  # a check that fails unexpectedly is reported too
                findings.append(Finding(name, "note", f"could not be checked: {type(error).__name__}: {error}"))
    return findings


def _table(findings: list[Finding]) -> Table:
    table = Table(show_edge=False, pad_edge=False)
    for column in ("what", "", "found", "what to do"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        table.add_row(finding.name, finding.status, finding.found, finding.advice)
    return table


def _run(code: str, **environment: str) -> Trial:
    """Run Python code in a process of its own, for at most TRY_S seconds."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TRY_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return Trial("slow", f"no answer within {TRY_S:g} s")
    if done.returncode == 0:
        return Trial("ok", done.stdout.strip())
    lines = done.stderr.strip().splitlines()
    return Trial("failed", lines[-1][:200] if lines else f"ended with status {done.returncode}")


def _not_ok(name: str, trial: Trial, advice: str, found: str = "") -> Finding:
    """The finding of an essential that failed (with ``advice``), or only gave no answer in time: a note."""
    if trial.end == "slow":
        return Finding(name, "note", f"{found}{trial.output}", SLOW_HELP)
    return Finding(name, "fail", f"{found}{trial.output}", advice)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _python() -> list[Finding]:
    # pip refuses to install hnet on an older version, so there is nothing to compare.
    return [Finding("python", "ok", f"{platform.python_version()}, {os.cpu_count()} cores")]


def _torch() -> list[Finding]:
    trial = _run(TRY_TORCH)
    if trial.end != "ok":
        return [_not_ok("torch", trial, "install hnet again: pip install -e .")]
    about = json.loads(trial.output.splitlines()[-1])
    findings = [Finding("torch", "ok", f"{about['version']}, {about['threads']} threads, {about['cpu']}")]
    bf16 = sorted({"amx_bf16", "avx512_bf16", "bf16"} & _cpu_flags())
    if bf16:
        findings.append(Finding("bf16 on the CPU", "ok", ", ".join(bf16)))
    else:
        advice = "train and serve in float32 here; bf16 would be emulated and slower"
        findings.append(Finding("bf16 on the CPU", "note", "no instructions for it", advice))
    if about["cuda"]:
        findings.append(Finding("CUDA", "ok", ", ".join(about["cuda"])))
    else:
        found = "no device" if about["built_for_cuda"] else "torch is built for the CPU"
        findings.append(Finding("CUDA", "note", found, "not needed: the presets are sized for a CPU"))
    return findings


def _cpu_flags() -> set[str]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return set()
    lines = [line for line in text.splitlines() if line.startswith(("flags", "Features"))]
    return set(lines[0].partition(":")[2].split()) if lines else set()


def _rendering() -> list[Finding]:
    code = "from sims.core.rendering import backend; backend(); import mujoco; mujoco.mj_multiRay"
    backends = ("egl", "osmesa", "raycast")
    with ThreadPoolExecutor(len(backends)) as pool:
        trials = dict(zip(backends, pool.map(lambda name: _run(code, HNET_RENDER=name), backends), strict=True))
    working = [name for name in backends if trials[name].end == "ok"]
    slow = [name for name in backends if trials[name].end == "slow"]
    if not working:
        worst = trials[slow[0]] if slow else trials["raycast"]
        return [_not_ok("rendering", worst, "mujoco is missing or broken: pip install -e .")]
    found = f"{working[0]} (of {', '.join(backends)}: {', '.join(working)} work)"
    if slow:
        return [Finding("rendering", "note", f"{found}; {', '.join(slow)}: {trials[slow[0]].output}", SLOW_HELP)]
    if working == ["raycast"]:
        advice = "works, with plain shading; for MuJoCo's own renderer: apt-get install libegl1 libgl1"
        return [Finding("rendering", "note", found, advice)]
    return [Finding("rendering", "ok", found)]


def _mujoco() -> list[Finding]:
    version = _version("mujoco")
    if version is None:
        return [Finding("mujoco", "fail", "not installed", "pip install -e .")]
    if int(version.split(".")[0]) >= 4:
        return [Finding("mujoco", "fail", version, "4.0 breaks the Fetch robots: pip install 'mujoco>=3.3,<3.9'")]
    trial = _run("import mujoco", MUJOCO_GL="disable")
    if trial.end != "ok":
        return [_not_ok("mujoco", trial, "install it again: pip install -e .", f"{version}; ")]
    return [Finding("mujoco", "ok", version)]


def _torch_geometric() -> list[Finding]:
    version = _version("torch-geometric")
    if version is None:
        return [Finding("torch-geometric", "fail", "not installed", "pip install -e .")]
    return [Finding("torch-geometric", "ok", version)]


def _deepspeed() -> list[Finding]:
    """Only 'hnet train --deepspeed FILE' uses DeepSpeed, so nothing here is more than a note."""
    version = _version("deepspeed")
    if version is None:
        return [
            Finding("DeepSpeed", "note", "not installed", f"needed by 'hnet train --deepspeed' alone; {RANKS_HELP}")
        ]
    advice = f"'hnet train --deepspeed deepspeed_zero2.json' uses it; {RANKS_HELP}"
    trial = _run("import deepspeed", DS_ACCELERATOR="cpu")
    if trial.end != "ok":
        return [Finding("DeepSpeed", "note", f"{version}, but its import: {trial.output}", advice)]
    return [Finding("DeepSpeed", "ok", f"{version}; training compiles nothing", advice)]


def _port() -> list[Finding]:
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", 8000))
        except OSError as error:
            return [
                Finding("port 8000", "note", error.strerror or str(error), "'hnet serve --port 0' takes a free port")
            ]
    return [Finding("port 8000", "ok", "free")]


def _disk() -> list[Finding]:
    here = Path.cwd()
    free = shutil.disk_usage(here).free
    findings = [
        Finding("disk", "ok", f"{free / GIB:.1f} GiB free")
        if free >= 5 * GIB
        else Finding("disk", "note", f"{free / GIB:.1f} GiB free", "data and checkpoints of the demo take up to 5 GiB")
    ]
    for name, folder in (("write here", here), ("write temporary files", Path(tempfile.gettempdir()))):
        try:
            with tempfile.TemporaryFile(dir=folder) as stream:
                stream.write(b"x")
            findings.append(Finding(name, "ok", str(folder)))
        except OSError as error:
            findings.append(Finding(name, "fail", f"{folder}: {error.strerror}", "change to a folder you may write to"))
    return findings


def _memory() -> list[Finding]:
    available = _available_memory()
    if available is None:
        return [Finding("memory", "note", "unknown on this system")]
    found = f"{available / GIB:.1f} GiB available"
    if available < 4 * GIB:
        return [Finding("memory", "note", found, "training the small preset takes up to 4 GiB; lower the batch size")]
    return [Finding("memory", "ok", found)]


def _available_memory() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    values = {line.partition(":")[0]: line.partition(":")[2].split() for line in lines}
    if "MemAvailable" not in values:
        return None
    available = int(values["MemAvailable"][0]) * 1024
    # In a container the control group's limit counts, not the machine's memory.
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text())
        used = int(Path("/sys/fs/cgroup/memory.current").read_text())
    except (OSError, ValueError):  # no such file, or the word "max"
        return available
    return min(available, max(limit - used, 0))
