"""Recordings that are right but for one thing: the checks name it, by episode and row, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from typer.testing import CliRunner

from cli.main import app
from hnet_vjepa.data.checks.finding import Finding, longest_run, store_recordings
from hnet_vjepa.data.checks.run import check
from hnet_vjepa.data.importers.base import Skipped
from hnet_vjepa.data.importers.pictures import ArrayPictures, VideoPictures
from hnet_vjepa.data.importers.registry import format_named
from hnet_vjepa.data.importers.tracks import ImportOptions, Recordings, Track
from hnet_vjepa.data.store import EpisodeStore
from hnet_vjepa.errors import UserError
from tests.data.recordings import clock_video, lerobot_v21, real

T, EPISODES = 60, 6


def motion(seed: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Changes T x 3 (x, y, gripper) and the state T x 3 that they lead to; the gripper's command is its opening."""
    rng = np.random.default_rng(seed)
    changes = np.clip(rng.normal(0, 0.02, (T, 2)) + 0.01 * np.sin(np.arange(T) / 9 + seed)[:, None], -0.05, 0.05)
    place = np.concatenate([np.zeros((1, 2)), np.cumsum(changes, 0)[:-1]])
    opening = (np.sin(np.arange(T) / 7 + seed) > 0).astype(float)
    state = np.concatenate([place, np.roll(opening, 1)[:, None]], 1)
    return np.concatenate([changes, opening[:, None]], 1).astype(np.float32), state.astype(np.float32)


def shown(states: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Pictures of a soft spot where the state says: T x 32 x 32 x 3."""
    rows, columns = np.mgrid[:32, :32]
    place = 16 + 60 * states[:, :2]
    away = (rows - place[:, 1, None, None]) ** 2 + (columns - place[:, 0, None, None]) ** 2
    return np.repeat((30 + 200 * np.exp(-away / 30)).astype(np.uint8)[..., None], 3, -1)


def track(number: int, **changed: Any) -> Track:
    actions, states = motion(number)
    frames = changed.pop("frames", shown(states))
    told: dict[str, Any] = {"times": np.arange(T) / 10, "actions": actions, "states": states, "captions": ((),) * T}
    pictures = ArrayPictures(T, lambda rows: frames[np.asarray(rows)])
    return Track(where=f"episode {number}", number=number, **{"pictures": pictures, **told, **changed})


def recordings(*odd: Track, **changed: Any) -> Recordings:
    others = {t.number: t for t in odd}
    told: dict[str, Any] = {"action_units": ("m", "m", "fraction"), "state_names": ("x [m]", "y [m]", "gripper")}
    return Recordings(
        format="made",
        camera="a",
        tracks=[others.get(n, track(n)) for n in range(EPISODES)],
        files=(),
        root=Path("made"),
        action_names=("x", "y", "gripper"),
        absolute=(2,),
        **{**told, **changed},
    )


def found(made: Recordings) -> list[Finding]:
    return check(made, progress=False)


def test_nothing_is_found_in_good_recordings() -> None:
    assert found(recordings()) == []


def edited(number: int, edit: Callable[[dict[str, Any]], None], frames: NDArray[np.uint8] | None = None) -> Track:
    """Episode ``number`` with its tables changed."""
    actions, states = motion(number)
    tables: dict[str, Any] = {"times": np.arange(T) / 10, "actions": actions, "states": states}
    edit(tables)
    return track(number, **tables, **({} if frames is None else {"frames": frames}))


def put(name: str, where: Any, value: Any) -> Callable[[dict[str, Any]], None]:
    def edit(tables: dict[str, Any]) -> None:
        tables[name][where] = value

    return edit


def add(start: int, seconds: float) -> Callable[[dict[str, Any]], None]:
    def edit(tables: dict[str, Any]) -> None:
        tables["times"][start:] += seconds

    return edit


def repeat(start: int, count: int) -> Callable[[dict[str, Any]], None]:
    def edit(tables: dict[str, Any]) -> None:
        for name in ("actions", "states"):
            tables[name][start + 1 : start + 1 + count : 2] = tables[name][start : start + count : 2]

    return edit


def stop(start: int, end: int) -> Callable[[dict[str, Any]], None]:
    def edit(tables: dict[str, Any]) -> None:
        tables["states"][start:] += tables["states"][start] - tables["states"][end - 1]
        tables["states"][start:end] = tables["states"][start]
        tables["actions"][start:end, :2] = 0
        tables["actions"][start:end, 2] = 0

    return edit


@pytest.mark.parametrize(
    ("odd", "says"),
    [
        (edited(2, put("actions", (7, 1), np.nan)), "error: not a number: episode 2: row 7: action y is nan"),
        (edited(2, put("states", (3, 0), np.inf)), "error: not a number: episode 2: row 3: state x [m] is inf"),
        (edited(4, put("actions", (9, 0), 1e6)), "error: outlier: episode 4: row 9, x is 1e+06 (expected within"),
        (edited(1, add(30, 2.0)), "warning: time: episode 1: row 30: 2.1 s after the row before (usual 0.1 s)"),
        (edited(1, put("times", 20, 1.85)), "error: time: episode 1: row 20: time goes back by 0.05 s"),
        (edited(1, put("times", 20, 1.9)), "error: time: episode 1: row 20: 1 rows have the time of the row before"),
        (edited(3, repeat(10, 20)), "warning: repeated row: episode 3: row 11: 10 of 60 rows repeat the numbers"),
        (edited(5, stop(20, 45)), "warning: idle: episode 5: row 2"),
        (track(3, frames=np.full((T, 32, 32, 3), 9, np.uint8)), "error: video: episode 3: every picture is of one col"),
        (
            edited(3, lambda tables: None, shown(motion(3)[1])[np.r_[0:20, [20] * 15, 35:T]]),
            "error: video: episode 3: row 20: 14 equal pictures in a row while the robot moves",
        ),
        (
            edited(4, put("actions", (slice(None), 2), 1 - motion(4)[0][:, 2])),
            "error: gripper: episode 4: gripper moves the gripper the other way in 1 episodes",
        ),
        (
            edited(4, put("actions", (slice(None), 2), 2 * motion(4)[0][:, 2] - 1)),
            "warning: gripper: episode 4: gripper has another range in 1 episodes",
        ),
    ],
)
def test_one_fault_is_named(odd: Track, says: str) -> None:
    findings = [str(finding) for finding in found(recordings(odd))]
    assert any(finding.startswith(says) for finding in findings), findings
    assert {f.split(": ")[1] for f in findings} <= {says.split(": ")[1], "time", "idle"}, findings


def shifted(rows: int, name: str) -> list[Track]:
    """Every episode's actions, or its pictures, that many rows later than they happened."""
    odd = []
    for number in range(EPISODES):
        actions, states = motion(number)
        late = np.clip(np.arange(T) - rows, 0, T - 1)
        changed = {"actions": actions[late]} if name == "actions" else {"frames": shown(states)[late]}
        odd.append(track(number, **changed))
    return odd


@pytest.mark.parametrize("rows", [-2, -1, 1, 3])
def test_actions_off_by_rows(rows: int) -> None:
    says = [str(f) for f in found(recordings(*shifted(rows, "actions"))) if f.kind == "lag"]
    which = "later" if rows < 0 else "earlier"
    assert len(says) == 1 and f"fit the states best {abs(rows)} rows {which}" in says[0], says


def test_a_camera_that_lags() -> None:
    says = [str(f) for f in found(recordings(*shifted(2, "frames"))) if f.kind == "lag"]
    assert len(says) == 1 and "motion in the pictures fits the robot's best 2 rows later" in says[0], says


def test_columns_units_and_statistics() -> None:
    everywhere = [edited(n, put("actions", (slice(None), 1), 1.569)) for n in range(EPISODES)]
    assert any("action y is always 1.569" in str(f) for f in found(recordings(*everywhere)))
    rng = np.random.default_rng(0)
    wiggle = [edited(n, put("actions", (slice(None), 1), 1.569 + rng.normal(0, 1e-5, T))) for n in range(EPISODES)]
    assert any("nearly constant: action y is 1.569" in str(f) for f in found(recordings(*wiggle)))
    scaled = [[table * [scale, scale, 1] for table, scale in zip(motion(n), (50, 1000), strict=True)] for n in range(6)]
    large = [track(n, actions=actions, states=states) for n, (actions, states) in enumerate(scaled)]
    says = [str(f) for f in found(recordings(*large)) if f.kind == "unit"]
    assert "action x [m] reaches" in says[0] and any("state x [m] reaches" in s and "or mm?" in s for s in says)
    stated = {"action": {"min": [-0.05] * 3, "max": [0.05, 0.05, 1], "mean": [0, 0.2, 0.5], "std": [0.02, 0.02, 0.9]}}
    says = [str(f) for f in found(recordings(stated=stated))]
    assert says == [
        "error: statistics: stated action y: mean 0.2 outside -0.05 to 0.05",
        "error: statistics: stated action gripper: deviation 0.9, but all values within -0.05 to 1",
    ]


def test_episodes_that_are_missing_short_or_copies(tmp_path: Path) -> None:
    made = recordings(skipped=[Skipped("episode 9", "no video a.mp4")])
    short = [replace(made.tracks[0].rows(np.arange(4)), number=1, where="episode 1")]
    copy = [replace(made.tracks[5], where="episode 7")]
    clock_video(tmp_path / "a.mp4", np.arange(T) / 10)
    cut = (tmp_path / "a.mp4").read_bytes()
    gone = track(4, pictures=VideoPictures(tmp_path / "a.mp4", np.arange(T) / 10 + 30))
    findings = found(made.only([*made.tracks[:4], gone, made.tracks[5], *short, *copy]))
    says = [str(f) for f in findings]
    assert "error: unreadable: episode 9: no video a.mp4" in says
    assert "warning: length: episode 1: 4 rows; usual are 60" in says
    assert "error: repeated episode: episode 7: it is the same as episode 5" in says
    assert any(s.startswith("error: video: episode 4: ") and "no frame near" in s for s in says), says
    assert len(cut) > 0 and [f.severity for f in findings] == sorted(f.severity for f in findings)


def test_the_command(tmp_path: Path, toy_store: Path) -> None:
    def hnet(*words: object) -> tuple[int, str]:
        done = CliRunner().invoke(app, ["data", *map(str, words)])
        return done.exit_code, done.stdout

    root = lerobot_v21(tmp_path / "in", {n: np.arange(30) / 10 + 0.02 * n for n in range(3)})
    (root / "videos/chunk-000/observation.images.front/episode_000001.mp4").unlink()
    status, told = hnet("check", root, "--format", "lerobot", "--json")
    assert (status, json.loads(told)["episodes"]) == (1, 2)
    assert json.loads(told)["findings"][0]["kind"] == "unreadable"
    status, told = hnet("check", toy_store)
    assert status == 0 and "20 episodes: 0 errors" in told
    sheet = tmp_path / "sheet.png"
    assert hnet("preview", root, sheet, "--format", "lerobot", "--episodes", "2")[0] == 0
    picture = Image.open(sheet)
    assert picture.size == (1400, 680) and len(set(picture.convert("L").resize((40, 40)).tobytes())) > 20


def test_wrong_words_on_the_command_line(tmp_path: Path, toy_store: Path) -> None:
    for words, says in (
        (["preview", toy_store, tmp_path / "a.gif"], "the name must end in .png"),
        (["check", toy_store, "--format", "nothing"], "unknown format 'nothing'; choose one of: folder, lerobot"),
    ):
        done = CliRunner().invoke(app, ["data", *map(str, words)])
        assert isinstance(done.exception, UserError) and says in str(done.exception)


def test_a_store_is_recordings(toy_store: Path) -> None:
    store = EpisodeStore(toy_store)
    made = store_recordings(store)
    assert len(made.tracks) == len(store.episodes)
    first, episode = made.tracks[0], store.episodes[0]
    np.testing.assert_array_equal(first.actions[:-1], episode.actions)
    np.testing.assert_array_equal(first.pictures.read([1, 3], episode.frames.shape[1:3]), episode.frames[[1, 3]])


def test_longest_run() -> None:
    assert longest_run(np.array([0, 1, 1, 0, 1, 1, 1, 0], bool)) == (3, 4)
    assert longest_run(np.zeros(4, bool)) == (0, 0) and longest_run(np.ones(4, bool)) == (4, 0)


def test_the_real_statistics_that_contradict_themselves() -> None:
    made = format_named("lerobot").read(real("lerobot_v3_so101"), ImportOptions())
    says = [str(f) for f in check(made, decode=False, progress=False)]
    assert "error: constant: no action ever changes: the robot stands still in all episodes" in says
    assert any("stated action j1: deviation 0.000647, but all values within -1.77065 to -1.77065" in s for s in says)


def test_folders_of_our_own_are_checked_before_they_are_imported(tmp_path: Path) -> None:
    """One column is a table short, one speaks of metres in thousands; the pictures move two rows late."""
    for number in range(EPISODES):
        actions, states = motion(number)
        folder = tmp_path / "in" / f"e{number}"
        folder.mkdir(parents=True)
        for t, frame in enumerate(shown(states)[np.clip(np.arange(T) - 2, 0, T - 1)]):
            Image.fromarray(frame).save(folder / f"{t:03d}.png")
        rows = actions[: -1 if number != 3 else -4].tolist()
        (folder / "actions.csv").write_text("x,y,grip\n" + "\n".join(",".join(map(str, row)) for row in rows))
        table = "\n".join(",".join(map(str, row)) for row in (states * [1000, 1000, 1]).tolist())
        (folder / "states.csv").write_text("x [m],y [m],opening\n" + table)
    made = format_named("folder").read(tmp_path / "in", ImportOptions())
    says = [str(f) for f in found(made)]
    assert len(made.tracks) == EPISODES - 1
    assert any("unreadable" in s and "e3: 60 pictures, actions.csv with 56 rows" in s for s in says)
    assert any("state x [m] reaches" in s for s in says)
    assert any("motion in the pictures fits the robot's best 2 rows later" in s for s in says)
