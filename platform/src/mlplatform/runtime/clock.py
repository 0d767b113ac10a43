"""What time it is: wall time for latency and leases, event time for everything about requests."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Two clocks in one: flows and the gateway never read time from anywhere else."""

    def event_ms(self) -> int:
        """Now in event time, epoch milliseconds (UTC)."""
        ...

    def wall_ms(self) -> int:
        """Now in wall time, epoch milliseconds (UTC)."""
        ...


class SystemClock:
    """Event time is wall time: live traffic."""

    def event_ms(self) -> int:
        return self.wall_ms()

    def wall_ms(self) -> int:
        return time.time_ns() // 1_000_000


class ReplayClock(SystemClock):
    """Event time is the latest event that the decision log holds: recorded traffic played fast.

    Args:
        watermark: returns the largest event time in the log, or None while it is empty.
        start_ms: event time before the first record.
    """

    def __init__(self, watermark: Callable[[], int | None], start_ms: int = 0) -> None:
        self._watermark = watermark
        self._start_ms = start_ms

    def event_ms(self) -> int:
        return max(self._watermark() or 0, self._start_ms)
