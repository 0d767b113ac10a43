"""What the gateway counts about itself; labels are bound once, as a look-up costs most."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from mlplatform.decisions.spilling import Counts
from mlplatform.gateway.decided import Decided
from mlplatform.gateway.log_metrics import LogCollector
from mlplatform.telemetry import signals
from mlplatform.telemetry.prometheus import CONTENT_TYPE, Registry

__all__ = ["CONTENT_TYPE", "AdmissionMetrics", "Metrics", "ModelMetrics"]

BREAKER_VALUES: Final = {"closed": 0, "half_open": 1, "open": 2}


class Metrics:
    """All metrics of one gateway process."""

    def __init__(self) -> None:
        self._registry = Registry()
        counter = self._registry.counter
        self._requests = counter(signals.REQUESTS)
        self.decisions = counter(signals.DECISIONS)
        self.degraded = counter(signals.DEGRADED)
        self.step_failures = counter(signals.STEP_FAILURES)
        self.reasons_omitted = counter(signals.REASONS_OMITTED)
        self.late = counter(signals.LATE)
        self.shadow_dropped = counter(signals.SHADOW_DROPPED)
        self.admission = AdmissionMetrics(self._registry)
        self.traces = counter(signals.TRACES)
        self.latency = self._registry.histogram(signals.LATENCY)
        self.commit_records = self._registry.histogram(signals.COMMIT_RECORDS)
        self.generation = self._registry.gauge(signals.GENERATION)
        self.breaker = self._registry.gauge(signals.BREAKER)
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
        return self._registry.text()


class AdmissionMetrics:
    """Who was let in, who was not, and how the shared store did."""

    def __init__(self, registry: Registry) -> None:
        self._decisions = registry.counter(signals.ADMISSION)
        self._store_failures = registry.counter(signals.STORE_FAILURES)
        self._connections = registry.counter(signals.CONNECTIONS_REFUSED)
        self._tokens = registry.counter(signals.TOKENS_REFUSED)
        self._key_fetches = registry.counter(signals.KEY_FETCHES)
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
