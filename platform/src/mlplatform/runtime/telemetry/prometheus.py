"""Prometheus metrics, as signals.py declares them: the only way to make one."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
)
from prometheus_client.metrics_core import Metric as Family
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector
from prometheus_client.samples import Exemplar

from mlplatform.runtime.telemetry.signals import Metric

CONTENT_TYPE: Final = b"text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_TYPE: Final = b"application/openmetrics-text; version=1.0.0; charset=utf-8"

__all__ = [
    "Collector",
    "Counter",
    "Family",
    "Gauge",
    "Histogram",
    "HistogramFamily",
    "MetricRegistry",
]

HistogramFamily = HistogramMetricFamily


# A creation time for every series would be another series, which nothing here reads.
disable_created_metrics()  # type: ignore[no-untyped-call]


class MetricRegistry:
    """The metrics of one process. Counting code binds labels once, because a look-up costs most."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)

    def counter(self, metric: Metric) -> Counter:
        _check(metric, "counter")
        return Counter(metric.name, metric.meaning, metric.label_names, registry=self._registry)

    def gauge(self, metric: Metric) -> Gauge:
        _check(metric, "gauge")
        return Gauge(metric.name, metric.meaning, metric.label_names, registry=self._registry)

    def histogram(self, metric: Metric) -> Histogram:
        _check(metric, "histogram")
        return Histogram(
            metric.name,
            metric.meaning,
            metric.label_names,
            buckets=metric.buckets,
            registry=self._registry,
        )

    def register(self, collector: Collector) -> None:
        self._registry.register(collector)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format, which has no exemplars."""
        return generate_latest(self._registry)

    def open_text(self) -> bytes:
        """All metrics in OpenMetrics' text format, with the exemplars that lead to traces."""
        return openmetrics.generate_latest(self._registry)  # type: ignore[no-any-return, no-untyped-call]


def counter_family(
    metric: Metric, samples: Sequence[tuple[Sequence[str], float]]
) -> CounterMetricFamily:
    """A counter that is counted elsewhere: values by labels."""
    _check(metric, "counter")
    family = CounterMetricFamily(metric.name, metric.meaning, labels=metric.label_names)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def exemplar(value: float, trace_id: str, wall_s: float) -> Exemplar:
    """An exemplar: an observed value with its trace."""
    return Exemplar({"trace_id": trace_id}, value, wall_s)


def wants_openmetrics(accept: bytes) -> bool:
    """Whether a client with this Accept header accepts OpenMetrics."""
    return b"application/openmetrics-text" in accept


def gauge_value(metric: Metric, value: float | None) -> GaugeMetricFamily:
    """A gauge without labels that is kept elsewhere; None if it has no value now."""
    _check(metric, "gauge")
    return GaugeMetricFamily(metric.name, metric.meaning, value)


def gauge_family(
    metric: Metric, samples: Iterable[tuple[Sequence[str], float]]
) -> GaugeMetricFamily:
    """A gauge that is kept elsewhere: values by labels."""
    _check(metric, "gauge")
    family = GaugeMetricFamily(metric.name, metric.meaning, labels=metric.label_names)
    for labels, value in samples:
        family.add_metric(labels, value)
    return family


def histogram_family(metric: Metric) -> HistogramMetricFamily:
    """An empty histogram that is filled elsewhere."""
    _check(metric, "histogram")
    return HistogramMetricFamily(metric.name, metric.meaning, labels=metric.label_names)


def _check(metric: Metric, kind: str) -> None:
    if metric.kind != kind:
        raise TypeError(f"{metric.name} is a {metric.kind}, not a {kind}")
