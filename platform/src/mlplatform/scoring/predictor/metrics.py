"""The metrics of a predictor, for one bundle version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Literal

from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.histogram import BucketCounts, add_to
from mlplatform.runtime.telemetry.prometheus import (
    CONTENT_TYPE,
    Collector,
    Family,
    MetricRegistry,
    counter_family,
    histogram_family,
)
from mlplatform.scoring.predictor.model import Model

__all__ = ["CONTENT_TYPE", "Metrics"]

LATENCY_BUCKETS_S: Final = signals.PREDICTOR_LATENCY.buckets
Protocol = Literal["rest", "grpc"]
BATCH_BUCKETS_ROWS: Final = signals.PREDICTOR_BATCH.buckets


class Metrics(Collector):
    """Metrics whose labels are bound once, because a look-up costs more than a count."""

    def __init__(self, service: str) -> None:
        self._registry = MetricRegistry()
        self._errors = self._registry.counter(signals.PREDICTOR_ERRORS)
        self._refused: dict[Protocol, int] = {"rest": 0, "grpc": 0}
        self._latency: dict[Protocol, BucketCounts] = {
            "rest": BucketCounts(LATENCY_BUCKETS_S),
            "grpc": BucketCounts(LATENCY_BUCKETS_S),
        }
        self.rest_answered_s = self._latency["rest"].observe
        self.grpc_answered_s = self._latency["grpc"].observe
        self._loop_batches = BucketCounts(BATCH_BUCKETS_ROWS)
        self._thread_batches = BucketCounts(BATCH_BUCKETS_ROWS)
        self.loop_batch = self._loop_batches.observe
        self.thread_batch = self._thread_batches.observe
        self.ready = self._registry.gauge(signals.PREDICTOR_READY).labels(service)
        self._depth = self._registry.gauge(signals.PREDICTOR_DEPTH).labels(service)
        self._warm_up = self._registry.gauge(signals.PREDICTOR_WARM_UP)
        self._service = service
        self._registry.register(self)

    def collect(self) -> Iterator[Family]:
        """The metrics that are counted without prometheus_client, for its registry."""
        requests = []
        latency = histogram_family(signals.PREDICTOR_LATENCY)
        for protocol, buckets in self._latency.items():
            labels = (self._service, protocol)
            requests.append((labels, sum(buckets.counts) + self._refused[protocol]))
            add_to(latency, labels, LATENCY_BUCKETS_S, [buckets])
        batches = histogram_family(signals.PREDICTOR_BATCH)
        writers = [self._loop_batches, self._thread_batches]
        add_to(batches, (self._service,), BATCH_BUCKETS_ROWS, writers)
        yield from (counter_family(signals.PREDICTOR_REQUESTS, requests), latency, batches)

    def on_loaded(self, model: Model, depth: Callable[[], float]) -> None:
        """Start counting for a model, with the depth of its queue."""
        for timing in model.timings:
            self._warm_up.labels(
                self._service, str(timing.rows), model.mode, model.accelerator
            ).set(timing.call_s)
        self._depth.set_function(depth)
        self.ready.set(1)

    def error(self, protocol: Protocol, status: int) -> None:
        """Count a request that was not answered with scores."""
        self._refused[protocol] += 1
        self._errors.labels(self._service, protocol, str(status)).inc()

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return self._registry.text()
