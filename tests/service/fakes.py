"""Shared by the tests of the service: a deterministic planner, and a server on a real socket."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import httpx
import numpy as np
import uvicorn
from fastapi import FastAPI
from prometheus_client.parser import text_string_to_metric_families

from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.goals.combined import AllGoals
from hnet_vjepa.planning.goals.label import LabelGoal
from hnet_vjepa.planning.goals.state import LatentGoal
from hnet_vjepa.planning.goals.text import TextGoal
from hnet_vjepa.planning.interface import Goal, ModelCard, PlanQuery, PlanResult, SearchSettings
from hnet_vjepa.specs import ActionSpec, CameraSpec
from planner_service.client import PlannerClient
from planner_service.listening import listen

CARD = ModelCard(
    name="fake",
    camera=CameraSpec(height=48, width=64, dt=0.1),
    action=ActionSpec(
        names=("x", "y", "z"),
        units=("m", "m", "m"),
        low=(-1, -1, -1),
        high=(1, 1, 1),
        active=(0, 1),
        mean=(0, 0),
        std=(1, 1),
    ),
    phases=("pretrain", "language", "probe", "action"),
    goals=("image", "text", "label", "latent"),
    labels=("left", "right"),
    history=2,
    state_shape=(3, 4),
    search=SearchSettings(),
    parameters=12,
    fingerprint="0123abcd",
    task="reach",
)


@dataclass
class FakePlanner:
    """Its result depends on every field of a query, so that a wrong or exchanged response shows.

    ``seed`` 666 makes the batch raise, 667 gives NaN, 668 is refused by ``check``; ``broken`` makes every plan raise.
    """

    card: ModelCard = CARD
    delay_s: float = 0.0
    broken: bool = False
    batches: list[list[PlanQuery]] = field(default_factory=list)
    gate: threading.Event | None = None  # plan waits for it
    threads: set[str] = field(default_factory=set)

    def check(self, query: PlanQuery) -> None:
        """Refuse seed 668."""
        if query.seed == 668:
            raise UserError("seed: 668 is not planned today")

    def plan(self, queries: list[PlanQuery]) -> list[PlanResult]:
        """Answer, after the gate and the delay."""
        self.threads.add(threading.current_thread().name)
        self.batches.append(list(queries))
        if self.gate is not None:
            assert self.gate.wait(20)
        time.sleep(self.delay_s)
        if self.broken or any(query.seed == 666 for query in queries):
            raise RuntimeError("secret inner working")
        if any(query.seed == 669 for query in queries):
            raise SystemExit("the thread ends")
        return [self.answer(query) for query in queries]

    def answer(self, query: PlanQuery) -> PlanResult:
        """The result for one query: a pure function of its fields."""
        goal, cost = query.goal, query.cost
        if isinstance(goal, AllGoals):
            weights = goal.weights or (1.0,) * len(goal.goals)
            number = sum(weight * self.number(one) for weight, one in zip(weights, goal.goals, strict=True))
        else:
            number = self.number(goal)
        number += 1000 * (cost.over_steps == "closest") + 3 * cost.control
        likely = [cost.avoid_weight + len(place) + 0.5 * ("left" in place) for place in cost.avoid]
        search = query.search or self.card.search
        shape = (search.horizon, self.card.action.dim)
        actions = np.random.default_rng(query.seed).standard_normal(shape).astype(np.float32)
        if query.previous_actions is not None:
            actions[0] += query.previous_actions[0]
        energies = np.linspace(number, 0.1, search.horizon).astype(np.float32)
        if query.seed == 667:
            actions[0, 0] = np.nan
        state = np.full(self.card.state_shape, query.frames[-1].mean() / 3, np.float32)
        return PlanResult(
            actions,
            energies,
            number,
            number == 0,
            search.iterations,
            state,
            {"encode": 0.5, "plan": 1.5},
            avoid_probability=np.array(likely, np.float32) if likely else None,
        )

    def number(self, goal: Goal) -> float:
        """A number that depends on every field of a goal."""
        if isinstance(goal, TextGoal):
            return float(sum(goal.text.encode()))
        if isinstance(goal, LabelGoal):
            return float(sum(self.card.labels.index(label) + 1 for label in goal.labels))
        weighted = sum(2**i * weight for i, weight in enumerate(goal.slot_weights or ()))
        if isinstance(goal, LatentGoal):
            return float(goal.state.sum()) + weighted
        region = goal.region
        corners = 0 if region is None else region.x0 + 7 * region.y0 + 11 * region.x1 + 13 * region.y1
        return float(goal.frame.astype(np.float64).mean()) + weighted + corners


@contextlib.contextmanager
def serving(app: FastAPI, port: int = 0) -> Iterator[str]:
    """Run an application on a port (0: any free one) of the loopback interface; yield its URL."""
    listener = listen("127.0.0.1", port, local_only=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="error", access_log=False, timeout_graceful_shutdown=5))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started and thread.is_alive():
            time.sleep(0.005)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
        listener.close()


@contextlib.contextmanager
def serving_ready(app: FastAPI, token: str | None = None, port: int = 0) -> Iterator[str]:
    """As ``serving``, once the service is ready."""
    with serving(app, port) as url:
        with PlannerClient(url, token) as client:
            client.wait_until_ready(10)
        yield url


def picture(seed: int = 0, height: int = CARD.camera.height, width: int = CARD.camera.width) -> np.ndarray:
    """A noisy picture, uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def metric(url: str, name: str, **labels: str) -> float:
    """The value of one sample of /metrics; 0 when it was never counted."""
    for family in text_string_to_metric_families(httpx.get(url + "/metrics").text):
        for sample in family.samples:
            if sample.name == name and labels.items() <= sample.labels.items():
                return sample.value
    return 0.0


def until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    """Wait until the condition holds."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.01)
