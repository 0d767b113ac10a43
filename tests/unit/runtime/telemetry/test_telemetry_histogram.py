"""Our own histogram says what prometheus_client's would."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from mlplatform.runtime.telemetry.histogram import BucketCounts, add_to
from mlplatform.scoring.predictor.metrics import LATENCY_BUCKETS_S


class Ours(Collector):
    def __init__(self, writers: list[BucketCounts]) -> None:
        self._writers = writers

    def collect(self) -> Iterator[Metric]:
        family = HistogramMetricFamily("x", "X.", labels=("service",))
        add_to(family, ("m",), LATENCY_BUCKETS_S, self._writers)
        yield family


@settings(deadline=None)
@given(values=st.lists(st.sampled_from([0.0, *LATENCY_BUCKETS_S, 1e-3, 99.0])))
def test_the_text_is_the_one_that_prometheus_client_would_write(values: list[float]) -> None:
    theirs, ours = CollectorRegistry(), CollectorRegistry()
    reference = Histogram("x", "X.", ("service",), buckets=LATENCY_BUCKETS_S, registry=theirs)
    writers = [BucketCounts(LATENCY_BUCKETS_S), BucketCounts(LATENCY_BUCKETS_S)]
    ours.register(Ours(writers))

    bound = reference.labels("m")
    for i, value in enumerate(values):
        bound.observe(value)
        writers[i % 2].observe(value)

    def counts(text: bytes) -> list[str]:
        lines = text.decode().splitlines()
        return [line for line in lines if not line.startswith(("#", "x_created", "x_sum"))]

    assert counts(generate_latest(theirs)) == counts(generate_latest(ours))
    assert abs(sum(w.total for w in writers) - sum(values)) < 1e-9
