"""What the gateway counts about itself; labels are bound once, as a look-up costs most."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from mlplatform.decisions.spilling import Counts
from mlplatform.gateway.decided import Decided
from mlplatform.gateway.log_metrics import LogCollector

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
LATENCY_BUCKETS_S: Final = (
    0.0005, 0.001, 0.0015, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.02, 0.03, 0.04, 0.05,
    0.075, 0.1, 0.25, 1.0,
)  # fmt: skip
COMMIT_BUCKETS: Final = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
BREAKER_VALUES: Final = {"closed": 0, "half_open": 1, "open": 2}


class Metrics:
    """All metrics of one gateway process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)
        self._requests = self._counter(
            "requests", "HTTP requests by operation and status.", "operation", "status"
        )
        self.decisions = self._counter(
            "decisions", "Decisions recorded, by who made them.", "model", "answered_by", "decision"
        )
        self.degraded = self._counter(
            "degraded", "Decisions made without all that should be there.", "model", "reason"
        )
        self.step_failures = self._counter(
            "step_failures", "Predictors that gave no score.", "model", "step", "reason"
        )
        self.reasons_omitted = self._counter(
            "reasons_omitted", "Alerts answered without their reasons.", "model", "reason"
        )
        self.late = self._counter("late", "Answers that were durable after the deadline.", "model")
        self.shadow_dropped = self._counter(
            "shadow_dropped",
            "Shadow copies that were not sent.",
            "model",
            "why",
        )
        self.admission = AdmissionMetrics(
            self._counter(
                "admission", "Requests let in or refused, and why.", "outcome", "priority"
            ),
            self._counter(
                "admission_store_failures", "Times the shared store was late or failed.", "of"
            ),
            self._counter("connections_refused", "Connections ended for a limit.", "reason"),
            self._counter("tokens_refused", "Tokens of the issuer that prove nobody.", "reason"),
            self._counter("issuer_key_fetches", "Fetches of the issuer's keys.", "outcome"),
        )
        self.latency = Histogram(
            "mlplatform_gateway_latency_seconds",
            "From a request's first byte to its durable decision.",
            ("model",),
            buckets=LATENCY_BUCKETS_S,
            registry=self._registry,
        )
        self.commit_records = Histogram(
            "mlplatform_gateway_commit_records",
            "Records in one commit of the decision log.",
            buckets=COMMIT_BUCKETS,
            registry=self._registry,
        )
        self.generation = self._gauge("routes_generation", "Generation of routes applied.", "model")
        self.breaker = self._gauge(
            "breaker_state", "0 closed, 1 half open, 2 open.", "model", "service"
        )
        self._bound: dict[tuple[str, int], Any] = {}

    def watch_log(self, counts: Counts) -> None:
        """Show what becomes of records."""
        self._registry.register(LogCollector(counts))

    def answered(self, operation: str, status: int) -> None:
        """Count an HTTP request."""
        counter = self._bound.get((operation, status))
        if counter is None:
            counter = self._requests.labels(operation, str(status))
            self._bound[operation, status] = counter
        counter.inc()

    def text(self, breakers: Iterable[tuple[str, str, str]]) -> bytes:
        """All of it in Prometheus' text format.

        Args:
            breakers: model, service and state of every arm that the routes name.
        """
        self.breaker.clear()
        for model, service, state in breakers:
            self.breaker.labels(model, service).set(BREAKER_VALUES[state])
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"mlplatform_gateway_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"mlplatform_gateway_{name}", text, labels, registry=self._registry)


class AdmissionMetrics:
    """Who was let in, who was not, and how the shared store did."""

    def __init__(
        self,
        decisions: Counter,
        store_failures: Counter,
        connections: Counter,
        tokens: Counter,
        key_fetches: Counter,
    ) -> None:
        self._decisions = decisions
        self._store_failures = store_failures
        self._connections = connections
        self._tokens = tokens
        self._key_fetches = key_fetches
        self._bound: dict[tuple[str, str], Any] = {}

    def decided(self, outcome: str, priority: str) -> None:
        """Count a request; `priority` is empty for callers that nobody knows."""
        counter = self._bound.get((outcome, priority))
        if counter is None:
            counter = self._decisions.labels(outcome, priority)
            self._bound[outcome, priority] = counter
        counter.inc()

    def store_failed(self, of: str) -> None:
        self._store_failures.labels(of).inc()

    def connection_refused(self, reason: str) -> None:
        self._connections.labels(reason).inc()

    def token_refused(self, reason: str) -> None:
        self._tokens.labels(reason).inc()

    def issuer_keys_fetched(self, succeeded: bool) -> None:
        self._key_fetches.labels("fetched" if succeeded else "failed").inc()


class ModelMetrics:
    """The metrics of one model's decisions."""

    def __init__(self, metrics: Metrics, model: str) -> None:
        self._metrics = metrics
        self._model = model
        self._latency = metrics.latency.labels(model)
        self._late = metrics.late.labels(model)
        self._decisions: dict[tuple[str, str], Any] = {}

    def decided(self, decided: Decided, *, latency_s: float, late: bool) -> None:
        """Count a decision that was recorded."""
        verdict = decided.verdict
        key = (verdict.answered_by, verdict.decision)
        counter = self._decisions.get(key)
        if counter is None:
            counter = self._metrics.decisions.labels(self._model, *key)
            self._decisions[key] = counter
        counter.inc()
        self._latency.observe(latency_s)
        if late:
            self._late.inc()
        if decided.degraded_reason is not None:
            self._metrics.degraded.labels(self._model, decided.degraded_reason).inc()
        if verdict.omitted is not None:
            self._metrics.reasons_omitted.labels(self._model, verdict.omitted).inc()
        for failure in decided.failures:
            self._metrics.step_failures.labels(self._model, failure.step, failure.reason).inc()
