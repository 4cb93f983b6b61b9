"""Launching several ranks: the command and its environment (real runs: tests/trainers/test_parity.py)."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import main
from cli.launch import Launch, check_launch, surroundings, torchrun
from hnet_vjepa.errors import UserError
from tests import toy

ROOT = Path(__file__).resolve().parents[2]


def test_one_machine_needs_no_meeting_point() -> None:
    words = torchrun(Launch(nproc=2, max_restarts=3), ["--config", "mine.yaml"])
    assert words[:3] == [sys.executable, "-m", "torch.distributed.run"]
    assert {"--nproc-per-node=2", "--nnodes=1", "--standalone", "--max-restarts=3"} <= set(words)
    assert words[-5:] == ["-m", "cli", "train", "--config", "mine.yaml"]


def test_several_machines_meet_at_one_of_them() -> None:
    words = torchrun(Launch(nproc=8, nnodes=2, rdzv_endpoint="robot1:29500"), [])
    assert "--rdzv-endpoint=robot1:29500" in words and "--nnodes=2" in words and "--standalone" not in words


def test_cores_are_shared_out_and_restarts_have_a_store_of_their_own() -> None:
    assert surroundings(Launch(nproc=4), {}, cores=16)["OMP_NUM_THREADS"] == "4"
    assert surroundings(Launch(nproc=4), {}, cores=2)["OMP_NUM_THREADS"] == "1"
    assert surroundings(Launch(nproc=4), {"OMP_NUM_THREADS": "7"}, cores=16)["OMP_NUM_THREADS"] == "7"
    name = "TORCH_DISABLE_SHARE_RDZV_TCP_STORE"
    assert surroundings(Launch(2, max_restarts=1), {}, 2)[name] == "1" and name not in surroundings(Launch(2), {}, 2)


@pytest.mark.parametrize(
    ("launch", "environment", "words"),
    [
        (Launch(nproc=2), {"WORLD_SIZE": "2"}, "a rank of a launcher already"),
        (Launch(nnodes=2), {}, "--nnodes 2 needs --rdzv-endpoint HOST:PORT"),
        (Launch(nnodes=2, rdzv_endpoint="robot1"), {}, "--rdzv-endpoint robot1: write it as HOST:PORT"),
        (Launch(nnodes=2, rdzv_endpoint=":29500"), {}, "write it as HOST:PORT"),
    ],
)
def test_what_can_not_be_started_is_refused(launch: Launch, environment: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_launch(launch, environment)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["--use_deepspeed", "1", "--deepspeed_config", "z.json"], ["--deepspeed", "z.json"]),
        (["--deepspeed_config=z.json", "--use_deepspeed=1", "--data", "d"], ["--data", "d", "--deepspeed", "z.json"]),
        (["--use_deepspeed", "0", "--deepspeed_config", "z.json"], []),
        (["--use_deepspeed", "1"], ["--deepspeed", "deepspeed_zero2.json"]),
        (["--deepspeed_config", "z.json"], ["--deepspeed", "z.json"]),
    ],
)
def test_the_documents_deepspeed_options_are_translated(words: list[str], wanted: list[str]) -> None:
    assert main.arguments(words) == wanted


def test_the_documents_spelling_is_translated_and_a_launchers_options_are_dropped() -> None:
    words = ["--local_rank=1", "--work_dir", "out", "--sequence=pretrain", "--local_rank", "0", "--set", "seed=1"]
    assert main.arguments(words) == ["--work-dir", "out", "--phases=pretrain", "--set", "seed=1"]


def test_a_batch_that_the_ranks_can_not_share_is_refused_before_they_are_started(tmp_path: Path) -> None:
    config = tmp_path / "toy.yaml"
    config.write_text(yaml.safe_dump(toy.config(probe={"batch_size": 9}).model_dump(mode="json")))
    words = ["-m", "cli", "train", "--config", str(config), "--data", str(tmp_path), "--nproc", "2"]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.splitlines() == [
        "hnet: probe.batch_size = 9 can not be shared out among 2 ranks and 1 accumulation steps; "
        "it must be a multiple of 2"
    ]
