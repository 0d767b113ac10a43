"""Accepted event times: no request may move the platform's event clock far."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager

from mlplatform.runtime.clock import SYSTEM_TOLERANCE_MS
from mlplatform.runtime.configuration.kinds import ClockMode
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.times import duration_text, rfc3339_text, text_of_any
from mlplatform.runtime.units import DAY_MS, HOUR_MS

IN_FLIGHT_MS = 15_000
LEAST_MS = 100_000_000_000
"""Least event time in milliseconds, in 1973. A count of seconds since 1970 stays below it for
thousands of years."""
SETTLED_S = 2.0
"""Seconds after which, in a replay, everything sent has arrived."""
OF_NOW = (
    "send the time at which the request is made; `mlplatform batch` scores past ones as a table"
)
REPLAY_BEHIND_MS = HOUR_MS
REPLAY_AHEAD_MS = 48 * HOUR_MS
REPLAY_ARRIVAL_BEHIND_MS = 7 * DAY_MS


class EventTimes:
    """Refuses event times that are too far from now.

    Args:
        mode: `system` accepts times within 5 minutes of the clock; `replay` accepts an hour before
            the watermark (7 days for a label's arrival) to two days after it, and any time before
            the first record.
        now_ms: returns the platform's event time; 0 before the first record of a replay.
    """

    def __init__(
        self,
        mode: ClockMode,
        now_ms: Callable[[], int],
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._mode = mode
        self.now_ms = now_ms
        self._monotonic_s = monotonic_s
        self._answering: dict[int, int] = {}
        self._seen: deque[tuple[float, int]] = deque()

    def answering(self, event_ms: int) -> AbstractContextManager[None]:
        """A context from a request's arrival until its record is durable."""
        return _NOTHING if self._mode == "system" else _AnswerInProgress(self._answering, event_ms)

    def passed_ms(self) -> int | None:
        """The event time before which this process has no request left to record; None if unknown.

        Live traffic can't be older than its tolerance. A replay sends its requests in order, to
        whichever gateway. So this process has passed what the platform had reached a while ago,
        unless it still answers an older request. Otherwise a gateway without traffic would delay
        every judgement of what the others record.
        """
        if self._mode == "system":
            return self.now_ms() - SYSTEM_TOLERANCE_MS - IN_FLIGHT_MS
        settled_ms = self._settled_ms()
        if settled_ms is None:
            return None
        return min([settled_ms, *self._answering.copy().values()])

    def _settled_ms(self) -> int | None:
        now_s = self._monotonic_s()
        self._seen.append((now_s, self.now_ms()))
        while len(self._seen) > 1 and self._seen[1][0] <= now_s - SETTLED_S:
            self._seen.popleft()
        seen_s, event_ms = self._seen[0]
        return event_ms if event_ms > 0 and seen_s <= now_s - SETTLED_S else None

    def check(self, event_ms: int) -> None:
        """Raises Problem 422 for a request whose event time is too far from now."""
        self._check(event_ms, REPLAY_BEHIND_MS, OF_NOW)

    def check_arrival(self, event_ms: int) -> None:
        """Raises Problem 422 for a label whose arrival is too far from now.

        A replay may report a few days' labels at a time, after the requests of those days.
        """
        self._check(event_ms, REPLAY_ARRIVAL_BEHIND_MS, "leave it out for a label of now")

    def _check(self, event_ms: int, behind_ms: int, remedy: str) -> None:
        now_ms = self.now_ms()
        low_ms, high_ms = bounds(self._mode, now_ms, behind_ms=behind_ms)
        if low_ms <= event_ms <= high_ms:
            return
        side = "before" if event_ms < now_ms else "after"
        value, low, high = (text_of_any(ms, rfc3339_text) for ms in (event_ms, low_ms, high_ms))
        if 0 < event_ms < LEAST_MS:
            remedy = "event_time counts milliseconds since 1970: multiply seconds by 1000"
        detail = (
            f"event_time is {value}, {duration_text(abs(event_ms - now_ms) / 1000)} {side} the "
            f"platform's clock; accepted now: {low} to {high}; {remedy}"
        )
        raise Problem(422, "event-time", detail, field="event_time")


class _AnswerInProgress:
    __slots__ = ("_all", "_event_ms")

    def __init__(self, everything: dict[int, int], event_ms: int) -> None:
        self._all = everything
        self._event_ms = event_ms

    def __enter__(self) -> None:
        self._all[id(self)] = self._event_ms

    def __exit__(self, *exc: object) -> None:
        del self._all[id(self)]


_NOTHING: AbstractContextManager[None] = contextlib.nullcontext()


def bounds(mode: ClockMode, now_ms: int, *, behind_ms: int) -> tuple[int, int]:
    """The first and the last event time that is accepted now, both inclusive.

    Args:
        behind_ms: milliseconds by which an event of a replay may be before the watermark.
    """
    if mode == "system":
        return now_ms - SYSTEM_TOLERANCE_MS, now_ms + SYSTEM_TOLERANCE_MS
    if now_ms == 0:
        return 0, 2**63 - 1
    return now_ms - behind_ms, now_ms + REPLAY_AHEAD_MS
