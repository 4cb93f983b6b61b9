"""``hnet serve`` as a process of its own, for benchmarks that send requests to it."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from planner_service.client import PlannerClient


@contextlib.contextmanager
def serving(checkpoint: Path, log: Path) -> Iterator[str]:
    """Run ``hnet serve`` on a free port while the block runs; yields its URL. Its output goes to ``log``.

    Exits with the reason when the service stops or is not ready within a minute.
    """
    words = [sys.executable, "-m", "cli", "serve", "--checkpoint", str(checkpoint), "--port", "0"]
    print(f"\n$ hnet {' '.join(words[3:])}", flush=True)
    with log.open("w") as stream:
        process = subprocess.Popen(words, stdout=stream, stderr=subprocess.STDOUT)
    try:
        for _ in range(600):
            found = re.search(r"listening on (http://\S+)", log.read_text())
            if found:
                with PlannerClient(found.group(1)) as client:
                    client.wait_until_ready(60)
                yield found.group(1)
                break
            if process.poll() is not None:
                sys.exit(f"the service stopped: {log.read_text().strip()}")
            time.sleep(0.1)
        else:
            sys.exit(f"the service did not start within a minute; its log is {log}")
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
