"""Life cycle of the service: loading, overload, failures, recovery, disconnecting clients, shutdown."""

from __future__ import annotations

import json
import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.goals.label import LabelGoal
from hnet_vjepa.planning.goals.state import ImageGoal, LatentGoal
from hnet_vjepa.planning.goals.text import TextGoal
from hnet_vjepa.planning.interface import Goal, Planner, PlanQuery, SearchSettings
from planner_service.app import create_app
from planner_service.batching import may_share
from planner_service.client import PlannerClient, PlanReply
from planner_service.images import encode_image
from tests.service.fakes import CARD, FakePlanner, metric, picture, serving, serving_ready, until

BODY = {"frames": [encode_image(picture())], "goal": {"kind": "text", "text": "x"}}


def ask(url: str, seed: int = 0) -> httpx.Response:
    return httpx.post(url + "/v1/plan", json={**BODY, "seed": seed}, timeout=20)


def test_not_ready_until_loaded_and_warmed_up() -> None:
    planner = FakePlanner(gate=threading.Event())
    loading = threading.Event()

    def load() -> Planner:
        assert loading.wait(20)
        return planner

    with serving(create_app(load)) as url:
        assert httpx.get(url + "/healthz").json() == {"status": "alive"}
        for path in ("/readyz", "/v1/model"):
            answer = httpx.get(url + path)
            assert answer.status_code == 503
            assert answer.headers["retry-after"] == "1"
            assert "being loaded" in answer.json()["detail"]
        assert ask(url).status_code == 503
        assert metric(url, "hnet_ready") == 0
        loading.set()
        until(lambda: len(planner.batches) == 1)  # the warm-up has begun, and has not ended
        assert httpx.get(url + "/readyz").status_code == 503
        assert planner.gate is not None
        planner.gate.set()
        until(lambda: httpx.get(url + "/readyz").status_code == 200)
        assert metric(url, "hnet_ready") == 1
        assert ask(url).status_code == 200


@pytest.mark.parametrize("goal", CARD.goals)
def test_warm_up_asks_what_the_model_can_answer(goal: str) -> None:
    planner = FakePlanner(card=replace(CARD, goals=(goal,)))
    with serving_ready(create_app(planner)) as url:
        assert planner.batches[0][0].frames.shape == (3, 48, 64, 3)
        answer = ask(url)
        if goal == "text":
            assert answer.status_code == 200
        else:
            assert answer.json()["errors"][0]["field"] == "goal.kind"


@pytest.mark.parametrize(
    ("error", "detail"),
    [
        (UserError("the checkpoint is damaged"), "the checkpoint is damaged"),
        (RuntimeError("secret"), "see the server's log"),
    ],
)
def test_a_load_failure_is_reported(error: Exception, detail: str) -> None:
    def load() -> Planner:
        raise error

    with serving(create_app(load)) as url:
        until(lambda: "being loaded" not in httpx.get(url + "/readyz").text)
        answer = httpx.get(url + "/readyz")
        assert answer.status_code == 503
        assert detail in answer.json()["detail"]
        assert "secret" not in answer.text
        assert ask(url).status_code == 503
        assert httpx.get(url + "/healthz").status_code == 200


def test_token() -> None:
    with serving_ready(create_app(FakePlanner(), token="s3cret"), "s3cret") as url:
        for path in ("/v1/plan", "/plan"):
            for header in ({}, {"authorization": "Bearer wrong"}, {"authorization": "Basic s3cret"}):
                answer = httpx.post(url + path, json=BODY, headers=header)
                assert answer.status_code == 401
                assert answer.headers["www-authenticate"] == "Bearer"
                assert answer.json()["title"] == "Not authorised"
            assert httpx.post(url + path, json=BODY, headers={"authorization": "Bearer s3cret"}).status_code == 200
        assert httpx.get(url + "/v1/model").status_code == 401
        not_ascii = httpx.get(url + "/v1/model", headers={b"authorization": "Bearer é".encode("latin-1")})
        assert not_ascii.status_code == 401
        for path in ("/healthz", "/readyz", "/metrics", "/"):
            assert httpx.get(url + path).status_code == 200


def test_only_the_whole_token_opens() -> None:
    """Not its beginning, not a longer one, none, another case, nor a part that a careless comparison would accept."""
    wrong = (
        "s3cretXYZ",
        "s3cre",
        "3cret",
        "s",
        "",
        "S3CRET",
        "s3cres",
        "t3rces",
        "s3crets3cret",
        "s3cret,s3cret",
        "None",
    )
    with serving_ready(create_app(FakePlanner(), token="s3cret"), "s3cret") as url, httpx.Client(base_url=url) as http:
        for token in wrong:
            header = {"authorization": f"Bearer {token}".strip()}
            for path in ("/v1/plan", "/plan"):
                assert http.post(path, json=BODY, headers=header).status_code == 401, token
            assert http.get("/v1/model", headers=header).status_code == 401, token
        assert http.get("/v1/model", headers={"authorization": "Bearer s3cret"}).status_code == 200


@pytest.mark.parametrize("token", ["", " a", "a\n", "é"])
def test_unusable_token(token: str) -> None:
    with pytest.raises(UserError, match="token"):
        create_app(FakePlanner(), token=token)


def test_overload_is_refused_and_the_others_are_served() -> None:
    planner = FakePlanner()
    with serving_ready(create_app(planner, max_batch=2, max_queue=3)) as url:
        planner.gate = threading.Event()
        with ThreadPoolExecutor(5) as pool:
            answers = [pool.submit(ask, url)]
            until(lambda: len(planner.batches) == 2)
            answers += [pool.submit(ask, url, seed) for seed in range(1, 4)]
            until(lambda: metric(url, "hnet_queue_depth") == 3)
            refused = ask(url)
            assert refused.status_code == 503
            assert refused.headers["retry-after"] == "1"
            assert refused.headers["content-type"] == "application/problem+json"
            planner.gate.set()
            assert [answer.result().status_code for answer in answers] == [200] * 4
    assert [len(batch) for batch in planner.batches[2:]] == [2, 1]


def test_health_answers_while_a_plan_runs() -> None:
    planner = FakePlanner()
    with serving_ready(create_app(planner)) as url, ThreadPoolExecutor(1) as pool:
        planner.gate = threading.Event()
        answer = pool.submit(ask, url)
        until(lambda: len(planner.batches) == 2)
        for path in ("/healthz", "/readyz", "/v1/model", "/metrics"):
            assert httpx.get(url + path).status_code == 200
        assert not answer.done()
        planner.gate.set()
        assert answer.result().status_code == 200


def test_a_client_that_goes_away_is_not_planned_for() -> None:
    planner = FakePlanner()
    with serving_ready(create_app(planner, max_queue=2)) as url, ThreadPoolExecutor(3) as pool:
        planner.gate = threading.Event()
        first = pool.submit(ask, url, 1)
        until(lambda: len(planner.batches) == 2)
        leavers = [_send_and_stay(url) for _ in range(2)]
        until(lambda: metric(url, "hnet_queue_depth") == 2)
        for leaver in leavers:
            leaver.close()
        until(lambda: metric(url, "hnet_queue_depth") == 0)
        assert metric(url, "hnet_requests_total", status="499") == 2
        stayer = pool.submit(ask, url, 2)  # their places in the queue are free again
        until(lambda: metric(url, "hnet_queue_depth") == 1)
        planner.gate.set()
        assert first.result().status_code == stayer.result().status_code == 200
    assert [[query.seed for query in batch] for batch in planner.batches[1:]] == [[1], [2]]


def _send_and_stay(url: str) -> socket.socket:
    host, port = url.removeprefix("http://").split(":")
    content = json.dumps({**BODY, "seed": 99}).encode()
    connection = socket.create_connection((host, int(port)))
    head = f"POST /plan HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(content)}\r\n\r\n"
    connection.sendall(head.encode() + content)
    return connection


def test_ready_turns_false_when_the_planner_breaks_and_true_when_it_works_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("planner_service.batching.RETRY_S", 0.01)
    planner = FakePlanner()
    with serving_ready(create_app(planner)) as url:
        planner.broken = True
        assert ask(url).status_code == 500
        until(lambda: httpx.get(url + "/readyz").status_code == 503)
        assert "stopped working" in ask(url).json()["detail"]
        planner.broken = False
        until(lambda: httpx.get(url + "/readyz").status_code == 200)
        assert ask(url).status_code == 200


def test_ready_turns_false_when_the_thread_dies() -> None:
    with serving_ready(create_app(FakePlanner())) as url:
        answer = ask(url, seed=669)
        assert answer.status_code == 503
        assert answer.json()["title"] == "Not available"
        assert httpx.get(url + "/readyz").status_code == 503
        assert ask(url).status_code == 503
        assert httpx.get(url + "/healthz").status_code == 200


def test_stopping_finishes_what_runs() -> None:
    planner = FakePlanner()
    with ThreadPoolExecutor(2) as pool:
        with serving_ready(create_app(planner)) as url:
            planner.gate = gate = threading.Event()
            answer = pool.submit(ask, url)
            until(lambda: len(planner.batches) == 2)

            def finish() -> None:
                until(lambda: not PlannerClient(url).ready())  # the server takes no new connections: it is stopping
                gate.set()

            finished = pool.submit(finish)
        finished.result()
        assert answer.result().status_code == 200
    until(lambda: not any(thread.name == "planner" for thread in threading.enumerate()))


def test_metrics() -> None:
    with serving_ready(create_app(FakePlanner())) as url:
        for _ in range(3):
            ask(url)
        httpx.post(url + "/plan", json={})
        for path in ("/a", "/b/c", "/v1/plan/../../etc"):
            httpx.get(url + path)
        answer = httpx.get(url + "/metrics")
        assert answer.headers["content-type"].startswith("text/plain")
        families = {family.name: family for family in text_string_to_metric_families(answer.text)}
        assert metric(url, "hnet_requests_total", route="/v1/plan", status="200") == 3
        assert metric(url, "hnet_requests_total", route="/plan", status="422") == 1
        assert metric(url, "hnet_requests_total", route="other", status="404") == 3
        assert metric(url, "hnet_plan_seconds_count") == 3
        assert metric(url, "hnet_batch_size_count") == 3
        assert metric(url, "hnet_queue_depth") == 0
        assert metric(url, "hnet_requests_in_flight") == 1  # the one that asks
        assert families["hnet_plan_seconds"].type == "histogram"


def test_who_may_share_a_batch() -> None:
    def query(deadline: float | None = None, search: SearchSettings | None = None) -> PlanQuery:
        return PlanQuery(picture()[None], TextGoal("x"), deadline=deadline, search=search)

    assert may_share(query(), query(), 100.0)
    assert not may_share(query(), query(search=SearchSettings(horizon=9)), 100.0)
    assert not may_share(query(), replace(query(), frames=picture()[None].repeat(2, 0)), 100.0)
    assert not may_share(query(), replace(query(), goal=LabelGoal(("left",))), 100.0)
    assert not may_share(query(), query(101.0), 100.0)
    assert not may_share(query(101.0), query(), 100.0)
    assert may_share(query(100.1), query(100.2), 100.0)
    assert not may_share(query(100.1), query(100.3), 100.0)
    assert not may_share(query(100.3), query(100.1), 100.0)
    assert may_share(query(99.0), query(98.0), 100.0)


def test_many_clients_with_different_questions_get_their_own_answers() -> None:
    planner = FakePlanner(delay_s=0.005)
    goals: list[Goal] = [
        ImageGoal(picture(1)),
        TextGoal("abc"),
        LabelGoal(("left",)),
        LatentGoal(np.ones((3, 4), np.float32)),
    ]

    def robot(number: int) -> list[tuple[PlanQuery, PlanReply]]:
        with PlannerClient(url) as client:
            replies = []
            for step in range(10):
                frames = picture(number)[None].repeat(1 + number % 2, 0)
                query = PlanQuery(frames, goals[(number + step) % 4], seed=number * 10 + step)
                replies.append((query, client.plan(query.frames, query.goal, query.seed)))
            return replies

    with serving_ready(create_app(planner)) as url, ThreadPoolExecutor(8) as pool:
        for replies in pool.map(robot, range(8)):
            for query, reply in replies:
                expected = planner.answer(query)
                np.testing.assert_array_equal(reply.actions, expected.actions)
                assert reply.energy_now == expected.energy_now
    assert max(len(batch) for batch in planner.batches) > 1
