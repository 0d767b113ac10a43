"""Records on their way into the decision log: an answer waits here until its record is durable."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

from mlplatform.decisions.commit import WriterLog
from mlplatform.decisions.log import Appended, Entry, Outcome
from mlplatform.errors import PlatformError, Unavailable
from mlplatform.gateway.problems import Problem

WAIT_S = 2.0
"""How long an answer waits for its record before it is refused; normally a few milliseconds."""


class Commit(Protocol):
    """The part of decisions.commit.AsyncGroupCommit that is used here."""

    @property
    def alive(self) -> bool: ...

    def submit(self, entries: Sequence[Entry]) -> asyncio.Future[list[Outcome]]: ...

    async def close(self) -> None: ...


class LogUnavailable(Unavailable):
    """The log did not confirm a record in time; whether it holds it is open."""


def log_unavailable() -> Problem:
    """What a caller is told then; nothing that is not recorded is answered."""
    detail = "the decision log does not answer, so nothing is given or taken; try again"
    return Problem(503, "log-unavailable", detail, retry_after_s=1)


class Recorder:
    """Appends records one by one; the commit behind it makes them few transactions.

    Args:
        open_commit: called when the server starts, in the event loop.
        advanced: told the event time of every record that was written.
    """

    def __init__(self, open_commit: Callable[[], Commit], advanced: Callable[[int], None]) -> None:
        self._open_commit = open_commit
        self._advanced = advanced
        self._commit: Commit | None = None

    def start(self) -> None:
        self._commit = self._open_commit()

    @property
    def alive(self) -> bool:
        """False once nothing can be recorded any more, which only a new process can mend."""
        return self._commit is None or self._commit.alive

    async def stop(self) -> None:
        """Everything that was handed in is durable afterwards."""
        if self._commit is not None:
            await self._commit.close()

    async def append(self, entry: Entry) -> Outcome:
        """The outcome, once the record is durable.

        Raises:
            LogUnavailable: the log is full, failing or too slow.
        """
        if self._commit is None:
            raise LogUnavailable("the log is not open yet")
        try:
            async with asyncio.timeout(WAIT_S):
                (outcome,) = await self._commit.submit((entry,))
        except TimeoutError as error:
            raise LogUnavailable(f"no confirmation within {WAIT_S} s") from error
        except PlatformError as error:
            raise LogUnavailable(str(error)) from error
        if isinstance(outcome, Appended):
            self._advanced(entry.record.event_ms)
        return outcome


class ObservedLog:
    """A log whose commits are counted."""

    def __init__(self, log: WriterLog, committed: Callable[[int], None]) -> None:
        self._log = log
        self._committed = committed
        self.heartbeat = log.heartbeat
        self.close_writer = log.close_writer
        self.checkpoint = log.checkpoint

    def append(self, writer: str, entries: Sequence[Entry]) -> list[Outcome]:
        outcomes = self._log.append(writer, entries)
        self._committed(len(entries))
        return outcomes


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
