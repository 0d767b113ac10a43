"""The time: wall time for latency and leases, event time for everything about requests."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Protocol

from mlplatform.runtime.units import MINUTE_MS

LAST_MS: Final = 253_402_300_799_999
"""The end of the year 9999, after which Python has no dates, in epoch milliseconds."""
SYSTEM_TOLERANCE_MS: Final = 5 * MINUTE_MS
"""Most milliseconds by which the event time of a live request may differ from its arrival."""


class Clock(Protocol):
    """A clock of event time and wall time. Flows and the gateway read the time from nowhere
    else."""

    def event_ms(self) -> int:
        """The present event time in epoch milliseconds (UTC)."""
        ...

    def wall_ms(self) -> int:
        """The present wall time in epoch milliseconds (UTC)."""
        ...


class SystemClock:
    """A clock for live traffic: event time is wall time."""

    def event_ms(self) -> int:
        return self.wall_ms()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class ReplayClock(SystemClock):
    """A clock for recorded traffic that is played fast: event time is that of the latest event in
    the decision log.

    Args:
        watermark: returns the largest event time in the log, epoch milliseconds; None while it is
            empty.
        start_ms: event time before the first record.
    """

    def __init__(self, watermark: Callable[[], int | None], start_ms: int = 0) -> None:
        self._watermark = watermark
        self._start_ms = start_ms

    def event_ms(self) -> int:
        return max(self._watermark() or 0, self._start_ms)
