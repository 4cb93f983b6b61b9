"""Bad input at the command line: one clear line, exit status 2, nothing lost."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

import cli.main
from hnet_vjepa.errors import UserError
from tests import toy

ROOT = Path(__file__).resolve().parents[2]


def refused(*words: str) -> str:
    """The one line that a command is refused with."""
    result = CliRunner().invoke(cli.main.app, list(words))
    assert isinstance(result.exception, UserError), (result.output, result.exception)
    assert "\n" not in str(result.exception)
    return str(result.exception)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--phases", "fly"], "unknown phase 'fly'; choose one of: pretrain, language, probe, action"),
        (["--config", "nope"], "unknown config 'nope'; choose one of: bridge, "),
        (["--set", "action.stepz=3"], "unknown field action.stepz; allowed there: steps,"),
        (["--set", "action.steps"], "write it as field=value"),
        (["--set", "action.steps=[1"], "--set action.steps=[1: the value of action.steps is not YAML"),
        (["--set", "seed=-1"], "seed = -1: Input should be greater than or equal to 0"),
        (
            ["--set", "model.predictor.heads=3"],
            "model.predictor.heads = 3: must divide width (64); choose one of: 1, 2",
        ),
        (["--set", "pretrain.mask_ratio=2"], "pretrain.mask_ratio = 2: Input should be less than 1"),
        (["--init-from", "nowhere"], "nowhere is not a checkpoint"),
        (["--set", "action.clip_frames=50"], "the longest of 20 episodes has 12"),
    ],
)
def test_train_refuses(words: list[str], says: str, toy_store: Path, tmp_path: Path) -> None:
    assert says in refused("train", "--data", str(toy_store), "--work-dir", str(tmp_path / "work"), *words)


def test_train_refuses_data_that_is_none(tmp_path: Path) -> None:
    assert "is not a data set" in refused("train", "--data", str(tmp_path), "--work-dir", str(tmp_path / "work"))


def test_train_finds_what_collect_made(toy_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collect, train = (typer.main.get_command(cli.main.app).commands[name] for name in ("data", "train"))  # type: ignore[attr-defined]
    written = next(option for option in collect.commands["collect"].params if option.name == "out")
    read = next(option for option in train.params if option.name == "data")
    assert written.default == read.default
    monkeypatch.chdir(tmp_path)
    words = ["train", "--phases", "pretrain,language,probe,action", "--config", "fetch_reach", "--work-dir", "outputs"]
    says = "there are no episodes in data/fetch-reach; 'hnet data collect' records some, or name yours with --data"
    assert refused(*words) == says
    assert not Path("outputs").exists()
    Path("data").mkdir()
    shutil.copytree(toy_store, read.default)
    assert "the longest of 20 episodes has 12" in refused(*words, "--set", "pretrain.clip_frames=50")


def test_train_refuses_too_few_episodes_before_it_starts(tmp_path: Path) -> None:
    few = toy.make_store(tmp_path / "few", episodes=4)
    assert "none of its 4 episodes is held-out" in refused(
        "train", "--data", str(few), "--work-dir", str(tmp_path / "w")
    )


def test_evaluate_and_collect_refuse(tmp_path: Path, toy_run: Path) -> None:
    assert "unknown task 'walk'" in refused("evaluate", "--task", "walk", "--checkpoint", str(tmp_path))
    assert "unknown task 'walk'" in refused("data", "collect", "--task", "walk", "--out", str(tmp_path / "x"))
    assert refused("evaluate").startswith("give --url, for a running service, --checkpoint, ")
    assert "is not a checkpoint" in refused("evaluate", "--checkpoint", str(tmp_path))
    assert "32 x 40 pictures; fetch-reach gives 64 x 64" in refused(
        "evaluate", "--task", "fetch-reach", "--checkpoint", str(toy_run / "action")
    )
    assert "was trained on 'toy', which is not a simulated task; give --task" in refused(
        "evaluate", "--checkpoint", str(toy_run / "action")
    )
    assert "no checkpoint directory" in refused("serve", "--checkpoint", str(tmp_path / "none"))


def test_the_process_prints_one_line_and_exits_with_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "cli", "data", "info", str(tmp_path / "none")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("hnet: ") and done.stderr.count("\n") == 1
