"""Many deadlines on one timer. Most are met, so that a timer for each would be wasted work."""

from __future__ import annotations

import asyncio
import heapq
from itertools import count
from typing import Protocol


class SupportsExpiry(Protocol):
    """An object with a deadline."""

    @property
    def is_over(self) -> bool:
        """Whether the deadline no longer matters."""
        ...

    def expire(self, loop: asyncio.AbstractEventLoop) -> None: ...


class Deadlines:
    """Expires objects at their deadlines, unless they are over, as exactly as the loop's own
    timers."""

    __slots__ = ("_due", "_heap", "_number", "_timer")

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, SupportsExpiry]] = []
        self._number = count()  # for equal deadlines: in order, without comparing items
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0

    def add(self, loop: asyncio.AbstractEventLoop, deadline_s: float, one: SupportsExpiry) -> None:
        """Call `one.expire` at a deadline on the loop's clock, unless it is over by then."""
        heapq.heappush(self._heap, (deadline_s, next(self._number), one))
        if self._timer is None or deadline_s < self._due:
            self._set(loop, deadline_s)

    def _set(self, loop: asyncio.AbstractEventLoop, deadline_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = deadline_s
        self._timer = loop.call_at(deadline_s, self._expire_due, loop)

    def _expire_due(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        # A timer may fire early by up to its resolution; its items count as due.
        now_s, heap = max(loop.time(), self._due), self._heap
        while heap and (heap[0][0] <= now_s or heap[0][2].is_over):
            _, _, one = heapq.heappop(heap)
            if not one.is_over:
                one.expire(loop)
        if heap and self._timer is None:
            self._set(loop, heap[0][0])
