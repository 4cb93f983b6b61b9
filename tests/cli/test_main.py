"""``python main.py`` is another spelling of ``hnet train``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests import toy

ROOT = Path(__file__).resolve().parents[2]


def main(folder: Path, *words: str, isolated: bool = False) -> subprocess.CompletedProcess[str]:
    options = ["-S"] if isolated else []  # -S: without the packages that were installed
    command = [sys.executable, *options, str(ROOT / "main.py"), *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_it_says_how_to_make_the_episodes(tmp_path: Path) -> None:
    done = main(tmp_path, "--work_dir", "outputs", "--sequence", "pretrain,language,probe,action")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("hnet: there are no episodes in data/fetch-reach; 'hnet data collect' records some")


def test_it_trains(tmp_path: Path, toy_store: Path) -> None:
    few = [f"{part}.{field}" for part in ("action", "heads") for field in ("steps=1", "batch_size=2", "clip_frames=3")]
    settings = [word for setting in few for word in ("--set", setting)]
    done = main(tmp_path, "--work_dir=out", "--sequence", "action", "--data", str(toy_store), *settings)
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith("checkpoint: out/action\n")
    assert (tmp_path / "out" / "action" / "manifest.json").is_file()
    assert [p.name for p in tmp_path.iterdir()] == ["out"]


def test_everything_else_is_train_s_own(tmp_path: Path) -> None:
    done = main(tmp_path, "--help")
    assert done.returncode == 0 and "--work-dir" in done.stdout and "--phases" in done.stdout
    done = main(tmp_path, "--work_dir", "outputs", "--sequence", "fly")
    assert done.returncode == 2 and "unknown phase 'fly'; choose one of: pretrain" in done.stderr


def test_it_says_how_to_install(tmp_path: Path) -> None:
    done = main(tmp_path, isolated=True)
    assert done.returncode == 2
    assert done.stderr.startswith("main.py: ") and done.stderr.endswith("pip install -r requirements.txt\n")
    assert done.stderr.count("\n") == 1


def test_requirements_are_the_package_s_own() -> None:
    lines = [line for line in (ROOT / "requirements.txt").read_text().splitlines() if line and line[0] != "#"]
    assert lines == ["--constraint constraints.txt", "torch", "--editable .[deepspeed,dev]"]
    assert toy.SHAPE  # the tests' own helpers are found by plain 'pytest' too
