"""``hnet data``: what it prints, and one line with exit status 2 for what the user can put right."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cli.main import run
from hnet_vjepa.data.store import EpisodeStore
from tests.data.recordings import lerobot_v21
from tests.data.test_folder import record
from tests.data.test_rlds import episode, write
from tests.data.test_store import make_info, make_store

ROOT = Path(__file__).resolve().parents[2]


class Hnet:
    """Runs a command line in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.monkeypatch, self.capsys = monkeypatch, capsys

    def __call__(self, *arguments: object) -> tuple[int, str, str]:
        self.monkeypatch.setattr(sys, "argv", ["hnet", *map(str, arguments)])
        try:
            run()
            status = 0
        except SystemExit as stop:
            status = int(stop.code or 0)
        out, err = self.capsys.readouterr()
        return status, out, err

    def refuses(self, *arguments: object) -> str:
        status, out, err = self(*arguments)
        lines = [line for line in err.splitlines() if line.startswith("hnet: ")]
        assert (status, out, len(lines)) == (2, "", 1), err
        assert err.splitlines()[-1] == lines[0]  # before it at most a progress bar
        assert "Traceback" not in err
        return lines[0]


@pytest.fixture
def hnet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Hnet:
    return Hnet(monkeypatch, capsys)


def test_import_rlds(tmp_path: Path, hnet: Hnet) -> None:
    source = write(tmp_path / "a.tfrecord", [episode(n, 3) for n in range(2)])
    status, out, _ = hnet("data", "import", "rlds", source, tmp_path / "store", "--size", "8x12", "--dt", "0.1")
    assert (status, out) == (0, f"imported 2 episodes, 6 frames into {tmp_path / 'store'}\n")
    camera = EpisodeStore(tmp_path / "store").info.camera
    assert (camera.height, camera.width, camera.dt) == (8, 12, 0.1)


def test_import_folder(tmp_path: Path, hnet: Hnet) -> None:
    record(tmp_path / "in")
    command = ("data", "import", "folder", tmp_path / "in", tmp_path / "store", "--size", "12x16", "--dt", "0.2")
    status, out, err = hnet(*command)
    assert (status, out) == (0, f"imported 1 episodes, 5 frames into {tmp_path / 'store'}\n")
    assert "note: no robot.json" in err
    assert EpisodeStore(tmp_path / "store").episodes[0].frames.shape[1:] == (12, 16, 3)
    assert hnet(*command)[0] == 0  # again: nothing to do, no error


def test_info(tmp_path: Path, hnet: Hnet) -> None:
    make_store(tmp_path / "store", make_info(3), per_shard=4)
    status, out, err = hnet("data", "info", tmp_path / "store", "--sheet", tmp_path / "sheet.png", "--verify")
    assert status == 0 and f"wrote {tmp_path / 'sheet.png'}" in err
    assert "verified" in out and "every file matches its hash" in out
    assert "verified" not in hnet("data", "info", tmp_path / "store")[1]
    assert json.loads(hnet("data", "info", tmp_path / "store", "--verify", "--json")[1])["verified"] is True
    fingerprint = EpisodeStore(tmp_path / "store").fingerprint()
    for expected in (
        "11 train, 1 held out",
        "60 (5 to 5 per episode)",
        "6 x 8 pixels",
        "y (inactive)",
        "to the left",
        fingerprint,
    ):
        assert expected in out
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width == 5 * (8 * 11 + 2) and sheet.height == 8 * (6 * 11 + 16)  # frames enlarged to 64 pixels
    status, out, _ = hnet("data", "info", tmp_path / "store", "--json")
    described = json.loads(out)
    assert described["fingerprint"] == fingerprint and described["verified"] is False
    assert [column["name"] for column in described["actions"]] == ["x", "y", "z"]
    assert described["bytes"] > 60 * 6 * 8 * 3


def test_text_that_the_terminal_cannot_show_is_escaped(tmp_path: Path) -> None:
    """Names, captions and paths are users' text; a terminal may be ASCII only."""
    root = tmp_path / "robot 🤖"
    record(root, captions="pick the 🥕 [red] up\n", labels="grüßt\n1\n", states=None)
    store = tmp_path / "store"
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    for words, expected in (
        (["import", "folder", root, root.with_name("🤖"), "--dt", "0.1"], r"into .*\\U0001f916"),
        (["import", "folder", root, store, "--dt", "0.1"], "imported 1 episodes"),
        (["info", store, "--sheet", tmp_path / "sheet.png"], r"pick the \\U0001f955 \[red\] up"),
        (["info", store, "--json"], r"pick the \\ud83e\\udd55 \[red\] up"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "cli", "data", *map(str, words)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        assert re.search(expected, done.stdout.replace("\n", "")), done.stdout
        assert "Traceback" not in done.stderr
    assert (tmp_path / "sheet.png").is_file()


def test_info_says_when_nothing_is_held_out(tmp_path: Path, hnet: Hnet) -> None:
    make_store(tmp_path / "store", make_info(1, states=0, labels=0))
    out = " ".join(hnet("data", "info", tmp_path / "store")[1].split())
    assert "3 train, 0 held out; fewer than 10 episodes, so none is held out" in out


def test_bad_input_is_one_line_and_status_2(tmp_path: Path, hnet: Hnet) -> None:
    store, out = tmp_path / "store", tmp_path / "out"
    make_store(store, make_info(1))
    source = write(tmp_path / "a.tfrecord", [episode(0, 3)])
    record(tmp_path / "in")
    record(tmp_path / "bad", actions="x,y\n1,nan\n")
    cut = tmp_path / "cut.tfrecord"
    cut.write_bytes(source.read_bytes()[:-9])
    for complaint, *command in (
        ("is not a data set", "info", tmp_path / "nowhere"),
        ("must end in .png", "info", store, "--sheet", "sheet.gif"),
        ("cannot write .*is a file", "info", store, "--sheet", source / "sheet.png"),
        ("does not exist", "import", "rlds", tmp_path / "nowhere", out),
        ("is cut short", "import", "rlds", cut, out),
        ("unknown camera 'left'", "import", "rlds", source, out, "--camera", "left"),
        ("give 64 for a square", "import", "rlds", source, out, "--size", "huge"),
        ("dt: Input should be greater", "import", "rlds", source, out, "--dt", "-1"),
        ("holds other episodes", "import", "rlds", source, store),
        ("is not empty", "import", "rlds", source, tmp_path),
        ("is a file", "import", "rlds", source, source),
        ("is not a directory", "import", "folder", source, out, "--dt", "1"),
        ("'nan' is not a finite number", "import", "folder", tmp_path / "bad", out, "--dt", "1"),
        ("give 64 for a square", "import", "folder", tmp_path / "in", out, "--dt", "1", "--size", "0"),
        ("no recording named 'left'", "import", "folder", tmp_path / "in", out, "--dt", "1", "--camera", "left"),
        ("dt: Input should be a finite", "import", "folder", tmp_path / "in", out, "--dt", "inf"),
    ):
        assert re.search(complaint, hnet.refuses("data", *command))
    assert not out.exists()


def test_missing_dt_is_asked_for(tmp_path: Path, hnet: Hnet) -> None:
    status, _, err = hnet("data", "import", "folder", tmp_path, tmp_path / "out")
    assert status == 2 and "--dt" in err


def test_import_and_export_lerobot(tmp_path: Path, hnet: Hnet) -> None:
    root = lerobot_v21(tmp_path / "in", {n: np.arange(21) / 20 + 0.01 * n for n in range(2)}, fps=20)
    words = ["--size", "32x48", "--dt", "0.1", "--actions", "differences", "--camera", "front"]
    status, out, err = hnet("data", "import", "lerobot", root, tmp_path / "store", *words)
    assert (status, out) == (0, f"imported 2 episodes, 22 frames into {tmp_path / 'store'}\n"), err
    store = EpisodeStore(tmp_path / "store")
    assert (store.info.camera.height, store.info.camera.width, store.info.camera.dt) == (32, 48, 0.1)
    assert store.info.settings["actions"] == "differences"
    status, out, _ = hnet("data", "export", "lerobot", tmp_path / "store", tmp_path / "out")
    assert (status, out) == (0, f"wrote 2 episodes into {tmp_path / 'out'}\n")
    assert "exists; name a new directory" in hnet.refuses("data", "export", "lerobot", tmp_path / "store", root)
    assert "has no meta/info.json" in hnet.refuses("data", "import", "lerobot", tmp_path, tmp_path / "other")
    assert "unknown camera 'back'" in hnet.refuses(
        "data", "import", "lerobot", root, tmp_path / "other", "--camera", "back"
    )
