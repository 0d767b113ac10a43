"""The event time that the platform has reached, as one of its gateways knows it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from mlplatform.runtime.errors import PlatformError

POLL_S = 0.1

log = logging.getLogger(__name__)


class LatestEventTime:
    """The largest event time that any gateway has recorded; None before the first record.

    Own records count at once, those of other processes within a poll while `start` is in force.

    Args:
        latest: returns the largest event time in the decision log; called outside the event loop.
    """

    def __init__(self, latest: Callable[[], int | None]) -> None:
        self._latest = latest
        self.event_ms = latest()
        self._following: asyncio.Task[None] | None = None

    def advance(self, event_ms: int) -> None:
        if self.event_ms is None or event_ms > self.event_ms:
            self.event_ms = event_ms

    def start(self) -> None:
        """Start following the other processes."""
        self._following = asyncio.get_running_loop().create_task(self._follow())

    async def stop(self) -> None:
        if self._following is not None:
            self._following.cancel()
            await asyncio.gather(self._following, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(POLL_S)
            try:
                latest = await asyncio.to_thread(self._latest)
            except PlatformError as error:
                log.warning("the platform's event time was not read: %s", error)
                continue
            if latest is not None:
                self.advance(latest)
