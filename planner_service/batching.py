"""A worker thread that owns the planner and plans queued requests in batches."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from hnet_vjepa.errors import UserError
from hnet_vjepa.planning.goals.factory import goal_group
from hnet_vjepa.planning.interface import ModelCard, Planner, PlanQuery, PlanResult
from planner_service.problems import ProblemError, unavailable
from planner_service.queries import warm_up_query

log = logging.getLogger(__name__)

RETRY_S = 1.0  # between two attempts with a planner that fails


class State(StrEnum):
    """State of the worker. Queries are accepted in READY only."""

    LOADING = "loading"
    READY = "ready"
    BROKEN = "broken"  # the planner fails on the warm-up query; retried every RETRY_S
    FAILED = "failed"  # loading failed, or the thread ended
    STOPPED = "stopped"


@dataclass(frozen=True)
class Planned:
    """A result and the time that its query was queued, in milliseconds."""

    result: PlanResult
    queue_ms: float


@dataclass(frozen=True)
class _Ticket:
    query: PlanQuery
    future: Future[Planned] = field(default_factory=Future)
    submitted: float = field(default_factory=time.monotonic)


def may_share(first: PlanQuery, other: PlanQuery, now: float) -> bool:
    """Whether two queries may be planned in one batch at the time.monotonic() ``now``.

    The results of a batch are ready at the same time. The queries must therefore be one computation (a planner handles
    different kinds of goals one after the other, so the first would wait for the last) and have similar deadlines:
    none at all, or the time left for one at most twice that of the other plus 10 ms.
    """
    if first.search != other.search or first.cost != other.cost or first.frames.shape != other.frames.shape:
        return False
    if goal_group(first.goal) != goal_group(other.goal):
        return False
    if first.deadline is None or other.deadline is None:
        return first.deadline is other.deadline
    near, far = sorted(max(deadline - now, 0.0) for deadline in (first.deadline, other.deadline))
    return far <= 2 * near + 0.010


class PlannerWorker:
    """A planner in its own thread, behind a bounded queue.

    ``load`` is called in that thread, so that torch is used by one thread only, followed by one warm-up plan.
    ``on_batch(size, seconds)`` is called after each batch. At most ``max_batch`` queries are planned together and
    ``max_queue`` wait; a batch starts without waiting for further queries.
    """

    def __init__(
        self, load: Callable[[], Planner], max_batch: int, max_queue: int, on_batch: Callable[[int, float], None]
    ) -> None:
        self._load = load
        self._max_batch = max_batch
        self._max_queue = max_queue
        self._on_batch = on_batch
        self._changed = threading.Condition()
        self._waiting: deque[_Ticket] = deque()
        self._in_work: list[_Ticket] = []
        self._stopping = threading.Event()
        self._state = State.LOADING
        self._detail = "the model is being loaded"
        self._card: ModelCard | None = None
        self._thread = threading.Thread(target=self._run, name="planner", daemon=True)

    @property
    def state(self) -> tuple[State, str]:
        """The state and a sentence that explains it."""
        return self._state, self._detail

    @property
    def depth(self) -> int:
        """Number of queued queries."""
        with self._changed:
            return sum(not ticket.future.cancelled() for ticket in self._waiting)

    @property
    def card(self) -> ModelCard:
        """Card of the loaded model. Raises ProblemError (503) until it is loaded."""
        if self._card is None:
            raise unavailable(self._detail)
        return self._card

    def start(self) -> None:
        """Start the thread, which loads the model."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Reject queued queries and wait at most ``timeout_s`` seconds for the running batch."""
        self._stopping.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(timeout_s)

    def submit(self, query: PlanQuery) -> Future[Planned]:
        """Queue a query; cancelling the future removes it.

        The future raises UserError for an invalid query and ProblemError for a failure of the server. Raises
        ProblemError (503) at once if the model is not ready or the queue is full.
        """
        ticket = _Ticket(query)
        with self._changed:
            if self._state != State.READY or self._stopping.is_set():
                raise unavailable(self._detail)
            if len(self._waiting) >= self._max_queue:
                self._waiting = deque(waiting for waiting in self._waiting if not waiting.future.cancelled())
            if len(self._waiting) >= self._max_queue:
                raise unavailable(f"the queue is full ({self._max_queue} requests); try again later")
            self._waiting.append(ticket)
            self._changed.notify()
        return ticket.future

    def _run(self) -> None:
        try:
            planner = self._load()
            card = planner.card
            planner.plan([warm_up_query(card)])
            self._card = card
            self._set(State.READY, "ready")
            while batch := self._collect():
                self._in_work = batch
                if not self._answer(planner, batch):
                    self._recover(planner, card)
            self._set(State.STOPPED, "the server is stopping")
        except UserError as error:
            self._set(State.FAILED, str(error))
        except BaseException:  # otherwise clients would wait forever
            log.critical("the planner thread ended", exc_info=True)
            self._set(State.FAILED, "the model could not be loaded or stopped working; see the server's log")
        finally:
            self._refuse_all()

    def _set(self, state: State, detail: str) -> None:
        with self._changed:
            self._state, self._detail = state, detail

    def _refuse_all(self) -> None:
        with self._changed:
            tickets = [*self._in_work, *self._waiting]
            self._waiting.clear()
        for ticket in tickets:
            if not ticket.future.done():
                ticket.future.set_exception(unavailable(self._detail))

    def _collect(self) -> list[_Ticket]:
        """Wait for queries; return the oldest and those that may share its batch. Empty when stopping."""
        with self._changed:
            while True:
                while not self._waiting and not self._stopping.is_set():
                    self._changed.wait()
                if self._stopping.is_set():
                    return []
                batch: list[_Ticket] = []
                rest: deque[_Ticket] = deque()
                now = time.monotonic()
                for ticket in self._waiting:
                    full = len(batch) >= self._max_batch
                    if full or (batch and not may_share(batch[0].query, ticket.query, now)):
                        rest.append(ticket)
                    elif ticket.future.set_running_or_notify_cancel():  # False: the client has disconnected
                        batch.append(ticket)
                self._waiting = rest
                if batch:
                    return batch

    def _answer(self, planner: Planner, batch: list[_Ticket]) -> bool:
        """Set the result of each ticket. Return False if something failed that is not the fault of a query."""
        started = time.monotonic()
        sound = True
        accepted: list[_Ticket] = []
        for ticket in batch:
            try:
                planner.check(ticket.query)
                accepted.append(ticket)
            except UserError as error:
                ticket.future.set_exception(error)
            except Exception:
                sound = False
                _fail(ticket)
        if not accepted:
            return sound
        try:
            results = planner.plan([ticket.query for ticket in accepted])
            if len(results) != len(accepted):
                raise RuntimeError(f"the planner gave {len(results)} results for {len(accepted)} queries")
            self._on_batch(len(accepted), time.monotonic() - started)
        except Exception as error:
            if len(accepted) > 1:  # planned alone, only the query at fault fails
                log.warning("a batch of %d failed; its queries are planned one by one", len(accepted), exc_info=True)
                outcomes = [self._answer(planner, [ticket]) for ticket in accepted]
                return all(outcomes) and sound
            if isinstance(error, UserError):
                accepted[0].future.set_exception(error)
                return sound
            _fail(accepted[0])
            return False
        for ticket, result in zip(accepted, results, strict=True):
            if _usable(result, planner.card):
                ticket.future.set_result(Planned(result, (started - ticket.submitted) * 1e3))
            else:
                sound = False
                log.error("the planner gave a result that is not finite or of the wrong shape: %s", result)
                ticket.future.set_exception(ProblemError(500, "the model gave a plan that is not a number"))
        return sound

    def _recover(self, planner: Planner, card: ModelCard) -> None:
        """Plan the warm-up query until that succeeds: if it fails, too, the planner and not the query was at fault."""
        while True:
            try:
                planner.plan([warm_up_query(card)])
                self._set(State.READY, "ready")
                return
            except Exception:
                if self._state != State.BROKEN:
                    log.critical("the planner fails on the warm-up query too", exc_info=True)
                self._set(State.BROKEN, "the model stopped working; see the server's log")
                self._refuse_all()
            if self._stopping.wait(RETRY_S):
                return


def _fail(ticket: _Ticket) -> None:
    log.exception("planning failed")
    ticket.future.set_exception(ProblemError(500, "planning failed; see the server's log"))


def _usable(result: PlanResult, card: ModelCard) -> bool:
    # A robot would execute the plan, so NaN or a wrong shape must not be sent.
    shaped = result.actions.ndim == 2 and result.actions.shape[1] == card.action.dim
    finite = bool(np.isfinite(result.actions).all() and np.isfinite(result.energies).all())
    return shaped and finite and math.isfinite(result.energy_now)
