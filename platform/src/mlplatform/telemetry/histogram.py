"""Counting into buckets in a fraction of a microsecond, read out as a Prometheus histogram."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

from mlplatform.telemetry.prometheus import Collector, Family, HistogramFamily, observed
from mlplatform.telemetry.signals import Metric


class Buckets:
    """The counts of one writer thread.

    Without a lock, and a third of the cost of prometheus_client's histogram: three observations a
    request would otherwise be a tenth of all that a request costs beside its model.
    """

    __slots__ = ("_bounds", "counts", "total")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self.counts = [0] * (len(self._bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        """Count a value, in the first bucket whose bound it does not exceed."""
        self.counts[bisect_left(self._bounds, value)] += 1
        self.total += value


def add_to(
    family: HistogramFamily,
    labels: Sequence[str],
    bounds: Sequence[float],
    writers: Sequence[Buckets],
) -> None:
    """Put what all the writers counted into a metric family."""
    running = 0
    cumulated: list[tuple[str, float]] = []
    for i, bound in enumerate((*bounds, float("inf"))):
        running += sum(writer.counts[i] for writer in writers)
        cumulated.append(("+Inf" if bound == float("inf") else repr(float(bound)), running))
    family.add_metric(labels, cumulated, sum_value=sum(writer.total for writer in writers))


class Histograms(Collector):
    """One metric by labels, all of it counted by one thread."""

    def __init__(self, metric: Metric) -> None:
        self._metric = metric
        self._by_labels: dict[tuple[str, ...], Buckets] = {}

    def of(self, *labels: str) -> Buckets:
        """The buckets under these labels, to be kept by who counts."""
        return self._by_labels.setdefault(labels, Buckets(self._metric.buckets))

    def collect(self) -> Iterable[Family]:
        family = observed(self._metric)
        for labels, buckets in self._by_labels.items():
            add_to(family, labels, self._metric.buckets, [buckets])
        yield family
