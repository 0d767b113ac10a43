"""The gateway's metrics about itself; labels are bound once, because a look-up costs most."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any, Final, NamedTuple

from mlplatform.decisions.records.record import NAMED
from mlplatform.decisions.spill.writer import Counts
from mlplatform.learning.features.policy import Gaps
from mlplatform.learning.features.windows.projector import Lag
from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.histogram import Histograms
from mlplatform.runtime.telemetry.kernel_clock import ClockCollector
from mlplatform.runtime.telemetry.prometheus import MetricRegistry
from mlplatform.scoring.arms.freshness import Freshness
from mlplatform.scoring.request.decision import DecidedRequest
from mlplatform.scoring.request.log_metrics import (
    KeyClaimsCollector,
    LogCollector,
    WindowsCollector,
)

__all__ = ["AdmissionMetrics", "Metrics", "ModelMetrics"]

NONE: Final[Mapping[str, Freshness]] = {}


class RoutedArm(NamedTuple):
    """An arm of the present routes."""

    model: str
    service: str
    breaker: str
    is_stopped: bool


BREAKER_VALUES: Final = {"closed": 0, "half_open": 1, "open": 2}


class Metrics:
    """All metrics of one gateway process.

    Args:
        models: names of the installation's models; other names in requests are counted as no model.
    """

    def __init__(self, models: Iterable[str] = ()) -> None:
        self._registry = MetricRegistry()
        self._registry.register(ClockCollector())
        self._windows = WindowsCollector()
        self._registry.register(self._windows)
        self._key_claims = KeyClaimsCollector()
        self._registry.register(self._key_claims)
        self._models = {model: model for model in models}
        counter = self._registry.counter
        self._requests = counter(signals.REQUESTS)
        self.decisions = counter(signals.DECISIONS)
        self.degraded = counter(signals.DEGRADED)
        self.step_failures = counter(signals.STEP_FAILURES)
        self.reasons_omitted = counter(signals.REASONS_OMITTED)
        self.late = counter(signals.LATE)
        self.shadow_dropped = counter(signals.SHADOW_DROPPED)
        self.admission = AdmissionMetrics(self._registry)
        self.key_claims = counter(signals.KEY_CLAIMS)
        self.traces = counter(signals.TRACES)
        self.latency = Histograms(signals.LATENCY)
        self.commit_records = self._registry.histogram(signals.COMMIT_RECORDS)
        self.generation = self._registry.gauge(signals.GENERATION)
        self.breaker = self._registry.gauge(signals.BREAKER)
        self.volume_stopped = self._registry.gauge(signals.VOLUME_STOPPED)
        self.stale_share = self._registry.gauge(signals.FEATURES_STALE_SHARE)
        self.view_age = self._registry.gauge(signals.VIEW_AGE)
        self.folder_unread = self._registry.gauge(signals.FOLDER_UNREAD)
        self._unread: Callable[[], Collection[str]] = tuple
        self._bound: dict[tuple[str, int, str], Any] = {}
        self.scores = Histograms(signals.SCORE)
        self.feature_ages = Histograms(signals.FEATURE_AGE)
        self.features_missing = counter(signals.FEATURES_MISSING)
        for histograms in (self.latency, self.scores, self.feature_ages):
            self._registry.register(histograms)

    def know(self, models: Iterable[str]) -> None:
        """Count requests for these models by their names too, from now on."""
        self._models |= {model: model for model in models}

    def show_trace(self, model: str, latency_s: float, trace_id: str) -> None:
        """Note the trace of a latency that was counted."""
        self.latency.of(model).show(latency_s, trace_id, time.time())

    def watch_folders(self, unread: Callable[[], Collection[str]]) -> None:
        """Show the models whose folders are not what is served."""
        self._unread = unread

    def watch_log(self, counts: Counts) -> None:
        """Show the counts of what became of records."""
        self._registry.register(LogCollector(counts))

    def watch_key_claims(self, waiting: Callable[[], int]) -> None:
        """Show how many keys wait for their store."""
        self._key_claims.watch(waiting)

    def watch_windows(
        self, lags: Callable[[int], Mapping[tuple[str, str], Lag]], wall_ms: Callable[[], int]
    ) -> None:
        """Show how far windows on a server are behind."""
        self._windows.watch(lags, wall_ms)

    def count_answer(self, operation: str, status: int, model: str | None) -> None:
        """Count an HTTP request or a gRPC call.

        Args:
            model: the model's name in the request; None if the operation concerns no model.
        """
        key = (operation, status, "" if model is None else self._models.get(model, ""))
        counter = self._bound.get(key)
        if counter is None:
            counter = self._requests.labels(operation, str(status), key[2])
            self._bound[key] = counter
        counter.inc()

    def text(self, arms: Iterable[RoutedArm], fresh: Mapping[str, Freshness] = NONE) -> bytes:
        """All metrics in Prometheus' text format.

        Args:
            arms: the arms in the present routes.
            fresh: model → freshness of its features.
        """
        self._show(arms, fresh)
        return self._registry.text()

    def open_text(self, arms: Iterable[RoutedArm], fresh: Mapping[str, Freshness] = NONE) -> bytes:
        """The `text` in OpenMetrics' format, with exemplars."""
        self._show(arms, fresh)
        return self._registry.open_text()

    def _show(self, arms: Iterable[RoutedArm], fresh: Mapping[str, Freshness]) -> None:
        self.breaker.clear()
        self.volume_stopped.clear()
        for arm in arms:
            self.breaker.labels(arm.model, arm.service).set(BREAKER_VALUES[arm.breaker])
            self.volume_stopped.labels(arm.model, arm.service).set(float(arm.is_stopped))
        unread = self._unread()
        self.folder_unread.clear()
        for model in {*self._models, *unread}:
            self.folder_unread.labels(model).set(float(model in unread))
        self.view_age.clear()
        for model, freshness in fresh.items():
            self.stale_share.labels(model).set(freshness.decisions.share() or 0.0)
            for view, share in freshness.ages().items():
                self.view_age.labels(model, view).set(share)


class AdmissionMetrics:
    """Metrics of admission: requests admitted and refused, and the answers of the shared store."""

    def __init__(self, registry: MetricRegistry) -> None:
        self._decisions = registry.counter(signals.ADMISSION)
        self._store_failures = registry.counter(signals.STORE_FAILURES)
        self._connections = registry.counter(signals.CONNECTIONS_REFUSED)
        self._tokens = registry.counter(signals.TOKENS_REFUSED)
        self._key_fetches = registry.counter(signals.KEY_FETCHES)
        self._bound: dict[tuple[str, str], Any] = {}

    def count_request(self, outcome: str, priority: str) -> None:
        """Count a request; `priority` is empty for unknown callers."""
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

    def __init__(self, metrics: Metrics, model: str, alerts: Collection[str]) -> None:
        """Args: alerts: the outcomes of the model that are alerts."""
        self._metrics = metrics
        self._alerts = alerts
        self._model = model
        self._observe_s = metrics.latency.of(model).observe
        self._late = metrics.late.labels(model)
        self._decisions: dict[tuple[str, str], Any] = {}
        self._scores = {arm: metrics.scores.of(model, arm).observe for arm in signals.ARM.values}
        self._scores[NAMED] = _ignore  # callers chose these requests
        self._ages: dict[str, Callable[[float], None]] = {}

    def count_decision(self, decided: DecidedRequest, *, latency_s: float, late: bool) -> None:
        """Count a decision that was recorded."""
        verdict = decided.verdict
        key = (verdict.answered_by, verdict.decision)
        counter = self._decisions.get(key)
        if counter is None:
            is_alert = str(verdict.decision in self._alerts).lower()
            counter = self._metrics.decisions.labels(self._model, *key, is_alert)
            self._decisions[key] = counter
        counter.inc()
        self._observe_s(latency_s)
        if late:
            self._late.inc()
        routed = decided.routed
        if decided.degraded_reason is not None:
            self._metrics.degraded.labels(self._model, decided.degraded_reason).inc()
        elif verdict.score is not None:
            self._scores[routed.assignment.arm](verdict.score)
        self._observe_ages(routed.facts.event_ms, routed.facts.features.times)
        if routed.gaps.features:
            self._count_missing(routed.gaps)
        if verdict.omitted is not None:
            self._metrics.reasons_omitted.labels(self._model, verdict.omitted).inc()
        for failure in decided.failures:
            self._metrics.step_failures.labels(self._model, failure.step, failure.reason).inc()

    def _observe_ages(self, event_ms: int, times: Mapping[str, int | None]) -> None:
        for view, time_ms in times.items():
            if time_ms is not None:
                observe = self._ages.get(view)
                if observe is None:
                    observe = self._metrics.feature_ages.of(self._model, view).observe
                    self._ages[view] = observe
                # a late request may read features that are newer than it
                observe(max(event_ms - time_ms, 0) / 1000)

    def _count_missing(self, gaps: Gaps) -> None:
        for feature, (cause, _) in gaps.features.items():
            self._metrics.features_missing.labels(self._model, feature, cause).inc()


def _ignore(value: float) -> None:
    """Count a score nowhere."""
