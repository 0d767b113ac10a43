"""Records on their way into the decision log; an answer waits here until its record is durable."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractContextManager
from typing import Protocol

import msgspec

from mlplatform.decisions.records.port import (
    AppendReceipt,
    Entry,
    Idempotency,
    Outcome,
    RecordingFailure,
    SpillReceipt,
    StoredAnswer,
    UnloggedAnswer,
)
from mlplatform.decisions.records.prepared_record import Key
from mlplatform.decisions.records.record import Record
from mlplatform.runtime.errors import PlatformError, Unavailable
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter
from mlplatform.scoring.key_claims.shared_keys import ALONE, KeyHold, key_in_flight
from mlplatform.scoring.predictor_client.deadlines import Deadlines
from mlplatform.scoring.predictor_client.predictor import STALL_S

WAIT_S = 2.0
"""Seconds for which a record without a deadline is waited for: a label, a void, a copy."""

BEYOND_S = 0.01
"""Seconds beyond its deadline for which an answer waits for its record. Most records that are late
come within a few milliseconds, and a recorded decision is worth more than a refusal. The wait also
lasts so long from the time when the record was handed in, or when this process was itself held
up."""

UNLOGGED_KEPT = 4096
RETRY_LOOKUP_S = 0.005
LOOKUP_SHARE = 0.4
"""Share of the deadline for a key that cannot be looked up at once; the rest is enough to
decide."""

log = logging.getLogger(__name__)
log.addFilter(RateLimitFilter())


class Commit(Protocol):
    """The calls of `decisions.log.commit.AsyncGroupCommit` that are used here."""

    @property
    def alive(self) -> bool: ...

    def submit(self, entries: Sequence[Entry]) -> asyncio.Future[list[Outcome]]: ...

    async def close(self) -> None: ...


class IdempotencyClaim(msgspec.Struct, frozen=True):
    """The key under which an answer is kept for retries. Only a caller that waits for the answer
    may get one without a record.

    Args:
        hold: the right to decide under the key; None where one log arbitrates.
    """

    client: str
    key: str
    body_digest: str = ""
    may_be_unlogged: bool = True
    hold: KeyHold | None = None


OpenCommit = Callable[[Callable[[], int]], Commit]


def keyed_entry(
    record: Record, claim: IdempotencyClaim | None, answer: bytes, keep_ms: int
) -> Entry:
    """The entry of a decision for the log, with the answer that its key keeps.

    A decision that replaces the one under this key in this log has no key there: the shared claim
    has its answer. A decision without the shared claim that it should have says so.
    """
    if claim is None:
        return Entry(record)
    hold = claim.hold
    if hold is not None and hold.is_alone:
        record.payload["key_claim"] = ALONE
    if hold is not None and hold.is_kept_here:
        return Entry(record)
    owner, key, digest = claim.client, claim.key, claim.body_digest
    return Entry(record, Idempotency(owner, key, digest, answer, keep_ms, impersonal=True))


class LogUnavailable(Unavailable):
    """The log did not confirm a record in time; it may or may not hold the record."""


def log_unavailable() -> Problem:
    """The problem for the caller then: no answer is given without its record."""
    detail = "the decision log does not answer, so nothing is decided or stored; try again"
    return Problem(503, "log-unavailable", detail, retry_after_s=1)


class Recorder:
    """Appends records one by one; the commit behind it joins them into few transactions.

    Args:
        open_commit: opens the commit when the server starts, in the event loop. It gets a function
            that returns how many records may be waiting at most.
        advanced: called with the event time of every written record.
    """

    def __init__(self, open_commit: OpenCommit, advanced: Callable[[int], None]) -> None:
        self._open_commit = open_commit
        self._advanced = advanced
        self._commit: Commit | None = None
        self._loop: asyncio.AbstractEventLoop | None = None  # kept: asking is a system call
        self._waits = Deadlines()

    def start(self, expected: Callable[[], int] = lambda: 0) -> None:
        """Args: expected: how many requests are being answered now; 0 where that is not known."""
        self._loop = asyncio.get_running_loop()
        self._commit = self._open_commit(expected)

    @property
    def alive(self) -> bool:
        """False once nothing can be recorded any more, which only a new process mends."""
        return self._commit is None or self._commit.alive

    async def stop(self) -> None:
        """Stop; everything that was handed in is durable on return."""
        if self._commit is not None:
            await self._commit.close()

    async def append(
        self, entry: Entry, deadline_s: float | None = None, beside: Sequence[Entry] = ()
    ) -> Outcome:
        """Append an entry. Returns the outcome once the record is durable, or, where its model
        declares that, is known to be recorded nowhere.

        Args:
            beside: entries that are appended in the same transaction.
            deadline_s: the caller's deadline on the monotonic clock, which the event loop also
                uses. The outcome comes at most BEYOND_S later. None: it comes within WAIT_S.

        Raises:
            LogUnavailable: neither the log nor its spill stores the record in time. A record that
                was handed in may still be written later.
        """
        if self._commit is None or self._loop is None:
            raise LogUnavailable("the log is not open yet")
        now_s = time.monotonic()
        until_s = now_s + WAIT_S if deadline_s is None else max(deadline_s, now_s) + BEYOND_S
        answer: asyncio.Future[list[Outcome]] | None = None
        try:
            answer = self._commit.submit((entry, *beside))
            self._waits.add(self._loop, until_s, _Wait(answer, until_s))
            outcome, *others = await answer
        except PlatformError as error:
            answer = None  # breaks a reference cycle: answer, error, frame
            raise LogUnavailable(str(error)) from error
        for one in (outcome, *others):
            if isinstance(one, RecordingFailure):
                raise LogUnavailable(one.reason)
        if isinstance(outcome, AppendReceipt | SpillReceipt | UnloggedAnswer):
            self._advanced(entry.record.event_ms)
        return outcome


class _Wait:
    """A wait for the confirmation of one record."""

    __slots__ = ("_answer", "_is_stalled", "_until_s")

    def __init__(self, answer: asyncio.Future[list[Outcome]], until_s: float) -> None:
        self._answer = answer
        self._until_s = until_s
        self._is_stalled = False

    @property
    def is_over(self) -> bool:
        return self._answer.done()

    def expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give up. If this process itself is late, first read what the commit has reported."""
        if self._answer.done():
            return
        late_s = time.monotonic() - self._until_s
        if late_s > STALL_S and not self._is_stalled:
            self._is_stalled = True
            loop.call_later(BEYOND_S, self.expire, loop)
            return
        self._answer.set_exception(LogUnavailable("no confirmation in time"))


class AnswerLookup(Protocol):
    """Answers that were recorded."""

    def find(self, client: str, model: str, key: str) -> StoredAnswer | None: ...

    def find_all(self, keys: Sequence[Key]) -> list[StoredAnswer | None]: ...


class KeptAnswers:
    """Answers given under a key: those on record, and the last of those without a record.

    Look-ups of one turn of the event loop make one read of the log. A read takes locks and hands
    the interpreter to the commit thread, which costs more than finding a key. An answer without a
    record holds for retries that reach this process while it is among the last few thousand; more
    cannot be promised where nothing can be written.
    """

    def __init__(self, recorded: AnswerLookup) -> None:
        self._recorded = recorded
        self._unlogged: dict[Key, StoredAnswer] = {}
        self._wanted: list[tuple[Key, asyncio.Future[StoredAnswer | None]]] = []

    def find(self, client: str, model: str, key: str) -> StoredAnswer | None:
        found = self._recorded.find(client, model, key)
        if found is None and self._unlogged:
            found = self._unlogged.get((client, model, key))
        return found

    def look_up(self, key: Key) -> asyncio.Future[StoredAnswer | None]:
        """The answer under a key, looked up together with the other look-ups of this turn of the
        event loop."""
        loop = asyncio.get_running_loop()
        if not self._wanted:
            loop.call_soon(self._look_up)
        answer: asyncio.Future[StoredAnswer | None] = loop.create_future()
        self._wanted.append((key, answer))
        return answer

    def _look_up(self) -> None:
        """Look the keys up. A key that can't be read fails only its own request."""
        wanted, self._wanted = self._wanted, []
        found: list[StoredAnswer | Exception | None]
        try:
            found = [*self._recorded.find_all([key for key, _ in wanted])]
        except Exception as error:  # noqa: BLE001 -- it goes to the callers that wait
            found = [error] if len(wanted) == 1 else [self._look_up_alone(key) for key, _ in wanted]
        for (key, answer), one in zip(wanted, found, strict=True):
            if answer.done():
                continue
            if isinstance(one, Exception):
                answer.set_exception(one)
            else:
                answer.set_result(one or self._unlogged.get(key))

    def _look_up_alone(self, key: Key) -> StoredAnswer | Exception | None:
        try:
            return self._recorded.find(*key)
        except Exception as error:  # noqa: BLE001 -- it goes to the caller that waits
            return error

    def keep_unlogged(self, entry: Entry, answer: bytes) -> None:
        """Keep the answer of an entry that was recorded nowhere, if it came with a key."""
        idempotency: Idempotency | None = entry.idempotency
        if idempotency is None:
            return
        record = entry.record
        stored = StoredAnswer(answer, idempotency.body_digest, record.decision_id)
        self._unlogged[idempotency.client, record.model, idempotency.key] = stored
        if len(self._unlogged) > UNLOGGED_KEPT:
            del self._unlogged[next(iter(self._unlogged))]


async def look_up_in_time(
    find: Callable[[], Awaitable[StoredAnswer | None]], until_s: float
) -> StoredAnswer | None:
    """Look an answer up, again and again while nobody can read the log.

    A process that starts the write-ahead log anew holds up readers for microseconds, or for some
    milliseconds if it loses its core at that moment. That is no reason to refuse a request.

    Args:
        until_s: time on the monotonic clock at which the search gives up.

    Raises:
        PlatformError: the error of the last attempt.
    """
    while True:
        try:
            return await find()
        except PlatformError:
            if time.monotonic() + RETRY_LOOKUP_S > until_s:
                raise
        await asyncio.sleep(RETRY_LOOKUP_S)


class AnswerStore(Protocol):
    """Answers given earlier; the part of the decision log that is read while answering."""

    def look_up(self, key: Key) -> Awaitable[StoredAnswer | None]: ...

    def keep_unlogged(self, entry: Entry, answer: bytes) -> None: ...


def look_up_until_s(started_s: float, deadline_s: float) -> float:
    """The time at which a look-up of a key ends, on the clock of both: the rest is enough to
    decide."""
    return started_s + LOOKUP_SHARE * (deadline_s - started_s)


async def find_stored_answer(
    answers: AnswerStore, key: Key, started_s: float, deadline_s: float
) -> StoredAnswer | None:
    """The stored answer under a client, model and key, looked for while there is still time to
    decide.

    Raises:
        Problem: 503 if the log does not answer.
    """
    until_s = look_up_until_s(started_s, deadline_s)
    try:
        return await look_up_in_time(lambda: answers.look_up(key), until_s)
    except PlatformError as error:
        log.error("the decision log was not read: %s", error)
        raise log_unavailable() from error


class InFlight:
    """Idempotency keys that are being answered in this process; the log arbitrates between
    processes."""

    def __init__(self) -> None:
        self._keys: set[tuple[str, str]] = set()

    def claim(self, client: str, key: str) -> AbstractContextManager[None]:
        """Hold a key while its request is answered.

        Raises:
            Problem: 409 if another request holds the key.
        """
        claimed = (client, key)
        if claimed in self._keys:
            raise key_in_flight()
        self._keys.add(claimed)
        return _Claim(self._keys, claimed)


class _Claim:
    __slots__ = ("_claimed", "_keys")

    def __init__(self, keys: set[tuple[str, str]], claimed: tuple[str, str]) -> None:
        self._keys = keys
        self._claimed = claimed

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        self._keys.discard(self._claimed)
