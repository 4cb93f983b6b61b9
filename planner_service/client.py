"""The typed client: what a robot's control loop calls."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import Any, Self

import httpx
import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.goals.combined import AllGoals
from hnet_vjepa.planning.goals.label import LabelGoal
from hnet_vjepa.planning.goals.state import ImageGoal, LatentGoal
from hnet_vjepa.planning.goals.text import TextGoal
from hnet_vjepa.planning.interface import Cost, Goal, ModelCard, Picture, SearchSettings
from planner_service.images import encode_image
from planner_service.problems import Problem
from planner_service.schemas import PlanResponse

_CARD = TypeAdapter(ModelCard)


class PlanError(Exception):
    """The server did not give what was asked.

    ``status``: the HTTP status, or None when no answer came in time. ``problem``: what the server said, when it
    said it in the service's own format.
    """

    def __init__(self, status: int | None, message: str, problem: Problem | None = None) -> None:
        super().__init__(message if status is None else f"{status}: {message}")
        self.status = status
        self.message = message
        self.problem = problem


@dataclass(frozen=True)
class PlanReply:
    """The server's plan. Execute ``actions[0]``, then ask again with ``previous_actions=reply.actions``."""

    actions: NDArray[np.float32]  # H x dim, in the robot's units
    energies: NDArray[np.float32]  # H, the expected distance to the goal after each action
    energy_now: float
    reached: bool
    iterations: int
    deadline_met: bool
    timing_ms: dict[str, float]  # queue, decode, encode, plan, total: on the server; round_trip: seen from here
    request_id: str
    model: str  # fingerprint of the checkpoint
    state: NDArray[np.float32] | None  # S x d, for a LatentGoal, when it was asked for
    warnings: tuple[str, ...] = ()  # why the plan may not be what was meant
    success_probability: float | None = None  # of standing at the goal when the plan ends; None: not calibrated
    unfamiliar: tuple[Picture, ...] | None = None  # pictures unlike those of the training; None: not known
    avoid_probability: NDArray[np.float32] | None = None  # H, of being in a place to be avoided; None: there is none


class PlannerClient:
    """A connection to a planner service, kept open between requests. Use it as a context manager, or ``close`` it.

    ``timeout_s`` bounds the wait for any one answer. Not for several threads at once; give each its own.
    """

    def __init__(self, url: str, token: str | None = None, timeout_s: float = 30) -> None:
        headers = {} if token is None else {"authorization": f"Bearer {token}"}
        self._url = url.rstrip("/")
        self._timeout_s = timeout_s
        try:
            # No proxy from the environment: it would stand in the control loop, and break localhost.
            self._http = httpx.Client(base_url=self._url, headers=headers, timeout=timeout_s, trust_env=False)
        except (httpx.InvalidURL, UnicodeEncodeError, ValueError) as error:
            raise UserError(f"cannot use the URL '{url}' or its token: {error}") from None

    def plan(
        self,
        frames: NDArray[np.uint8],
        goal: Goal,
        seed: int = 0,
        previous_actions: NDArray[np.float32] | None = None,
        deadline_ms: float | None = None,
        search: SearchSettings | None = None,
        return_state: bool = False,
        cost: Cost | None = None,
    ) -> PlanReply:
        """Ask for a plan from ``frames`` (T x H x W x 3 uint8, oldest first, the last one is now) to ``goal``.

        ``previous_actions``: the last plan (H x dim). ``deadline_ms``: the server answers with the best plan so far
        that long after it has the request. ``cost``: what a plan costs besides its way to the goal. Raises PlanError
        when the server refuses or is too slow, UserError when it cannot be reached or the frames are no images.
        """
        if frames.ndim != 4:
            raise UserError(f"frames must be T x H x W x 3; got an array of shape {frames.shape}")
        body: dict[str, Any] = {
            "frames": [encode_image(frame) for frame in frames],
            "goal": _goal_body(goal),
            "seed": seed,
            "return_state": return_state,
        }
        if previous_actions is not None:
            body["previous_actions"] = np.asarray(previous_actions).tolist()
        if deadline_ms is not None:
            body["deadline_ms"] = deadline_ms
        if search is not None:
            body["search"] = {
                "candidates": search.candidates,
                "iterations": search.iterations,
                "horizon": search.horizon,
                "elites": search.elites,
            }
        if cost is not None:
            body["cost"] = asdict(cost)
        started = time.perf_counter()
        try:
            answer = self._send("POST", "/v1/plan", body)
        except ValueError as error:  # NaN among the numbers, which JSON cannot say
            raise UserError(f"cannot send the request: {error}; every number must be finite") from None
        round_trip = (time.perf_counter() - started) * 1e3
        try:
            reply = PlanResponse.model_validate_json(answer.content)
        except ValidationError:
            raise PlanError(
                answer.status_code, f"the answer of {self._url} is not a plan; is it this service?"
            ) from None
        return PlanReply(
            actions=np.asarray(reply.actions, np.float32).reshape(len(reply.actions), -1),
            energies=np.asarray(reply.energies, np.float32),
            energy_now=reply.energy_now,
            reached=reply.reached,
            success_probability=reply.success_probability,
            unfamiliar=None if reply.unfamiliar is None else tuple(reply.unfamiliar),
            avoid_probability=None
            if reply.avoid_probability is None
            else np.asarray(reply.avoid_probability, np.float32),
            iterations=reply.iterations,
            deadline_met=reply.deadline_met,
            timing_ms={**reply.timing_ms.model_dump(), "round_trip": round_trip},
            request_id=reply.request_id,
            model=reply.model,
            state=None if reply.state is None else np.asarray(reply.state, np.float32),
            warnings=tuple(reply.warnings),
        )

    def model(self) -> ModelCard:
        """Return what the server has loaded. Raises as ``plan`` does."""
        answer = self._send("GET", "/v1/model")
        try:
            return _CARD.validate_json(answer.content)
        except ValidationError:
            raise PlanError(
                answer.status_code, f"the answer of {self._url} is not a model; is it this service?"
            ) from None

    def ready(self) -> bool:
        """Whether the server answers plans now. False also when it cannot be reached."""
        try:
            self._send("GET", "/readyz")
        except (PlanError, UserError):
            return False
        return True

    def wait_until_ready(self, timeout_s: float = 60) -> None:
        """Wait until the server answers plans. Raises the last PlanError or UserError when that takes too long."""
        end = time.monotonic() + timeout_s
        while True:
            try:
                self._send("GET", "/readyz")
                return
            except (PlanError, UserError):
                if time.monotonic() >= end:
                    raise
            time.sleep(0.1)

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def __enter__(self) -> Self:
        """Return the client itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the connection."""
        self.close()

    def _send(self, method: str, path: str, body: dict[str, Any] | None = None) -> httpx.Response:
        try:
            try:
                answer = self._http.request(method, path, json=body)
            except (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError):
                # The server closed the idle connection just as this was sent. A plan changes nothing on the server,
                # so asking a second time is safe.
                answer = self._http.request(method, path, json=body)
        except httpx.TimeoutException as error:
            if isinstance(error, httpx.ConnectTimeout):
                raise self._unreachable(error) from None
            raise PlanError(None, f"no answer from {self._url} within {self._timeout_s:g} seconds") from None
        except (httpx.TransportError, httpx.InvalidURL) as error:
            raise self._unreachable(error) from None
        if answer.is_success:
            return answer
        try:
            problem = Problem.model_validate_json(answer.content)
        except ValidationError:
            raise PlanError(answer.status_code, answer.text[:300] or answer.reason_phrase) from None
        raise PlanError(answer.status_code, problem.detail, problem)

    def _unreachable(self, error: Exception) -> UserError:
        return UserError(
            f"cannot reach a planner at {self._url} ({error}); start one with 'hnet serve', or check the URL"
        )


def _goal_body(goal: Goal) -> dict[str, Any]:
    if isinstance(goal, AllGoals):
        weights = {} if goal.weights is None else {"weights": list(goal.weights)}
        return {"kind": "all", "goals": [_goal_body(one) for one in goal.goals], **weights}
    if isinstance(goal, TextGoal):
        return {"kind": "text", "text": goal.text}
    if isinstance(goal, LabelGoal):
        return {"kind": "label", "labels": list(goal.labels)}
    if isinstance(goal, ImageGoal):
        body: dict[str, Any] = {"kind": "image", "image": encode_image(goal.frame)}
        if goal.region is not None:
            body["region"] = asdict(goal.region)
    elif isinstance(goal, LatentGoal):
        body = {"kind": "latent", "state": np.asarray(goal.state).tolist()}
    else:
        raise UserError(
            f"a goal is an ImageGoal, TextGoal, LabelGoal, LatentGoal or AllGoals; got {type(goal).__name__}"
        )
    if goal.slot_weights is not None:
        body["slot_weights"] = list(goal.slot_weights)
    return body
