"""What became of the records of this gateway, as metrics: read when asked for, free otherwise."""

from __future__ import annotations

from collections.abc import Iterable

from mlplatform.decisions.spill.writer import Counts
from mlplatform.runtime.telemetry import signals
from mlplatform.runtime.telemetry.prometheus import Collector, Family, counted, shown


class LogCollector(Collector):
    """`mlplatform_log_*`, from the counts of a SpillingLog."""

    def __init__(self, counts: Counts) -> None:
        self._counts = counts

    def collect(self) -> Iterable[Family]:
        for name, metric in signals.LOG_COUNTS.items():
            value = getattr(self._counts, name)
            if metric.kind == "counter":
                yield counted(metric, [((), value)])
            else:
                yield shown(metric, value)
