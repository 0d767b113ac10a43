"""Records on their way into the decision log: an answer waits here until its record is durable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Protocol

from mlplatform.decisions.log import Appended, Entry, Outcome
from mlplatform.errors import PlatformError, Unavailable
from mlplatform.gateway.problems import Problem

MAX_WAITING = 8192
WAIT_S = 2.0
"""How long an answer waits for its record before it is refused; normally under a millisecond."""


class Commit(Protocol):
    """The part of decisions.commit.GroupCommit that is used here."""

    def submit(self, entries: Sequence[Entry]) -> Future[list[Outcome]]: ...


class LogUnavailable(Unavailable):
    """The log did not confirm a record in time; whether it holds it is open."""


def log_unavailable() -> Problem:
    """What a caller is told then; nothing that is not recorded is answered."""
    detail = "the decision log does not answer, so nothing is given or taken; try again"
    return Problem(503, "log-unavailable", detail, retry_after_s=1)


class Recorder:
    """Collects entries while a commit is under way, so that commits grow with the load.

    Args:
        advanced: told the event time of every record that was written.
        committed: told the size of every commit.
    """

    def __init__(
        self,
        commit: Commit,
        advanced: Callable[[int], None],
        committed: Callable[[int], None],
    ) -> None:
        self._commit = commit
        self._advanced = advanced
        self._committed = committed
        self._waiting: list[tuple[Entry, asyncio.Future[Outcome]]] = []
        self._busy = False

    async def append(self, entry: Entry) -> Outcome:
        """The outcome, once the record is durable.

        Raises:
            LogUnavailable: the log is full, failing or too slow.
        """
        if len(self._waiting) >= MAX_WAITING:
            raise LogUnavailable(f"{MAX_WAITING} records wait already")
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Outcome] = loop.create_future()
        self._waiting.append((entry, future))
        if not self._busy:
            self._busy = True
            loop.call_soon(self._submit, loop)
        try:
            async with asyncio.timeout(WAIT_S):
                return await future
        except TimeoutError as error:
            raise LogUnavailable(f"no confirmation within {WAIT_S} s") from error
        except PlatformError as error:
            raise LogUnavailable(str(error)) from error

    async def flushed(self, within_s: float) -> bool:
        """Whether everything that was handed in got written within a time."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + within_s
        while self._busy and loop.time() < end_s:
            await asyncio.sleep(0.01)
        return not self._busy

    def _submit(self, loop: asyncio.AbstractEventLoop) -> None:
        batch, self._waiting = self._waiting, []
        try:
            done = self._commit.submit([entry for entry, _ in batch])
        except (PlatformError, RuntimeError) as error:  # closed, or full
            self._failed(loop, batch, LogUnavailable(str(error)))
            return
        done.add_done_callback(
            lambda result: loop.call_soon_threadsafe(self._finished, loop, batch, result)
        )

    def _finished(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[tuple[Entry, asyncio.Future[Outcome]]],
        result: Future[list[Outcome]],
    ) -> None:
        error = result.exception()
        if error is not None:
            self._failed(loop, batch, LogUnavailable(str(error)))
            return
        self._committed(len(batch))
        for (entry, future), outcome in zip(batch, result.result(), strict=True):
            if isinstance(outcome, Appended):
                self._advanced(entry.record.event_ms)
            if not future.done():
                future.set_result(outcome)
        self._next(loop)

    def _failed(
        self,
        loop: asyncio.AbstractEventLoop,
        batch: list[tuple[Entry, asyncio.Future[Outcome]]],
        error: LogUnavailable,
    ) -> None:
        for _, future in batch:
            if not future.done():
                future.set_exception(error)
        self._next(loop)

    def _next(self, loop: asyncio.AbstractEventLoop) -> None:
        if self._waiting:
            loop.call_soon(self._submit, loop)
        else:
            self._busy = False


class InFlight:
    """Idempotency keys that are being answered in this process; the log arbitrates the rest."""

    def __init__(self) -> None:
        self._keys: set[tuple[str, str]] = set()

    @contextmanager
    def claim(self, client: str, key: str) -> Iterator[None]:
        """Hold a key while its request is answered.

        Raises:
            Problem: 409, somebody holds it.
        """
        if (client, key) in self._keys:
            detail = "a request with this Idempotency-Key is being answered"
            raise Problem(409, "in-flight", detail, field="Idempotency-Key", retry_after_s=1)
        self._keys.add((client, key))
        try:
            yield
        finally:
            self._keys.discard((client, key))
