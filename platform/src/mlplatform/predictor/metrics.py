"""What a predictor counts about itself, for one bundle version."""

from __future__ import annotations

from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
LATENCY_BUCKETS_S: Final = (*(100e-6 * 2**doubling for doubling in range(14)), 2.5, 5.0)
BATCH_BUCKETS_ROWS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


class Metrics:
    """Metrics bound to their labels once: a look-up costs more than a count."""

    def __init__(self, service: str) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        labels = ("service",)
        self.requests = Counter(
            "mlplatform_predictor_requests",
            "Inference requests, answered or refused.",
            labels,
            registry=self._registry,
        ).labels(service)
        self._errors = Counter(
            "mlplatform_predictor_errors",
            "Inference requests that were not answered with scores, by HTTP status.",
            (*labels, "status"),
            registry=self._registry,
        )
        self._service = service
        self.latency = Histogram(
            "mlplatform_predictor_latency_seconds",
            "From the first byte of an answered inference request to its answer.",
            labels,
            buckets=LATENCY_BUCKETS_S,
            registry=self._registry,
        ).labels(service)
        self.batch_rows = Histogram(
            "mlplatform_predictor_batch_rows",
            "Rows scored in one call of the model.",
            labels,
            buckets=BATCH_BUCKETS_ROWS,
            registry=self._registry,
        ).labels(service)
        self.ready = Gauge(
            "mlplatform_predictor_ready",
            "1 while the predictor takes inference requests.",
            labels,
            registry=self._registry,
        ).labels(service)

    def error(self, status: int) -> None:
        """Count a request that was not answered with scores."""
        self._errors.labels(self._service, str(status)).inc()

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)
