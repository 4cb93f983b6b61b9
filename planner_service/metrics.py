"""Prometheus metrics of the service."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.002, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)


class Metrics:
    """The metrics of one application, in its own registry so that one process can hold several applications."""

    def __init__(self, ready: Callable[[], bool], depth: Callable[[], int]) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("hnet_requests", "Answered requests.", ["route", "status"], registry=self.registry)
        self.in_flight = Gauge("hnet_requests_in_flight", "Requests being answered.", registry=self.registry)
        self.plan_seconds = Histogram(
            "hnet_plan_seconds",
            "From the last byte of a plan request to its answer.",
            buckets=SECONDS,
            registry=self.registry,
        )
        self.deadlines_missed = Counter(
            "hnet_deadlines_missed", "Plans answered after their deadline.", registry=self.registry
        )
        self.batch_size = Histogram(
            "hnet_batch_size", "Queries planned together.", buckets=(1, 2, 3, 4, 6, 8, 16, 32), registry=self.registry
        )
        self.batch_seconds = Histogram(
            "hnet_batch_seconds", "Time the planner took for a batch.", buckets=SECONDS, registry=self.registry
        )
        Gauge("hnet_ready", "1 when the service accepts plan requests.", registry=self.registry).set_function(
            lambda: float(ready())
        )
        Gauge("hnet_queue_depth", "Queries in the queue of the planner.", registry=self.registry).set_function(
            lambda: float(depth())
        )

    def batch(self, size: int, seconds: float) -> None:
        """Record one batch."""
        self.batch_size.observe(size)
        self.batch_seconds.observe(seconds)
