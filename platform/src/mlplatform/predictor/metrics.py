"""What a predictor counts about itself, for one bundle version."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from mlplatform.predictor.model import Model

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
LATENCY_BUCKETS_S: Final = (*(100e-6 * 2**doubling for doubling in range(14)), 2.5, 5.0)
Protocol = Literal["rest", "grpc"]
BATCH_BUCKETS_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


class Metrics:
    """Metrics bound to their labels once: a look-up costs more than a count."""

    def __init__(self, service: str) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        labels = ("service",)
        by_protocol = (*labels, "protocol")
        requests = Counter(
            "mlplatform_predictor_requests",
            "Inference requests, answered or refused.",
            by_protocol,
            registry=self._registry,
        )
        self._errors = Counter(
            "mlplatform_predictor_errors",
            "Inference requests that were not answered with scores, by HTTP status.",
            (*by_protocol, "status"),
            registry=self._registry,
        )
        latency = Histogram(
            "mlplatform_predictor_latency_seconds",
            "From the headers of an answered inference request to its answer.",
            by_protocol,
            buckets=LATENCY_BUCKETS_S,
            registry=self._registry,
        )
        self.rest_requests = requests.labels(service, "rest")
        self.rest_latency = latency.labels(service, "rest")
        self.grpc_requests = requests.labels(service, "grpc")
        self.grpc_latency = latency.labels(service, "grpc")
        self.batch = (
            Histogram(
                "mlplatform_predictor_batch_rows",
                "Rows scored in one call of the model.",
                labels,
                buckets=BATCH_BUCKETS_ROWS,
                registry=self._registry,
            )
            .labels(service)
            .observe
        )
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
        self._errors.labels(self._service, protocol, str(status)).inc()

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
