"""Which event times are accepted: nobody may push the platform's clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from mlplatform.gateway.problems import Problem

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
SYSTEM_TOLERANCE_MS = 5 * MINUTE_MS
IN_FLIGHT_MS = 15_000
REPLAY_BEHIND_MS = HOUR_MS
REPLAY_AHEAD_MS = 48 * HOUR_MS
REPLAY_ARRIVAL_BEHIND_MS = 7 * 24 * HOUR_MS

ClockMode = Literal["system", "replay"]


class Watermark:
    """The largest event time that was recorded; None before the first record."""

    def __init__(self, event_ms: int | None = None) -> None:
        self.event_ms = event_ms

    def advance(self, event_ms: int) -> None:
        if self.event_ms is None or event_ms > self.event_ms:
            self.event_ms = event_ms


class EventTimes:
    """Refuses event times that are too far from now.

    Args:
        mode: system: within 5 minutes of the clock; replay: from an hour behind the watermark to
            two days ahead of it, anything before the first record.
        now_ms: the event clock; 0 before the first record of a replay.
    """

    def __init__(self, mode: ClockMode, now_ms: Callable[[], int]) -> None:
        self._mode = mode
        self.now_ms = now_ms

    def passed_ms(self) -> int | None:
        """The event time before which no request is accepted any more; None in a replay, whose
        watermark is moved by its records alone."""
        if self._mode == "replay":
            return None
        return self.now_ms() - SYSTEM_TOLERANCE_MS - IN_FLIGHT_MS

    def check(self, event_ms: int) -> None:
        """Raises Problem 422 for the event time of a request that is refused."""
        self._check(event_ms, behind_ms=REPLAY_BEHIND_MS)

    def check_arrival(self, event_ms: int) -> None:
        """Raises Problem 422 for the arrival of a label that is refused.

        A replay may report a few days' labels at a time, after the requests of those days.
        """
        self._check(event_ms, behind_ms=REPLAY_ARRIVAL_BEHIND_MS)

    def _check(self, event_ms: int, *, behind_ms: int) -> None:
        now_ms = self.now_ms()
        low_ms, high_ms = bounds(self._mode, now_ms, behind_ms=behind_ms)
        if low_ms <= event_ms <= high_ms:
            return
        side = "before" if event_ms < now_ms else "after"
        detail = (
            f"event_time is {abs(event_ms - now_ms) / 1000:.0f} s {side} the clock; accepted: "
            f"{(now_ms - low_ms) // 1000} s before to {(high_ms - now_ms) // 1000} s after it"
        )
        raise Problem(422, "event-time", detail, field="event_time")


def bounds(mode: ClockMode, now_ms: int, *, behind_ms: int) -> tuple[int, int]:
    """The first and last event time that is accepted now, both included.

    Args:
        behind_ms: how far behind the watermark a replay may report.
    """
    if mode == "system":
        return now_ms - SYSTEM_TOLERANCE_MS, now_ms + SYSTEM_TOLERANCE_MS
    if now_ms == 0:
        return 0, 2**63 - 1
    return now_ms - behind_ms, now_ms + REPLAY_AHEAD_MS
