"""What a predictor counts about itself, for one bundle version."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mlplatform.predictor.histogram import Buckets, add_to
from mlplatform.predictor.model import Model

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
LATENCY_BUCKETS_S: Final = (*(100e-6 * 2**doubling for doubling in range(14)), 2.5, 5.0)
Protocol = Literal["rest", "grpc"]
BATCH_BUCKETS_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


class Metrics(Collector):
    """Metrics bound to their labels once: a look-up costs more than a count."""

    def __init__(self, service: str) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        labels = ("service",)
        self._errors = Counter(
            "mlplatform_predictor_errors",
            "Inference requests that were not answered with scores, by HTTP status.",
            (*labels, "protocol", "status"),
            registry=self._registry,
        )
        self._refused: dict[Protocol, int] = {"rest": 0, "grpc": 0}
        self._latency: dict[Protocol, Buckets] = {
            "rest": Buckets(LATENCY_BUCKETS_S),
            "grpc": Buckets(LATENCY_BUCKETS_S),
        }
        self.rest_answered_s = self._latency["rest"].observe
        self.grpc_answered_s = self._latency["grpc"].observe
        self._loop_batches = Buckets(BATCH_BUCKETS_ROWS)
        self._thread_batches = Buckets(BATCH_BUCKETS_ROWS)
        self.loop_batch = self._loop_batches.observe
        self.thread_batch = self._thread_batches.observe
        self.ready = Gauge(
            "mlplatform_predictor_ready",
            "1 while the predictor takes inference requests.",
            labels,
            registry=self._registry,
        ).labels(service)
        self._depth = Gauge(
            "mlplatform_predictor_queue_depth",
            "Requests that wait for the model.",
            labels,
            registry=self._registry,
        ).labels(service)
        self._warm_up = Gauge(
            "mlplatform_predictor_warm_up_seconds",
            "The model's call at warm-up, by rows, where it runs and on which accelerator.",
            (*labels, "rows", "mode", "accelerator"),
            registry=self._registry,
        )
        self._service = service
        self._registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """What is counted without prometheus_client, for its registry."""
        requests = CounterMetricFamily(
            "mlplatform_predictor_requests",
            "Inference requests, answered or refused.",
            labels=("service", "protocol"),
        )
        latency = HistogramMetricFamily(
            "mlplatform_predictor_latency_seconds",
            "From the headers of an answered inference request to its answer.",
            labels=("service", "protocol"),
        )
        for protocol, buckets in self._latency.items():
            labels = (self._service, protocol)
            requests.add_metric(labels, sum(buckets.counts) + self._refused[protocol])
            add_to(latency, labels, LATENCY_BUCKETS_S, [buckets])
        batches = HistogramMetricFamily(
            "mlplatform_predictor_batch_rows",
            "Rows scored in one call of the model.",
            labels=("service",),
        )
        writers = [self._loop_batches, self._thread_batches]
        add_to(batches, (self._service,), BATCH_BUCKETS_ROWS, writers)
        yield from (requests, latency, batches)

    def loaded(self, model: Model, depth: Callable[[], float]) -> None:
        """From now on there is a model, and a queue with a depth."""
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
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
