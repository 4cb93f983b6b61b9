"""The evaluation: pairs that nobody has seen, methods that lie where they must, reports that stand alone."""

from __future__ import annotations

import contextlib
import json
import re
import socket
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import typer
from numpy.typing import NDArray
from typer.testing import CliRunner

from cli.evaluate import evaluate as evaluate_command
from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.protocols import (
    Goal,
    ImageGoal,
    LabelGoal,
    ModelCard,
    PlanQuery,
    PlanResult,
    SearchSettings,
    TextGoal,
)
from planner_service.client import PlanError
from sims.evaluate import EvaluationResult, as_text, evaluate, to_json
from sims.policies import Answer, PlannerPolicy, RandomPolicy, ScriptedPolicy, check_card, local_planner, remote_planner
from sims.protocol import Pair, fulfils, make_pair, make_pairs, refuse_evaluation_data
from sims.report import Section, render_report
from sims.seeds import domain_of, episode_seed, generator
from sims.task import scatter
from sims.tasks import fetch_reach

TASK = fetch_reach.TASK
CARD = ModelCard(
    name="stand-in",
    camera=TASK.camera,
    action=TASK.action,
    phases=("pretrain", "action"),
    goals=("image", "text", "label"),
    labels=TASK.labels,
    history=2,
    state_shape=(9, 32),
    search=SearchSettings(),
    parameters=1000,
    fingerprint="abc",
)


@pytest.fixture(scope="module")
def robot() -> Iterator[fetch_reach.FetchReach]:
    with contextlib.closing(fetch_reach.FetchReach()) as simulation:
        yield simulation


@pytest.fixture(scope="module")
def pairs(robot: fetch_reach.FetchReach) -> list[Pair]:
    return make_pairs(TASK, robot, "dev", 0, 20, "image")


class StandIn:
    """A planner that goes in one direction for each goal picture, and remembers what it was asked."""

    card = CARD

    def __init__(self) -> None:
        self.queries: list[PlanQuery] = []

    def check(self, query: PlanQuery) -> None:
        """Accept everything."""

    def plan(self, queries: list[PlanQuery]) -> list[PlanResult]:
        self.queries += queries
        return [self._plan(query) for query in queries]

    def _plan(self, query: PlanQuery) -> PlanResult:
        actions = np.zeros((4, 7), np.float32)
        actions[:, :3] = np.random.default_rng(query.seed).uniform(-0.02, 0.02, 3)
        state = np.zeros((9, 32), np.float32)
        return PlanResult(actions, np.zeros(4, np.float32), 1.0, False, 5, state, {"encode": 1.0, "plan": 2.0})


@pytest.fixture(scope="module")
def result(robot: fetch_reach.FetchReach, pairs: list[Pair]) -> EvaluationResult:
    near = {pair.index: pair.goal_state + np.float32(0.02 * (pair.index % 3)) for pair in pairs}

    def ask(frames: NDArray[np.uint8], goal: Goal, seed: int, previous: NDArray[np.float32] | None) -> Answer:
        return Answer(np.stack([TASK.controller(near[seed // 1000])(robot.state())] * 4), False, {"plan": 3.0})

    policies = [RandomPolicy(TASK), PlannerPolicy("planner", ask, 3), ScriptedPolicy(TASK)]
    return evaluate(TASK, robot, policies, pairs, "dev", 0, "image", {"model": "<stand-in>"}, progress=False)


def test_pairs_are_apart_and_their_pictures_are_real(robot: fetch_reach.FetchReach, pairs: list[Pair]) -> None:
    for pair in pairs:
        assert TASK.distance(pair.start_state, pair.goal_state) >= 0.08
        assert isinstance(pair.goal, ImageGoal)
        np.testing.assert_array_equal(pair.goal.frame, pair.goal_frame)
        robot.restore(pair.start)
        np.testing.assert_array_equal(robot.state(), pair.start_state)
        assert not np.array_equal(robot.frame(), pair.goal_frame)
    assert len({pair.goal_frame.tobytes() for pair in pairs}) == len(pairs)


def test_pairs_are_repeatable_and_never_collected(robot: fetch_reach.FetchReach, pairs: list[Pair]) -> None:
    again = make_pair(TASK, robot, "dev", 0, 3, "image")
    np.testing.assert_array_equal(again.start, pairs[3].start)
    np.testing.assert_array_equal(again.goal_frame, pairs[3].goal_frame)
    other = make_pair(TASK, robot, "test", 0, 3, "image")
    assert not np.array_equal(other.start, pairs[3].start)
    assert {domain_of(pair.seed) for pair in pairs} == {"dev"}
    starts = []
    for index in range(20):  # the same seed and numbers, collected
        robot.reset()
        starts.append(scatter(TASK, robot, generator(episode_seed("collect", 0, index))))
    gaps = [np.abs(a.start_state - b).max() for a in pairs for b in starts]
    assert min(gaps) > 1e-4


def test_goals_in_words_are_not_true_at_the_start(robot: fetch_reach.FetchReach) -> None:
    for kind in ("text", "label"):
        for pair in make_pairs(TASK, robot, "dev", 1, 8, kind):
            assert pair.required
            assert fulfils(TASK, pair.goal_state, pair.required)
            assert not fulfils(TASK, pair.start_state, pair.required)
            assert isinstance(pair.goal, TextGoal if kind == "text" else LabelGoal)


def test_floor_and_ceiling(result: EvaluationResult) -> None:
    assert result.method("scripted").end(2).value == 1
    assert result.method("random").ever(0).value < 0.1
    planner = result.method("planner")
    assert planner.end(0).value > planner.end(1).value  # 0, 3.5 and 7 cm off in turn
    assert result.compare("scripted", "planner", 1).only_second == 0
    for rollout in result.method("scripted").rollouts:
        assert len(rollout.distances) == TASK.evaluation_steps + 1
        assert rollout.distances[0] >= 0.08


def test_rollouts_repeat_exactly_and_plans_are_handed_on(robot: fetch_reach.FetchReach, pairs: list[Pair]) -> None:
    played = []
    for _ in range(2):
        planner = StandIn()
        outcome = evaluate(
            TASK, robot, [local_planner(planner), RandomPolicy(TASK)], pairs[:2], "dev", 0, "image", progress=False
        )
        played.append([r.distances for m in outcome.methods for r in m.rollouts])
    assert played[0] == played[1]
    first, *later = planner.queries[1 : 1 + TASK.evaluation_steps]  # after the one that warms up
    assert first.previous_actions is None
    assert all(query.previous_actions is not None for query in later)
    assert [len(query.frames) for query in planner.queries[1:5]] == [1, 2, 3, 3]  # history 2, and now
    assert len({query.seed for query in planner.queries[1:]}) == 2 * TASK.evaluation_steps


def test_a_server_that_refuses_gives_one_line(robot: fetch_reach.FetchReach, pairs: list[Pair]) -> None:
    def plan(*_: object, **__: object) -> None:
        raise PlanError(422, "no text goals here")

    client = SimpleNamespace(plan=plan)
    with pytest.raises(UserError, match="refused a request of the evaluation: 422: no text goals here"):
        evaluate(TASK, robot, [remote_planner(client, CARD)], pairs[:1], "dev", 0, "image", progress=False)  # type: ignore[arg-type]


def test_models_for_other_robots_are_refused() -> None:
    check_card(TASK, CARD, "image")
    with pytest.raises(UserError, match="128 x 128 pictures; fetch-reach gives 64 x 64"):
        check_card(TASK, replace(CARD, camera=CARD.camera.model_copy(update={"height": 128, "width": 128})), "image")
    with pytest.raises(UserError, match="fetch-reach takes"):
        check_card(TASK, replace(CARD, action=CARD.action.model_copy(update={"active": (0, 1)})), "image")
    with pytest.raises(UserError, match="no text goals; it was trained for: image"):
        check_card(TASK, replace(CARD, goals=("image",)), "text")


def test_data_of_evaluation_seeds_are_refused() -> None:
    refuse_evaluation_data({"domain": "collect", "seed": 0}, "x")
    refuse_evaluation_data({}, "x")
    with pytest.raises(UserError, match="x was trained on 'test' evaluation episodes"):
        refuse_evaluation_data({"domain": "test"}, "x")


def test_json_and_text(result: EvaluationResult) -> None:
    value = json.loads(json.dumps(to_json(result), allow_nan=False))
    assert value["summary"]["scripted"]["success"]["5 cm"]["end"]["successes"] == 20
    assert len(value["episodes"]["random"]) == 20
    assert value["summary"]["random"]["plan_ms"] is None
    lines = as_text(result).splitlines()
    assert len(lines) == 2 + 3
    assert lines[-1].startswith("scripted")


def test_report_stands_alone(result: EvaluationResult, pairs: list[Pair]) -> None:
    page = render_report(TASK, result, pairs, [Section("Training", "<p>loss</p>")]).decode()
    text = re.sub(r"base64,[^']*", "", page)
    assert not re.search(r"https?:|//|<script|<link|@import|url\(", text)
    assert all(source.startswith("data:image/") for source in re.findall(r"(?:src|href)='([^']{0,40})", page))
    assert page.count("data:image/gif;base64,") == 8  # successes and failures
    assert page.count("data:image/png;base64,") == 2
    assert "<h2>Training</h2><p>loss</p>" in page
    assert "&lt;stand-in&gt;" in page
    assert "McNemar" in page
    page = render_report(TASK, replace(result, methods=result.methods[:1]), pairs).decode()
    assert "None." in page  # random actions have no successes to show


def command(*arguments: str) -> tuple[int, str]:
    app = typer.Typer()
    app.command()(evaluate_command)
    done = CliRunner().invoke(app, list(arguments))
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        return 1, f"{type(done.exception).__name__}: {done.exception}"
    return done.exit_code, done.output


def test_command_writes_result_and_report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hnet_vjepa import checkpoint
    from hnet_vjepa.planning import planner

    trained = SimpleNamespace(phases=[SimpleNamespace(phase="action", data_settings={"domain": "collect"})])
    monkeypatch.setattr(checkpoint, "read_manifest", lambda _: trained)
    monkeypatch.setattr(planner, "load_planner", lambda _: StandIn())
    for goal in ("image", "label"):
        arguments = ("--checkpoint", "c", "--episodes", "2", "--goal", goal, "--out", str(tmp_path / goal))
        status, output = command(*arguments)
        assert status == 0, output
        assert f"2 {goal} goals (test, seed 0)" in output
        assert json.loads((tmp_path / goal / "result.json").read_text())["goal"] == goal
        assert (tmp_path / goal / "report.html").stat().st_size > 10_000
    trained.phases[0].data_settings = {"domain": "test"}
    assert "was trained on 'test' evaluation episodes" in command("--checkpoint", "c", "--out", str(tmp_path / "x"))[1]
    assert not (tmp_path / "x").exists()


def test_command_says_what_is_wrong(tmp_path: Path) -> None:
    assert "UserError: give either --url" in command()[1]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert "UserError: cannot reach a planner at" in command("--url", url)[1]
    assert "UserError: unknown task 'x'" in command("--task", "x", "--url", url)[1]
    assert "is not a checkpoint" in command("--checkpoint", str(tmp_path))[1]
