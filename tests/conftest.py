import os

# Tests run in several processes at once: threads that wait actively would slow all of them down.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch

from sims.core.rendering import backend
from tests import toy

torch.set_num_threads(1)
backend()  # once mujoco is imported, as some tests do by other packages, the choice of a renderer is made


@pytest.fixture(scope="session")
def toy_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty episodes of the toy robot."""
    return toy.make_store(tmp_path_factory.mktemp("toy") / "store")


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory, toy_store: Path) -> Path:
    """A work directory in which all four phases were trained for a few steps."""
    from hnet_vjepa.pipeline import run_pipeline

    work_dir = tmp_path_factory.mktemp("run")
    run_pipeline(toy.config(), toy_store, work_dir, progress=False)
    return work_dir
