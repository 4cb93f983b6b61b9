"""The pairs that are written down: they are those that are drawn, and other ones are noticed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import cli.sims
from hnet_vjepa.errors import UserError
from sims.core.registry import TASKS
from sims.core.seeds import domain_of
from sims.evaluation import manifest
from sims.evaluation.manifest import COUNTS, FOLDER, check_pairs, make_manifest, read_manifest, write_manifest
from sims.evaluation.pairs import Pair, make_pairs
from sims.tasks import fetch_reach

TASK = fetch_reach.TASK


@pytest.fixture(scope="module")
def robot() -> Iterator[fetch_reach.FetchReach]:
    with contextlib.closing(fetch_reach.FetchReach()) as simulation:
        yield simulation


@pytest.fixture(scope="module")
def pairs(robot: fetch_reach.FetchReach) -> list[Pair]:
    return make_pairs(TASK, robot, "dev", 0, 4, "image")


@pytest.fixture(scope="module")
def made(robot: fetch_reach.FetchReach) -> manifest.PairManifest:
    return make_manifest(TASK, robot, {"dev": 5, "test": 3}, progress=False)


def test_what_comes_with_the_package() -> None:
    files = [file.stem for file in FOLDER.glob("*.json")]
    assert "fetch-reach" in files
    for name in files:
        known = read_manifest(name)
        assert known is not None and known.task == name in TASKS
        task = TASKS[name]
        assert known.steps == task.evaluation_steps
        for split, count in COUNTS.items():
            rows = known.rows(split)
            assert len(rows) == count
            assert {domain_of(seed) for seed, _, _ in rows} == {split}
            assert {len(numbers) for row in rows for numbers in row[1:]} == {len(task.states)}
            for _, start, goal in rows:
                apart = task.distance(np.float32(start), np.float32(goal))
                assert apart >= task.min_goal_distance - manifest.TOLERANCE
        for criterion in known.floor:
            assert known.floor[criterion]["end"] < known.ceiling[criterion]["end"]
        assert (FOLDER / f"{known.task}.json").stat().st_size < 300_000


def test_a_manifest_holds_the_pairs_that_are_drawn(
    made: manifest.PairManifest, pairs: list[Pair], tmp_path: Path
) -> None:
    path = write_manifest(made, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["fetch-reach.json"]
    assert read_manifest("fetch-reach", tmp_path) == made
    assert len(json.loads(path.read_text())["dev"]) == 5
    assert len(path.read_text().splitlines()) < 5 + 3 + 15  # one line per pair: a change of one shows
    for row, pair in zip(made.dev, pairs, strict=False):
        assert row[0] == pair.seed
        np.testing.assert_allclose(row[1], pair.start_state, atol=1e-5)
        np.testing.assert_allclose(row[2], pair.goal_state, atol=1e-5)
    assert made.ceiling["2 cm"] == {"ever": 1, "end": 1, "held": 1}
    assert made.floor["2 cm"]["held"] == 0
    assert "mujoco" in made.versions and "torch" not in made.versions
    committed = read_manifest("fetch-reach")
    assert committed is not None and (committed.dev[:5], committed.test[:3]) == (made.dev, made.test)


def test_other_pairs_are_noticed(made: manifest.PairManifest, pairs: list[Pair], tmp_path: Path) -> None:
    write_manifest(made, tmp_path)
    check = lambda drawn, **more: check_pairs(  # noqa: E731
        TASK, drawn, **{"split": "dev", "seed": 0, "kind": "image", "distance": None, "folder": tmp_path, **more}
    )
    assert check(pairs) == "as in the manifest (4 compared)"
    assert check(pairs[:1]) == "as in the manifest (1 compared)"
    assert check([*pairs, *pairs[:1], *pairs[:2]][:4]) == "as in the manifest (4 compared)"
    moved = replace(pairs[2], goal_state=pairs[2].goal_state + np.float32([0, 0.0011, 0]))
    with pytest.raises(UserError, match=r"dev pair 2 of fetch-reach differs by 0\.0011 from .*made with mujoco"):
        check([*pairs[:2], moved])
    nearly = replace(pairs[2], goal_state=pairs[2].goal_state + np.float32([0, 0.0009, 0]))
    assert check([*pairs[:2], nearly]) == "as in the manifest (3 compared)"
    with pytest.raises(UserError, match="dev pair 1 of fetch-reach differs by inf"):
        check([pairs[1]])
    for other in ({"seed": 1}, {"kind": "text"}, {"distance": 25}):
        assert check(pairs, **other).startswith("not in the manifest")
    assert check_pairs(replace(TASK, name="new"), pairs, "dev", 0, "image", None, tmp_path) == (
        "this task has no manifest of pairs"
    )


def test_more_pairs_than_the_manifest_holds(
    made: manifest.PairManifest, robot: fetch_reach.FetchReach, tmp_path: Path
) -> None:
    write_manifest(made, tmp_path)
    drawn = make_pairs(TASK, robot, "test", 0, 4, "image")
    said = check_pairs(TASK, drawn, "test", 0, "image", None, tmp_path)
    assert said == "as in the manifest (3 compared); 1 more are beyond it"


def test_a_damaged_manifest_is_refused(made: manifest.PairManifest, tmp_path: Path) -> None:
    path = write_manifest(made, tmp_path)
    for text in ("{", "[]", path.read_text().replace('"format": 1', '"format": 2')):
        path.write_text(text)
        with pytest.raises(
            UserError, match=r"fetch-reach\.json is damaged: .*; 'hnet sims manifest fetch-reach' writes"
        ):
            read_manifest("fetch-reach", tmp_path)


def test_commands(made: manifest.PairManifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "make_manifest", lambda *_: made)
    done = CliRunner().invoke(cli.sims.app, ["manifest", "fetch-reach", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    assert "3 test and 5 dev pairs" in done.output and "ceiling: 5 cm 100 / 100 / 100 %" in done.output
    assert read_manifest("fetch-reach", tmp_path) == made
    listed = CliRunner().invoke(cli.sims.app, ["list"])
    assert listed.exit_code == 0, listed.output
    for line in ("success:        within 5 cm, 3 cm, 2 cm of the goal in 15 actions", "ceiling:        5 cm 100 / 100"):
        assert line in listed.output
    assert "interval:       1 step of the environment per action" in listed.output
    assert ("needs:" in listed.output) == any(task.needs for task in TASKS.values())
