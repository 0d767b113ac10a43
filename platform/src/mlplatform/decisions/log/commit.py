"""Group commit: one thread writes the queued records of many requests in one transaction."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Final, Protocol

import msgspec

from mlplatform.decisions.records.port import Entry, Outcome
from mlplatform.runtime.errors import Busy, PlatformError, Refused, StaleFence, Unavailable

HEARTBEAT_S: Final = 1.0
QUEUED_ENTRIES: Final = 4_096
SLOW_S: Final = 0.03
"""Seconds for one batch after which the log counts as slow: queued entries then go elsewhere, while
their callers can still wait."""
RECENT_BATCH_S: Final = 0.05
"""Seconds after a batch of several submissions in which the next submissions may wait for each
other."""
CHECKPOINT_S: Final = 0.25
"""Interval of checkpoints in seconds. A commit may wait for the disk while a checkpoint does, and
four short waits a second are better than one long wait. The thread has the same priority as all
others: with a lower one it could lose its core while it holds the interpreter lock, and all threads
would wait."""
CATCH_UP_POLL_S: Final = 0.01
"""Longest wait for new records in seconds while spilled records remain."""
_logger = logging.getLogger(__name__)


class WriterLog(Protocol):
    """The calls of a log that group commit needs."""

    def append(self, writer: str, entries: Sequence[Entry]) -> list[Outcome]: ...

    def heartbeat(self, writer: str, event_ms: int | None = None) -> None: ...

    def close_writer(self, writer: str) -> None: ...

    def checkpoint(self, is_over: Callable[[], bool]) -> None: ...


class Fallback(Protocol):
    """The stand-in for a log that is down or slow; `decisions.spill.writer.SpillingLog` is one."""

    def relieve(self, entries: Sequence[Entry]) -> list[Outcome]: ...

    def catch_up(self) -> bool: ...


class AsyncGroupCommit:
    """Durable appends for an event loop, which is woken once a batch and not once a request.

    Made in the loop's thread.

    Args:
        writer: the name under which this process numbers its records.
        max_batch: most entries in one transaction. A larger submission still goes in one
            transaction.
        max_wait_ms: milliseconds for which the loop collects submissions under load, so that it
            wakes the thread once for all of them. A single submission does not wait.
        reached_ms: returns the event time before which the owner has nothing left to submit. It is
            called once a second and moves the watermark of an idle writer. None means that only
            records move the watermark.
        relief: takes the queued entries while a call of the log lasts longer than SLOW_S; None
            means that they wait.
        expected: returns the largest number of submissions that can wait at the same time. When
            that many wait, the loop stops collecting. 0 means that the number is not known.
    """

    def __init__(
        self,
        log: WriterLog,
        writer: str,
        max_batch: int = 64,
        max_wait_ms: float = 0.0,
        *,
        reached_ms: Callable[[], int | None] | None = None,
        relief: Fallback | None = None,
        expected: Callable[[], int] = lambda: 0,
    ) -> None:
        self._expected = expected
        self._timer: asyncio.TimerHandle | None = None
        self._loop = asyncio.get_running_loop()
        self._collected: list[Ticket] = []
        self._size = 0
        self._max_batch = max_batch
        self._wait_s = max_wait_ms / 1000
        self._last_size = 0
        self._last_s = 0.0
        self._committer = Committer(log, writer, max_batch, reached_ms, self._deliver, relief)

    @property
    def alive(self) -> bool:
        """Whether a thread still commits: False for good after an unexpected error."""
        return self._committer.alive

    def submit(self, entries: Sequence[Entry]) -> asyncio.Future[list[Outcome]]:
        """Queue entries for one of the next transactions; all of them go in the same one.

        Submissions of one turn of the loop go to the thread together, which is woken once. Each
        hand-over costs a lock, a system call and, on one core, a switch of threads. Cancelling the
        future does not take the entries back.

        Raises:
            Busy: too much is queued.
            Refused: this object was closed.
        """
        self._committer.check(self._size)
        answer: asyncio.Future[list[Outcome]] = self._loop.create_future()
        if not self._collected:
            if self._may_wait():
                self._timer = self._loop.call_later(self._wait_s, self._hand_in)
            else:
                self._loop.call_soon(self._hand_in)
        self._collected.append(Ticket(entries, answer))
        self._size += len(entries)
        if self._size >= self._max_batch:
            self._hand_in()
        elif self._timer is not None and len(self._collected) >= self._expected() > 0:
            self._wait_no_more()
            self._loop.call_soon(self._hand_in)
        return answer

    def _may_wait(self) -> bool:
        """Whether there is load: the last batch had several submissions and is recent."""
        return self._last_size > 1 and self._loop.time() - self._last_s < RECENT_BATCH_S

    def _wait_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    async def close(self) -> None:
        """Append what is queued, then close this writer."""
        self._hand_in()
        await self._loop.run_in_executor(None, self._committer.close)

    def _hand_in(self) -> None:
        self._wait_no_more()
        tickets, self._collected, self._size = self._collected, [], 0
        if not tickets:
            return
        self._last_size, self._last_s = len(tickets), self._loop.time()
        try:
            self._committer.put(tickets)
        except PlatformError as error:
            for ticket in tickets:
                ticket.error = error
            settle(tickets)

    def _deliver(self, tickets: list[Ticket]) -> None:
        try:
            self._loop.call_soon_threadsafe(settle, tickets)
        except RuntimeError:
            _logger.warning("the event loop was closed with %d answers to come", len(tickets))


class Ticket(msgspec.Struct, eq=False):
    entries: Sequence[Entry]
    answer: Future[list[Outcome]] | asyncio.Future[list[Outcome]]
    outcomes: list[Outcome] = []
    error: Exception | None = None


def settle(tickets: list[Ticket]) -> None:
    for ticket in tickets:
        if ticket.answer.done():
            continue
        if ticket.error is not None:
            ticket.answer.set_exception(ticket.error)
        else:
            ticket.answer.set_result(ticket.outcomes)


class Committer:
    """The threads of one writer, and the entries queued for them."""

    def __init__(
        self,
        log: WriterLog,
        writer: str,
        max_batch: int,
        reached_ms: Callable[[], int | None] | None,
        deliver: Callable[[list[Ticket]], None],
        relief: Fallback | None,
    ) -> None:
        self._log = log
        self._relief = relief
        self._busy_since_s: float | None = None
        self._behind = False
        self._writer = writer
        self._max_batch = max_batch
        self._reached_ms = reached_ms or (lambda: None)
        self._deliver = deliver
        self._tickets: list[Ticket] = []
        self._queued = 0
        self._changed = threading.Condition()
        self._closed = threading.Event()
        self._failure: Exception | None = None
        log.heartbeat(writer)
        self._threads = [
            threading.Thread(target=self._commit, name=f"commit {writer}", daemon=True),
            threading.Thread(target=self._checkpoint, name=f"checkpoint {writer}", daemon=True),
        ]
        if relief is not None:
            name = f"relieve {writer}"
            self._threads.append(
                threading.Thread(target=self._relieve, args=(relief,), name=name, daemon=True)
            )
        for thread in self._threads:
            thread.start()

    @property
    def alive(self) -> bool:
        return self._failure is None and self._threads[0].is_alive()

    def check(self, more: int = 0) -> None:
        """Raise if entries can't be queued, counting `more` entries that will be queued soon."""
        if self._failure is not None:
            raise Unavailable(f"the commit thread of {self._writer} has stopped") from self._failure
        if self._closed.is_set():
            raise Refused(f"the commit queue of {self._writer} is closed")
        if self._queued + more >= QUEUED_ENTRIES:
            raise Busy(f"{self._queued + more} records of {self._writer} wait to be committed")

    def put(self, tickets: Sequence[Ticket]) -> None:
        with self._changed:
            self.check()
            was_empty = not self._tickets
            self._tickets.extend(tickets)
            for ticket in tickets:
                self._queued += len(ticket.entries)
            if was_empty or self._queued >= self._max_batch:
                self._changed.notify()

    def close(self) -> None:
        with self._changed:
            self._closed.set()
            self._changed.notify()
        for thread in self._threads:
            thread.join()
        self._log.close_writer(self._writer)

    def _commit(self) -> None:
        try:
            self._commit_until_closed()
        except Exception as error:
            _logger.exception("the commit thread of %s has stopped", self._writer)
            with self._changed:
                self._failure, left, self._tickets = error, self._tickets, []
            self._fail(left, error)

    def _commit_until_closed(self) -> None:
        beat_s = time.monotonic() + HEARTBEAT_S
        while not self._closed.is_set() or self._tickets:
            wait_s = beat_s - time.monotonic()
            taken = self._take(min(wait_s, CATCH_UP_POLL_S) if self._behind else wait_s)
            self._busy_since_s = time.monotonic()
            self._append(taken)
            if self._relief is not None:
                self._behind = self._relief.catch_up()
            self._busy_since_s = None
            if time.monotonic() >= beat_s:
                self._heartbeat()
                beat_s = time.monotonic() + HEARTBEAT_S

    def _take(self, wait_s: float) -> list[Ticket]:
        with self._changed:
            if not self._tickets and not self._closed.is_set() and wait_s > 0:
                self._changed.wait(wait_s)
            size = count = 0
            while count < len(self._tickets) and (count == 0 or size < self._max_batch):
                size += len(self._tickets[count].entries)
                count += 1
            taken, self._tickets = self._tickets[:count], self._tickets[count:]
            self._queued -= size
            return taken

    def _append(self, tickets: list[Ticket]) -> None:
        self._hand_over(tickets, lambda entries: self._log.append(self._writer, entries))

    def _hand_over(
        self, tickets: list[Ticket], to: Callable[[Sequence[Entry]], list[Outcome]]
    ) -> None:
        if not tickets:
            return
        try:
            outcomes = iter(to([e for ticket in tickets for e in ticket.entries]))
        except Unavailable as error:
            self._fail(tickets, error)
        except OSError as error:  # a file beside the log failed, not a record
            failure = Unavailable(f"the files of {self._writer} cannot be used: {error.strerror}")
            failure.__cause__ = error
            self._fail(tickets, failure)
        except StaleFence as error:  # final: another process has this writer's name
            self._fail(tickets, error)
            raise
        except Exception as error:  # noqa: BLE001 -- it goes to the callers that wait
            if len(tickets) == 1:
                self._fail(tickets, error)
                return
            for ticket in tickets:  # one bad record must not fail its neighbours
                self._hand_over([ticket], to)
        else:
            for ticket in tickets:
                ticket.outcomes = [next(outcomes) for _ in ticket.entries]
            self._deliver(tickets)

    def _fail(self, tickets: list[Ticket], error: Exception) -> None:
        for ticket in tickets:
            ticket.error = error
        self._deliver(tickets)

    def _heartbeat(self) -> None:
        reached_ms = self._reached_ms()
        for _ in range(QUEUED_ENTRIES):  # first append what was submitted earlier
            if not self._tickets:
                break
            self._append(self._take(0))
        try:
            self._log.heartbeat(self._writer, reached_ms)
        except StaleFence:
            raise
        except PlatformError as error:
            _logger.warning("no heartbeat for %s: %s", self._writer, error)

    def _relieve(self, relief: Fallback) -> None:
        """Hand the queued entries over while a call of the log does not return."""
        while not self._closed.wait(SLOW_S / 2):
            since_s = self._busy_since_s
            if since_s is not None and time.monotonic() - since_s > SLOW_S:
                self._hand_over(self._take(0), relief.relieve)

    def _checkpoint(self) -> None:
        while not self._closed.wait(CHECKPOINT_S):
            try:
                self._log.checkpoint(self._closed.is_set)
            except Exception:  # the next one may succeed
                _logger.exception("no checkpoint of the decision log")
