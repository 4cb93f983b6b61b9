"""The client: its errors, reconnection, and cached encodings."""

from __future__ import annotations

import http.server
import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.goals.label import LabelGoal
from hnet_vjepa.planning.goals.state import ImageGoal
from hnet_vjepa.planning.goals.text import TextGoal
from planner_service import images
from planner_service.app import create_app
from planner_service.client import PlanError, PlannerClient
from planner_service.listening import listen
from tests.service.fakes import FakePlanner, picture, serving, serving_ready

FRAMES = picture()[None]


@pytest.fixture(scope="module")
def planner() -> FakePlanner:
    return FakePlanner()


@pytest.fixture(scope="module")
def url(planner: FakePlanner) -> Iterator[str]:
    with serving_ready(create_app(planner, token="abc"), "abc") as address:
        yield address


def free_url() -> str:
    with listen("127.0.0.1", 0, local_only=True) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def test_a_rejected_request_has_the_servers_message(url: str) -> None:
    with (
        PlannerClient(url, "abc") as client,
        pytest.raises(PlanError, match=r"^422: goal\.labels\.0: .*left, right") as caught,
    ):
        client.plan(FRAMES, LabelGoal(("up",)))
    assert caught.value.status == 422
    assert caught.value.problem is not None
    assert caught.value.problem.errors[0].field == "goal.labels.0"


def test_wrong_token(url: str) -> None:
    for token in (None, "abd"):
        with PlannerClient(url, token) as client:
            assert client.ready()
            with pytest.raises(PlanError, match="401"):
                client.model()


def test_unreachable_server_is_named() -> None:
    address = free_url()
    with PlannerClient(address) as client:
        assert not client.ready()
        with pytest.raises(UserError, match=rf"{address}.*hnet serve"):
            client.plan(FRAMES, TextGoal("x"))
        started = time.monotonic()
        with pytest.raises(UserError, match=address):
            client.wait_until_ready(0.3)
        assert time.monotonic() - started >= 0.3


@pytest.mark.parametrize("address", ["", "localhost:8000", "ftp://x", "http://a b", "http://[::1", "http://h:port"])
def test_unusable_urls(address: str) -> None:
    with pytest.raises(UserError), PlannerClient(address) as client:
        client.model()


def test_too_slow(url: str, planner: FakePlanner) -> None:
    planner.gate = threading.Event()
    try:
        with (
            PlannerClient(url, "abc", timeout_s=0.1) as client,
            pytest.raises(PlanError, match=r"within 0\.1 s") as caught,
        ):
            client.plan(FRAMES, TextGoal("x"))
        assert caught.value.status is None
    finally:
        planner.gate.set()
        planner.gate = None


def test_wait_until_ready_raises_the_last_reason() -> None:
    def load() -> FakePlanner:
        raise UserError("no such checkpoint")

    with serving(create_app(load)) as address, PlannerClient(address) as client:
        assert not client.ready()
        with pytest.raises(PlanError, match="no such checkpoint"):
            client.wait_until_ready(0.3)


def test_another_server_is_recognised() -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        with PlannerClient(f"http://127.0.0.1:{other.server_address[1]}") as client:
            with pytest.raises(PlanError, match="501"):
                client.plan(FRAMES, TextGoal("x"))
            with pytest.raises(PlanError, match="404"):
                client.model()
        other.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "frames",
    [picture(), picture().astype(np.float32)[None], picture()[None, :, :, :2], np.zeros((1, 0, 64, 3), np.uint8)],
)
def test_frames_that_are_no_images_are_not_sent(url: str, frames: np.ndarray) -> None:
    with PlannerClient(url, "abc") as client, pytest.raises(UserError, match="H x W x 3"):
        client.plan(frames, TextGoal("x"))


def test_nan_is_not_sent(url: str) -> None:
    with PlannerClient(url, "abc") as client, pytest.raises(UserError, match="finite"):
        client.plan(FRAMES, TextGoal("x"), previous_actions=np.full((2, 3), np.nan, np.float32))


def test_same_picture_is_encoded_once_and_a_changed_buffer_again(url: str, planner: FakePlanner) -> None:
    images._encode_bytes.cache_clear()
    goal = picture(50)
    with PlannerClient(url, "abc") as client:
        for step in range(3):
            client.plan(picture(step)[None], ImageGoal(goal))
        assert images._encode_bytes.cache_info().misses == 4
        goal[0, 0] += 1  # a camera that writes into the same buffer
        client.plan(FRAMES, ImageGoal(goal))
    sent = planner.batches[-1][0].goal
    assert isinstance(sent, ImageGoal)
    np.testing.assert_array_equal(sent.frame, goal)


def test_restarted_server_is_found_again() -> None:
    with serving_ready(create_app(FakePlanner())) as address:
        client = PlannerClient(address)
        client.plan(FRAMES, TextGoal("x"))
    with pytest.raises(UserError, match="cannot reach"):
        client.plan(FRAMES, TextGoal("x"))
    port = int(address.rpartition(":")[2])
    with serving_ready(create_app(FakePlanner()), port=port):
        client.plan(FRAMES, TextGoal("x"))
    client.close()


def test_overhead_is_small(url: str) -> None:
    """A delayed acknowledgement costs every request 40 ms; a busy machine, whatever it costs, not every one."""
    goal = ImageGoal(picture(1))
    with PlannerClient(url, "abc") as client:
        times = [client.plan(picture(step)[None], goal).timing_ms["round_trip"] for step in range(30)]
    assert min(times) < 35
