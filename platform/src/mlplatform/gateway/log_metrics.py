"""What became of the records of this gateway, as metrics: read when asked for, free otherwise."""

from __future__ import annotations

from collections.abc import Iterable

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from mlplatform.decisions.spilling import Counts

_COUNTERS = {
    "accepted": "Records whose answer could be given: written, spilled or declared unlogged.",
    "recovered": "Spilled records taken over from a process that ended.",
    "written": "Records in the decision log, at once or by catching up.",
    "spilled": "Records that went into the spill first.",
    "unlogged": "Answers given without a record, as their model declares.",
    "refused": "Records that went nowhere, whose answer was not given.",
    "repeated": "Records not written because their key was answered before.",
    "conflicts": "Spilled decisions whose key the log had answered otherwise; they are voided.",
}
_GAUGES = {
    "waiting": "Records in the spill now: accepted + recovered = written + waiting + unlogged.",
    "waiting_bytes": "Size of the records in the spill now.",
}


class LogCollector(Collector):
    """`mlplatform_log_*`, from the counts of a SpillingLog."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def collect(self) -> Iterable[Metric]:
        for name, text in _COUNTERS.items():
            value = getattr(self._counts, name)
            yield CounterMetricFamily(f"mlplatform_log_{name}", text, value=value)
        for name, text in _GAUGES.items():
            yield GaugeMetricFamily(f"mlplatform_log_{name}", text, getattr(self._counts, name))
