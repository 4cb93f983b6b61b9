"""Plans over a real socket equal those of the planner, for each kind of goal and for many clients at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import numpy as np
import pytest

from hnet_vjepa.planning.goals.combined import AllGoals
from hnet_vjepa.planning.goals.label import LabelGoal
from hnet_vjepa.planning.goals.region import Region
from hnet_vjepa.planning.goals.state import ImageGoal, LatentGoal
from hnet_vjepa.planning.goals.text import TextGoal
from hnet_vjepa.planning.interface import Cost, Goal, PlanQuery, SearchSettings
from planner_service.app import create_app
from planner_service.client import PlannerClient, PlanReply
from planner_service.images import encode_image
from tests.service.fakes import CARD, FakePlanner, metric, picture, serving_ready, until

LATENT = np.random.default_rng(3).standard_normal(CARD.state_shape).astype(np.float32)
GOALS: list[Goal] = [
    ImageGoal(picture(9)),
    TextGoal("move to the far lëft corner 🤖"),
    LabelGoal(("right", "left")),
    LatentGoal(LATENT),
    ImageGoal(picture(9), Region(1, 2, 30, 48)),
    ImageGoal(picture(9), slot_weights=(0.0, 1.0, 0.25)),
    LatentGoal(LATENT, (1.0, 0.0, 2.0)),
    AllGoals((TextGoal("left"), ImageGoal(picture(9), Region(0, 0, 64, 9)), LabelGoal(("left",)))),
    AllGoals((LatentGoal(LATENT, (0.0, 1.0, 0.0)), LabelGoal(("right",))), (0.5, 3.0)),
]
COSTS = [
    Cost(),
    Cost("closest", 0.25),
    Cost(avoid=(("left",), ("left", "right")), avoid_weight=7.5),
]


@pytest.fixture(scope="module")
def planner() -> FakePlanner:
    return FakePlanner()


@pytest.fixture(scope="module")
def url(planner: FakePlanner) -> Iterator[str]:
    with serving_ready(create_app(planner)) as address:
        yield address


@pytest.fixture
def client(url: str) -> Iterator[PlannerClient]:
    with PlannerClient(url) as opened:
        yield opened


def assert_same(reply: PlanReply, query: PlanQuery) -> None:
    expected = FakePlanner().answer(query)
    np.testing.assert_array_equal(reply.actions, expected.actions)
    np.testing.assert_array_equal(reply.energies, expected.energies)
    np.testing.assert_array_equal(reply.avoid_probability, expected.avoid_probability)
    assert reply.energy_now == expected.energy_now
    assert (reply.reached, reply.iterations) == (expected.reached, expected.iterations)


@pytest.mark.parametrize("goal", GOALS, ids=lambda goal: type(goal).__name__)
def test_reply_is_the_planners_own(client: PlannerClient, planner: FakePlanner, goal: Goal) -> None:
    frames = np.stack([picture(1), picture(2)])
    previous = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)
    search = SearchSettings(candidates=32, iterations=3, horizon=6, elites=4)
    reply = client.plan(frames, goal, seed=7, previous_actions=previous, search=search, return_state=True)
    query = PlanQuery(frames, goal, 7, previous, None, search)
    assert_same(reply, query)
    expected = planner.answer(query)
    assert reply.state is not None
    np.testing.assert_array_equal(reply.state, expected.state)
    assert set(reply.timing_ms) == {"queue", "decode", "encode", "plan", "total", "round_trip"}
    assert (reply.timing_ms["encode"], reply.timing_ms["plan"]) == (0.5, 1.5)
    assert reply.model == CARD.fingerprint
    seen = planner.batches[-1][0]  # the pixels arrive as they were sent
    np.testing.assert_array_equal(seen.frames, frames)
    if isinstance(goal, ImageGoal):
        assert isinstance(seen.goal, ImageGoal)
        np.testing.assert_array_equal(seen.goal.frame, goal.frame)


@pytest.mark.parametrize("cost", COSTS)
def test_costs_arrive_as_they_were_sent(client: PlannerClient, planner: FakePlanner, cost: Cost) -> None:
    reply = client.plan(picture(1)[None], TextGoal("a"), cost=cost)
    assert planner.batches[-1][0].cost == cost
    assert_same(reply, PlanQuery(picture(1)[None], TextGoal("a"), cost=cost))
    assert (reply.avoid_probability is None) == (not cost.avoid)


def test_state_of_an_answer_is_a_goal_for_the_next(client: PlannerClient) -> None:
    frames = picture(1)[None]
    state = client.plan(frames, TextGoal("a"), return_state=True).state
    assert state is not None
    assert_same(client.plan(frames, LatentGoal(state)), PlanQuery(frames, LatentGoal(state)))
    assert client.plan(frames, TextGoal("a")).state is None


def test_alias_gives_the_same_answer(url: str, client: PlannerClient) -> None:
    body = {"frames": [encode_image(picture(1))], "goal": {"kind": "label", "labels": ["left"]}, "seed": 3}
    first, second = (httpx.post(url + path, json=body).json() for path in ("/v1/plan", "/plan"))
    for answer in (first, second):
        del answer["request_id"], answer["timing_ms"]
    assert first == second
    assert first["action_names"] == ["x", "y", "z"]
    assert first["action_units"] == ["m", "m", "m"]
    assert first["deadline_met"] is True


def test_part_of_a_search_keeps_the_checkpoints_rest(url: str, planner: FakePlanner) -> None:
    body = {"frames": [encode_image(picture(1))], "goal": {"kind": "text", "text": "x"}, "search": {"candidates": 4}}
    assert httpx.post(url + "/plan", json=body).status_code == 200
    assert planner.batches[-1][0].search == SearchSettings(candidates=4, elites=4)
    spelled = {"candidates": 64, "iterations": 5, "horizon": 4, "elites": 8}
    assert httpx.post(url + "/plan", json={**body, "search": spelled}).status_code == 200
    assert planner.batches[-1][0].search is None


def test_model_card(client: PlannerClient) -> None:
    assert client.model() == CARD


def test_deadline_arrives_as_monotonic_time(client: PlannerClient, planner: FakePlanner) -> None:
    before = time.monotonic()
    reply = client.plan(picture()[None], TextGoal("x"), deadline_ms=5000)
    after = time.monotonic()
    deadline = planner.batches[-1][0].deadline
    assert deadline is not None
    assert before + 4.99 <= deadline <= after + 5
    assert reply.deadline_met


def test_a_missed_deadline_is_reported(client: PlannerClient, planner: FakePlanner) -> None:
    planner.delay_s = 0.05
    try:
        reply = client.plan(picture()[None], TextGoal("x"), deadline_ms=10)
    finally:
        planner.delay_s = 0
    assert not reply.deadline_met
    assert reply.timing_ms["total"] >= 50


def test_deadline_counts_from_the_last_byte_of_the_request(url: str, planner: FakePlanner) -> None:
    text = encode_image(picture()).encode()
    body = b'{"frames":["' + text + b'"],"goal":{"kind":"text","text":"x"},"deadline_ms":1000}'

    def slowly() -> Iterator[bytes]:
        yield body[:100]
        time.sleep(0.5)
        yield body[100:]

    started = time.monotonic()
    answer = httpx.post(url + "/plan", content=slowly(), headers={"content-type": "application/json"})
    assert answer.status_code == 200
    deadline = planner.batches[-1][0].deadline
    assert deadline is not None
    assert deadline >= started + 1.49


def test_waiting_requests_are_planned_together_and_answered_apart() -> None:
    planner = FakePlanner()
    with serving_ready(create_app(planner)) as url:
        planner.gate = threading.Event()
        with ThreadPoolExecutor(9) as pool:

            def ask(seed: int) -> PlanReply:
                with PlannerClient(url) as client:
                    return client.plan(picture(seed)[None], ImageGoal(picture(100 + seed)), seed=seed)

            replies = [pool.submit(ask, 0)]
            until(lambda: len(planner.batches) == 2)  # the warm-up and the first, which now holds the planner
            replies += [pool.submit(ask, seed) for seed in range(1, 9)]
            until(lambda: metric(url, "hnet_queue_depth") == 8)
            planner.gate.set()
            for seed, reply in enumerate(replies):
                assert_same(reply.result(), PlanQuery(picture(seed)[None], ImageGoal(picture(100 + seed)), seed))
        assert [len(batch) for batch in planner.batches] == [1, 1, 8]
        assert planner.threads == {"planner"}


def test_poisoned_queries_fail_alone() -> None:
    planner = FakePlanner()
    with serving_ready(create_app(planner)) as url:
        planner.gate = threading.Event()
        with ThreadPoolExecutor(8) as pool:

            def ask(seed: int) -> httpx.Response:
                body = {"frames": [encode_image(picture(seed))], "goal": {"kind": "text", "text": "x"}, "seed": seed}
                return httpx.post(url + "/v1/plan", json=body, timeout=20)

            first = pool.submit(ask, 0)
            until(lambda: len(planner.batches) == 2)
            seeds = [1, 666, 2, 667, 668, 3]
            answers = [pool.submit(ask, seed) for seed in seeds]
            until(lambda: metric(url, "hnet_queue_depth") == len(seeds))
            planner.gate.set()
            status = {seed: answer.result().status_code for seed, answer in zip(seeds, answers, strict=True)}
        assert first.result().status_code == 200
        assert status == {1: 200, 666: 500, 2: 200, 667: 500, 668: 422, 3: 200}
        for answer in answers:
            assert "secret" not in answer.result().text
            assert "Traceback" not in answer.result().text
        assert httpx.get(url + "/readyz").status_code == 200
