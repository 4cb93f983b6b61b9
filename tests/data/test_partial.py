"""A kill during an import costs a few seconds of work, and the rerun writes the same bytes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from hnet_vjepa.data.importers.partial import PartialShard
from tests.data.test_importers import MadeSource, directory_hash, quiet
from tests.data.test_store import same

ROOT = Path(__file__).resolve().parents[2]
SLOW = """
import sys, time
from pathlib import Path
from hnet_vjepa.data.importers import partial
from hnet_vjepa.data.importers.base import write_store
from tests.data.test_importers import MadeSource

class Slow(MadeSource):
    def decode(self, indices):
        for episode in super().decode(indices):
            time.sleep(0.04)
            with open(sys.argv[2], "a") as log:
                log.write(f"{episode.index}\\n")
            yield episode

partial.EVERY = 0.1
write_store(Slow(60), Path(sys.argv[1]), progress=False)
"""


@pytest.mark.slow
def test_killed_three_times(tmp_path: Path) -> None:
    """One shard holds all 60 episodes, so without what is kept every start would begin at the first."""
    out, log = tmp_path / "store", tmp_path / "log"
    expected = directory_hash(quiet(MadeSource(60), tmp_path / "whole").path)
    command = [sys.executable, "-c", SLOW, str(out), str(log)]
    for kill in range(3):
        log.write_text("")
        process = subprocess.Popen(command, cwd=ROOT)
        while process.poll() is None and len(log.read_text().splitlines()) < 14:
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        kept = PartialShard(out).indices()
        assert len(kept) >= 10 * (kill + 1) and not (out / "shards").exists()
        if kill:
            assert int(log.read_text().splitlines()[0]) >= 10 * kill
    (out / ".partial" / "0.npz").write_bytes(b"cut")  # a power cut; the episode is decoded again
    subprocess.run(command, cwd=ROOT, check=True)
    assert not (out / ".partial").exists() and directory_hash(out) == expected


def test_what_is_kept_is_what_was_decoded(tmp_path: Path) -> None:
    now = [0.0]
    partial = PartialShard(tmp_path, lambda: now[0])
    made = MadeSource(4).made
    for seconds, episode in zip((1.0, 2.5, 3.0, 9.0), made, strict=True):
        now[0] = seconds
        partial.add(episode)
        assert len(partial.indices()) == {1.0: 0, 2.5: 2, 3.0: 2, 9.0: 4}[seconds]
    assert all(same(partial.load(episode.index), episode) for episode in made)
    assert partial.load(2).frames.dtype == np.uint8
    partial.clear([0, 1])
    assert partial.indices() == {2, 3}
    partial.clear(range(4))
    assert partial.indices() == set() and not (tmp_path / ".partial").exists()
