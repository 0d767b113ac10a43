"""Features of a request, without holding up the event loop for more than a few slow reads.

A read of the embedded store takes some 20 µs from the page cache, less than a hop to a thread, so
it is made on the event loop. A locked store fails at once. A slow store (a disk that does not
answer) shows by reads that take too long, and a store that somebody holds up says so when it is
asked. From then on one thread makes the reads, and each request waits for its slice, until reads
are fast again. A store on another machine is always read by threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor

from mlplatform.learning.features.online import OnlineFeatures, OnlineRow
from mlplatform.learning.features.policy import Gaps
from mlplatform.runtime.errors import PlatformError, Unavailable
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter

SLOW_READ_S = 0.002
SLOW_READS = 3
"""Number of slow reads in a row after which the thread makes the reads. One slow read is no sign:
on a busy machine another process interrupts every hundredth read for that long, though the disk is
fast."""

QUICK_READS = 20
"""Number of fast reads in a row, with none under way, after which reads return to the event
loop."""

MOST_WAITING = 64
READERS = 4
"""Number of threads, each with a connection, that read a store on another machine."""

Reading = Future[tuple[OnlineRow, float]]

log = logging.getLogger(__name__)
log.addFilter(RateLimitFilter())


class FeaturesUnavailable(Unavailable):
    """The online store did not answer, or not in time."""


class FeatureReads:
    """Reads of one model's online features by the requests of this process."""

    def __init__(self, model: str, store: OnlineFeatures) -> None:
        self._model = model
        self.store = store
        self._thread: ThreadPoolExecutor | None = None
        self._waiting = 0
        self._quick = self._slow = 0
        self._is_apart = False
        self._is_remote = store.is_remote

    @property
    def is_apart(self) -> bool:
        """Whether a thread makes the reads, because some were slow lately or would be."""
        if self._is_remote:
            return True
        if not self._is_apart and self.store.is_held_up():
            self._go_apart("another process holds up readers of the features' store")
        return self._is_apart

    def read(self, keys: Mapping[str, int | str], event_ms: int) -> OnlineRow:
        """The features, read now on this thread; not to be called while `is_apart`.

        Raises:
            FeaturesUnavailable: the store is locked, gone or broken.
        """
        began_s = time.perf_counter()
        try:
            return self.store.read(keys, event_ms)
        except (PlatformError, sqlite3.Error) as error:
            raise self._unavailable(error) from error
        finally:
            if time.perf_counter() - began_s > SLOW_READ_S:
                self._was_slow()
            elif self._slow:
                self._slow = 0

    async def read_apart(
        self, keys: Mapping[str, int | str], event_ms: int, until_s: float
    ) -> OnlineRow:
        """The features, read by a thread.

        Args:
            until_s: time on the monotonic clock at which the read gives up.

        Raises:
            FeaturesUnavailable: the store is locked, gone, broken or too slow.
        """
        wait_s = until_s - time.monotonic()
        if self._waiting >= MOST_WAITING:
            raise self._unavailable(f"{self._waiting} reads wait for the store already")
        if wait_s <= 0:
            raise self._unavailable("their share of the deadline was over before they were asked")
        if self._thread is None:
            self._thread = ThreadPoolExecutor(
                READERS if self._is_remote else 1, thread_name_prefix=f"features-{self._model}"
            )
        self._waiting += 1
        reading = self._thread.submit(self._timed, keys, event_ms)
        loop = asyncio.get_running_loop()
        reading.add_done_callback(lambda done: _hand_over(loop, self._on_finished, done))
        try:
            async with asyncio.timeout(wait_s):
                row, _ = await asyncio.wrap_future(reading)
        except (TimeoutError, PlatformError, sqlite3.Error) as error:
            raise self._unavailable(
                str(error) or "no answer within its share of the deadline"
            ) from error
        return row

    def close(self) -> None:
        """Start no more reads, and close the store; a read that hangs ends with the process."""
        if self._thread is not None:
            self._thread.shutdown(wait=False, cancel_futures=True)
        self.store.close()

    def _was_slow(self) -> None:
        self._slow += 1
        if self._slow >= SLOW_READS:
            self._go_apart("their store is slow")

    def _go_apart(self, why: str) -> None:
        log.warning("features of %s are read by a thread: %s", self._model, why)
        self._is_apart = True
        self._slow = self._quick = 0

    def _timed(self, keys: Mapping[str, int | str], event_ms: int) -> tuple[OnlineRow, float]:
        began_s = time.perf_counter()
        row = self.store.read(keys, event_ms)
        return row, time.perf_counter() - began_s

    def _on_finished(self, reading: Reading) -> None:
        """Note that a read by the thread is over, also one for which nobody waits any more."""
        self._waiting -= 1
        if self._is_remote:
            return
        was_quick = (
            not reading.cancelled()
            and reading.exception() is None
            and reading.result()[1] <= SLOW_READ_S
        )
        self._quick = self._quick + 1 if was_quick else 0
        if self._quick >= QUICK_READS and not self._waiting:
            self._is_apart = False
            log.info("reads of %s's features are quick again", self._model)

    def _unavailable(self, why: object) -> FeaturesUnavailable:
        log.warning("features of %s were not read: %s", self._model, why)
        return FeaturesUnavailable(str(why))


def _hand_over(
    loop: asyncio.AbstractEventLoop, what: Callable[[Reading], None], reading: Reading
) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended: no request waits for it
        loop.call_soon_threadsafe(what, reading)


def features_missing(gaps: Gaps) -> Problem:
    """The problem for a caller if a feature is missing whose policy is to refuse.

    503, not 422: nothing about the request is wrong, and it may be answered once the feature is
    there again.
    """
    name = gaps.refused[0]
    cause, _ = gaps.features[name]
    detail = f"feature {name} is {cause}, and model.yaml refuses to decide without it"
    return Problem(503, "features-missing", detail, retry_after_s=5)
