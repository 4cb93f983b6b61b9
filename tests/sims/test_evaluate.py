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
from hnet_vjepa.planning.goals.label import LabelGoal
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.goals.text import TextGoal
from hnet_vjepa.planning.interface import Goal, ModelCard, PlanQuery, PlanResult, SearchSettings
from planner_service.client import PlanError
from sims.core.seeds import domain_of, episode_seed, generator
from sims.core.task import scatter, walk
from sims.evaluation.evaluate import evaluate
from sims.evaluation.pairs import Pair, budget, fulfils, make_pair, make_pairs, refuse_evaluation_data
from sims.evaluation.policies import (
    Answer,
    PlannerPolicy,
    RandomPolicy,
    ReplayPolicy,
    ScriptedPolicy,
    check_card,
    local_planner,
    remote_planner,
)
from sims.evaluation.results import EvaluationResult, MethodResult, Rollout, as_text, to_json
from sims.evaluation.units import length
from sims.reporting.report import Section, render_report
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
        state = robot.state()
        believed = TASK.distance(state, near[seed // 1000]) ** 2  # ranks as the true distance does where it is right
        return Answer(np.stack([TASK.controller(near[seed // 1000])(state)] * 4), False, {"plan": 3.0}, believed)

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


def test_draws_that_are_too_near_are_counted(robot: fetch_reach.FetchReach, pairs: list[Pair]) -> None:
    assert sum(pair.excluded for pair in pairs) > 0
    for pair in [p for p in pairs if p.excluded] + pairs[:2]:
        rng = generator(pair.seed)
        rng.spawn(1)
        start = scatter(TASK, robot, rng)
        saved, apart = robot.save(), []
        while not apart or apart[-1] < TASK.min_goal_distance:
            robot.restore(saved)
            apart.append(TASK.distance(start, walk(TASK, robot, rng)))
        assert len(apart) == pair.excluded + 1


def test_goals_at_a_distance_lie_on_episodes_of_the_data_policy(robot: fetch_reach.FetchReach) -> None:
    slow = replace(TASK, interval=3)  # what an action of three steps of the environment would count as
    assert [budget(slow, d) for d in (None, 1, 25, 26)] == [15, 1, 17, 18]
    assert budget(TASK, 25) == 50
    for kind in ("image", "text"):
        for pair in make_pairs(slow, robot, "dev", 3, 6, kind, distance=25):
            assert pair.actions is not None and pair.actions.shape == (9, 7)  # 25 / 3, rounded up
            robot.restore(pair.start)
            np.testing.assert_array_equal(robot.state(), pair.start_state)
            for action in pair.actions:
                robot.step(action)
            np.testing.assert_array_equal(robot.state(), pair.goal_state)
            np.testing.assert_array_equal(robot.frame(), pair.goal_frame)
            np.testing.assert_array_equal(robot.save(), pair.goal_saved)
            assert (np.abs(pair.actions[:, :3]) <= np.float32(0.05)).all()
            if kind == "image":  # not even the loosest criterion holds at the start
                assert TASK.distance(pair.start_state, pair.goal_state) > TASK.tolerances[0]
            else:
                assert not fulfils(TASK, pair.start_state, pair.required)
                assert fulfils(TASK, pair.goal_state, pair.required)
    with pytest.raises(UserError, match="distance is 0"):
        make_pairs(TASK, robot, "dev", 0, 1, "image", distance=0)
    with pytest.raises(UserError, match=r"no goal far enough .* a larger distance helps"):
        make_pairs(replace(TASK, tolerances=(9.0,)), robot, "dev", 0, 1, "image", distance=1)


def test_replaying_the_recorded_actions_is_exact(robot: fetch_reach.FetchReach) -> None:
    pairs = make_pairs(TASK, robot, "dev", 0, 4, "image", distance=10)
    methods = [RandomPolicy(TASK), ReplayPolicy(TASK), ScriptedPolicy(TASK)]
    outcome = evaluate(
        TASK, robot, methods, pairs, "dev", 0, "image", progress=False, steps=budget(TASK, 10), distance=10
    )
    for rollout in outcome.method("replay").rollouts:
        assert len(rollout.distances) == 21
        assert rollout.distances[10] == 0
    assert outcome.method("replay").ever(2).value == 1
    assert "4 image goals 10 steps away (dev, seed 0), 20 actions" in as_text(outcome)
    assert outcome.main.name == "scripted"  # no model took part: the last


def test_what_a_replay_does_after_its_end() -> None:
    spec = TASK.action.model_copy(update={"absolute": (2,)})
    recorded = np.full((2, 7), 0.01, np.float32)
    act = ReplayPolicy(replace(TASK, action=spec)).begin(SimpleNamespace(actions=recorded))  # type: ignore[arg-type]
    done = [act(None).action for _ in range(4)]  # type: ignore[arg-type]
    np.testing.assert_array_equal(done[:2], recorded)
    for action in done[2:]:  # changes are zero, the command stays
        np.testing.assert_array_equal(action, np.float32([0, 0, 0.01, 0, 0, 0, 0]))


def test_ever_end_and_held() -> None:
    for met, ever, end, held in (
        ("000000", 0, 0, 0),
        ("100000", 0, 0, 0),  # only at the start
        ("001000", 1, 0, 0),
        ("011101", 1, 1, 0),
        ("011110", 1, 0, 0),
        ("000111", 1, 1, 1),
        ("0111", 1, 1, 1),
        ("1011", 1, 1, 0),
        ("011", 1, 1, 1),  # fewer than three actions: all of them
        ("101", 1, 1, 0),
    ):
        rollout = Rollout(0, 0, (0.0,) * len(met), tuple((c == "1",) for c in met), (), {}, ())
        assert (rollout.ever(0), rollout.end(0), rollout.held(0)) == (ever, end, held), met


def test_rank_correlation_of_energy_and_distance(result: EvaluationResult) -> None:
    planner = result.method("planner")
    right = [r for r in planner.rollouts if r.pair % 3 == 0]  # it was told the right goal
    assert all(r.rank_correlation() == pytest.approx(1) for r in right)
    found = result.rank_correlation(planner)
    assert found is not None and found.low <= found.median <= found.high and found.episodes == 20
    assert result.rank_correlation(result.method("random")) is None
    assert result.rank_correlation(replace(result, goal="label").method("random")) is None
    assert replace(result, goal="text").rank_correlation(planner) is None  # one of many goal states


def test_distances_as_people_read_them() -> None:
    assert [length(d, "m") for d in (0.05, 0.123456, 1.0)] == ["5 cm", "12.3 cm", "100 cm"]
    assert length(0.25, "rad") == "0.25 rad" and length(1.5, "") == "1.5 x allowed"


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


def test_the_energy_that_a_service_or_a_model_reports_is_kept(robot: fetch_reach.FetchReach, pairs: list[Pair]) -> None:
    told = iter(range(100))

    def plan(*_: object, **__: object) -> SimpleNamespace:
        return SimpleNamespace(
            actions=np.zeros((4, 7), np.float32), reached=False, timing_ms={}, energy_now=float(next(told))
        )

    remote = remote_planner(SimpleNamespace(plan=plan), CARD)  # type: ignore[arg-type]
    for policy, expected in ((remote, (1.0, 2.0, 3.0)), (local_planner(StandIn()), (1.0, 1.0, 1.0))):
        outcome = evaluate(TASK, robot, [policy], pairs[:1], "dev", 0, "image", progress=False, steps=3)
        assert outcome.methods[0].rollouts[0].energies == expected  # the first of all plans warms up


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


def test_json_and_text(result: EvaluationResult, pairs: list[Pair]) -> None:
    value = json.loads(json.dumps(to_json(result), allow_nan=False))
    assert value["summary"]["scripted"]["success"]["5 cm"]["end"]["successes"] == 20
    assert len(value["episodes"]["random"]) == 20
    assert value["summary"]["random"]["plan_ms"] is None
    assert value["comparisons"]["scripted"]["5 cm"]["p_value"] == result.compare("planner", "scripted", 0).p_value
    assert len(value["episodes"]["planner"][0]["energies"]) == TASK.evaluation_steps
    assert value["excluded"] == sum(pair.excluded for pair in pairs)
    lines = as_text(result).splitlines()
    rows = lines[2 : 2 + 3 * 3]
    assert [row.split()[0] for row in rows[::3]] == ["random", "planner", "scripted"]
    assert lines[11].startswith("planner against random, 5 cm at the end: ")


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
    from sims.evaluation import sources

    trained = SimpleNamespace(phases=[SimpleNamespace(phase="action", data_settings={"domain": "collect"})])
    monkeypatch.setattr(sources, "read_manifest", lambda _: trained)
    monkeypatch.setattr(sources, "load_planner", lambda path, plan: StandIn())
    for goal in ("image", "label"):
        arguments = (
            "--task",
            "fetch-reach",
            "--checkpoint",
            "c",
            "--episodes",
            "2",
            "--goal",
            goal,
            "--out",
            str(tmp_path / goal),
        )
        status, output = command(*arguments)
        assert status == 0, output
        assert f"2 {goal} goals (test, seed 0)" in output
        written = json.loads((tmp_path / goal / "result.json").read_text())
        assert (written["goal"], written["steps"]) == (goal, TASK.evaluation_steps)
        pairs = written["conditions"]["pairs"]
        assert pairs.startswith("as in the manifest (2 compared)" if goal == "image" else "not in the manifest")
        assert (tmp_path / goal / "report.html").stat().st_size > 10_000
    trained.phases[0].data_settings = {"domain": "test"}
    assert (
        "was trained on 'test' evaluation episodes"
        in command("--task", "fetch-reach", "--checkpoint", "c", "--out", str(tmp_path / "x"))[1]
    )
    assert not (tmp_path / "x").exists()


@pytest.mark.usefixtures("stand_in")
def test_command_at_a_distance_and_under_variation(tmp_path: Path) -> None:
    words = (
        "--task",
        "fetch-reach",
        "--checkpoint",
        "c",
        "--episodes",
        "1",
        "--distance",
        "4",
        "--vary",
        "light",
        "--out",
        str(tmp_path),
    )
    status, output = command(*words)
    assert status == 0, output
    assert "1 image goals 4 steps away (test, seed 0), 8 actions" in output
    assert "light: works up to strength" in output and "light: works up to" in (tmp_path / "table.txt").read_text()
    written = json.loads((tmp_path / "result.json").read_text())
    assert list(written["summary"]) == ["random", "planner", "replay", "scripted"]
    assert written["summary"]["replay"]["success"]["2 cm"]["ever"]["successes"] == 1
    assert [row["strength"] for row in written["variation"]["light"]["strengths"]] == [0, 0.25, 0.5, 0.75, 1]
    assert "Factors of variation" in (tmp_path / "report.html").read_text()
    status, output = command(
        "--task", "fetch-reach", "--checkpoint", "c", "--episodes", "1", "--steps", "3", "--out", str(tmp_path)
    )
    assert "(test, seed 0), 3 actions" in output
    assert (
        "unknown factor of fetch-reach 'rain'; choose one of: light,"
        in command("--task", "fetch-reach", "--checkpoint", "c", "--vary", "rain")[1]
    )


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    from sims.evaluation import sources

    monkeypatch.setattr(sources, "read_manifest", lambda _: SimpleNamespace(phases=[]))
    monkeypatch.setattr(sources, "load_planner", lambda path, plan: StandIn())


def test_search_settings_are_changed_and_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sims.evaluation import sources

    given: list[dict[str, str]] = []
    monkeypatch.setattr(sources, "read_manifest", lambda _: SimpleNamespace(phases=[]))
    monkeypatch.setattr(sources, "load_planner", lambda path, plan: given.append(plan) or StandIn())
    words = ("--checkpoint", "c", "--task", "fetch-reach", "--episodes", "1", "--steps", "1", "--out", str(tmp_path))
    assert command(*words, "--set", "plan.candidates=16", "--set", "plan.first_std=0.5")[0] == 0
    assert given == [{"candidates": "16", "first_std": "0.5"}]
    conditions = json.loads((tmp_path / "result.json").read_text())["conditions"]
    assert conditions["changed settings"] == "plan.candidates=16, plan.first_std=0.5"
    assert command(*words)[0] == 0
    assert "changed settings" not in json.loads((tmp_path / "result.json").read_text())["conditions"]
    for more, message in (
        (("--checkpoint", "c", "--set", "action.steps=3"), "unknown field of --set 'action.steps'"),
        (("--checkpoint", "c", "--data", "d", "--set", "plan.candidates=3"), "--data does not search"),
        (("--url", "http://x", "--set", "plan.candidates=3"), "with --url the service decides"),
    ):
        assert message in command(*more)[1]


@pytest.mark.usefixtures("stand_in")
def test_other_physics_stops_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from sims.evaluation import manifest

    known = manifest.read_manifest("fetch-reach")
    assert known is not None
    seed, start, goal = known.test[1]
    other = (known.test[0], (seed, (start[0] + 0.002, *start[1:]), goal), *known.test[2:])
    monkeypatch.setattr(manifest, "read_manifest", lambda *_: known.model_copy(update={"test": other}))
    words = ("--task", "fetch-reach", "--checkpoint", "c", "--episodes", "2", "--steps", "1", "--out", str(tmp_path))
    status, output = command(*words)
    assert status == 1 and "test pair 1 of fetch-reach differs by 0.002 from" in output
    assert not (tmp_path / "result.json").exists()
    assert command(*words, "--no-manifest")[0] == 0
    assert json.loads((tmp_path / "result.json").read_text())["conditions"]["pairs"] == "not compared"


def test_command_says_what_is_wrong(tmp_path: Path) -> None:
    assert "UserError: give --url" in command()[1]
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert "UserError: cannot reach a planner at" in command("--url", url)[1]
    assert "UserError: unknown task 'x'" in command("--task", "x", "--url", url)[1]
    assert "is not a checkpoint" in command("--checkpoint", str(tmp_path))[1]


def test_methods_are_compared_by_the_end_of_their_episodes(result: EvaluationResult) -> None:
    """By hand: the first ends at the goal in two of four, the second in one; both were there in every one."""

    def rollouts(ends: str) -> tuple[Rollout, ...]:
        return tuple(
            Rollout(i, i, (0.0,) * 3, ((False,), (True,), (c == "1",)), (), {}, ()) for i, c in enumerate(ends)
        )

    methods = (MethodResult("one", rollouts("1100")), MethodResult("other", rollouts("0100")))
    found = replace(result, methods=methods).compare("one", "other", 0)
    assert found.difference == pytest.approx(1 / 4)


def test_a_goal_in_words_that_holds_at_the_start_is_drawn_again(
    robot: fetch_reach.FetchReach, monkeypatch: pytest.MonkeyPatch
) -> None:
    index = next(i for i in range(20) if make_pair(TASK, robot, "dev", 1, i, "label").excluded == 0)
    answers = iter([True, False])
    monkeypatch.setattr("sims.evaluation.pairs.fulfils", lambda *_: next(answers))
    assert make_pair(TASK, robot, "dev", 1, index, "label").excluded == 1
