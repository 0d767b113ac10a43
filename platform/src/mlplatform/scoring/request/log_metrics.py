"""Metrics of what became of this gateway's records, read when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from mlplatform.decisions.spill.writer import Counts
from mlplatform.learning.features.windows.projector import Lag
from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.prometheus import (
    Collector,
    Family,
    counter_family,
    gauge_family,
    gauge_value,
)


class LogCollector(Collector):
    """`mlplatform_log_*`, from the counts of a SpillingLog."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def collect(self) -> Iterable[Family]:
        for name, metric in signals.LOG_COUNTS.items():
            value = getattr(self._counts, name)
            if metric.kind == "counter":
                yield counter_family(metric, [((), value)])
            else:
                yield gauge_value(metric, value)


class KeyClaimsCollector(Collector):
    """`mlplatform_gateway_key_claims_waiting`: 0 without a store that gateways share."""

    def __init__(self) -> None:
        self._waiting: Callable[[], int] = lambda: 0

    def watch(self, waiting: Callable[[], int]) -> None:
        """Show this from now on."""
        self._waiting = waiting

    def collect(self) -> Iterable[Family]:
        yield gauge_value(signals.KEY_CLAIMS_WAITING, self._waiting())


class WindowsCollector(Collector):
    """`mlplatform_windows_*`, from a projector's counts; empty without a projector."""

    def __init__(self) -> None:
        self._wall_ms: Callable[[], int] = lambda: 0
        self._lags: Callable[[int], Mapping[tuple[str, str], Lag]] = lambda now_ms: {}

    def watch(
        self, lags: Callable[[int], Mapping[tuple[str, str], Lag]], wall_ms: Callable[[], int]
    ) -> None:
        """Show these from now on."""
        self._lags, self._wall_ms = lags, wall_ms

    def collect(self) -> Iterable[Family]:
        now_ms = self._wall_ms()
        lags = self._lags(now_ms)
        yield gauge_family(signals.WINDOWS_LACK, [(of, lag.records) for of, lag in lags.items()])
        behind = [(of, lag.behind_s(now_ms)) for of, lag in lags.items()]
        yield gauge_family(signals.WINDOWS_BEHIND, behind)
