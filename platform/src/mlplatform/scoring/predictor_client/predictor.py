"""A predictor as the gateway uses it: rows in, raw scores out, within a deadline.

Rows that arrive while earlier calls are under way wait and leave together, so batches grow with
the load and a lone row waits for nothing.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from urllib.parse import urlsplit

from mlplatform.model.definition import CALL_ROWS
from mlplatform.model.oip import (
    OWN_FAILURES,
    SERVER_TIMING,
    Codec,
    FailureReason,
    MatrixCodec,
    PredictionFailed,
    Reply,
    Scores,
)
from mlplatform.runtime.telemetry.context import Origin
from mlplatform.scoring.predictor_client.bulkhead import RetryBudget
from mlplatform.scoring.predictor_client.connection import Connection
from mlplatform.scoring.predictor_client.deadlines import Deadlines

Row = Sequence[float]


@dataclass(frozen=True, slots=True)
class ClientLimits:
    """Limits of one predictor client.

    Args:
        calls: number of simultaneous calls, each on its own connection.
        rows: largest number of rows in one call.
        waiting: number of groups of rows in the queue; one more is refused.
        retry_share, retry_burst: share of calls that may be repeated after a broken connection, and
            largest number of repeats that can be saved.
        numbers: how many numbers an answer holds for each row: the number of classes, or 1.
    """

    calls: int = 2
    rows: int = CALL_ROWS
    waiting: int = 512
    retry_share: float = 0.1
    retry_burst: int = 10
    numbers: int = 1


DEFAULT_LIMITS = ClientLimits()

STALL_S = 0.005
"""Seconds. A deadline that is noticed this much too late shows that this process was held up, not
the predictor, and that the answer may have come unread."""

STALL_GRACE_S = 0.001
RETRY_LEAST_S = 0.002
"""Least remaining seconds for a second call; with less, nobody would wait for its answer."""

CALL_GRACE_S = 0.01
"""Seconds that a call outlives its rows before its connection is dropped."""


def by_row(values: Sequence[float], classes: int) -> Sequence[float | tuple[float, ...]]:
    """Values of an answer, row by row: one number, or a tuple with one for each class."""
    if not classes:
        return values
    return [tuple(values[i : i + classes]) for i in range(0, len(values), classes)]


class _Call:
    """A call that several rows share. Only one of them reports its end, so that a late call of
    fifty rows counts as one late call."""

    __slots__ = ("is_reported",)

    def __init__(self) -> None:
        self.is_reported = False


class _QueuedRows:
    """Rows of one caller that are sent together, with the future that the caller waits for.

    Rows that are still queued at their deadline were in no call. They report nothing, because the
    calls under way that kept them waiting report.
    """

    __slots__ = ("call", "deadline_s", "future", "is_stalled", "origin", "rows")

    def __init__(
        self,
        rows: Sequence[Row],
        deadline_s: float,
        future: asyncio.Future[Scores],
        origin: Origin | None,
    ) -> None:
        self.rows = rows
        self.deadline_s = deadline_s
        self.future = future
        self.origin = origin
        self.is_stalled = False
        self.call: _Call | None = None

    @property
    def is_over(self) -> bool:
        return self.future.done()

    def expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give up at the deadline. If this process itself is late, first read what has arrived."""
        if self.future.done():
            return
        late_s = time.monotonic() - self.deadline_s
        if late_s > STALL_S and not self.is_stalled:
            self.is_stalled = True
            loop.call_later(STALL_GRACE_S, self.expire, loop)
            return
        reason: FailureReason = "stalled" if self.is_stalled else "deadline"
        self.fail(reason, f"no answer, {late_s:.3f} s late")

    def fail(self, reason: FailureReason, detail: str) -> None:
        if not self.future.done():
            # If these rows report no call, other rows of the call can still report it.
            speaks = reason not in OWN_FAILURES and self._speaks()
            self.future.set_exception(PredictionFailed(reason, detail, speaks=speaks))

    def resolve(self, values: list[float], timing: bytes) -> None:
        if not all(map(math.isfinite, values)):
            self.fail("invalid_output", f"scores are {values[:8]}")
        elif not self.future.done():
            self.future.set_result(Scores(values, timing, speaks=self._speaks()))

    def _speaks(self) -> bool:
        if self.call is None or self.call.is_reported:
            return False
        self.call.is_reported = True
        return True


class Predictor:
    """Calls one service, with connections, queue and batches of its own.

    Args:
        service: name of the InferenceService.
        endpoint: returns where a service listens now ("http://host:port"); None while it does not.
        token: returns the bearer token for the service.
        codec: form of the requests and answers; None: that of the platform's own predictor.
    """

    def __init__(
        self,
        service: str,
        endpoint: Callable[[str], str | None],
        token: Callable[[], str],
        limits: ClientLimits = DEFAULT_LIMITS,
        codec: Codec | None = None,
    ) -> None:
        self.service = service
        self._codec = codec or MatrixCodec(service, limits.numbers)
        self._endpoint = endpoint
        self._token = token
        self._limits = limits
        self._retries = RetryBudget(limits.retry_share, limits.retry_burst)
        self._queue: deque[_QueuedRows] = deque()
        self._deadlines = Deadlines()
        self._idle: list[Connection] = []
        self._calls: set[asyncio.Task[None]] = set()
        self._flush_due = False
        self._address: tuple[str, int] | None = None
        self._bearer = ""

    def predict(
        self, rows: Sequence[Row], deadline_s: float, origin: Origin | None = None
    ) -> asyncio.Future[Scores]:
        """A future of one raw score a row, or of one for each class of each row; it may raise
        PredictionFailed.

        Args:
            deadline_s: time on the monotonic clock, which the event loop also uses.
            origin: the decision that needs the scores. If several share a call, its one trace
                header is that of the first.
        """
        loop = asyncio.get_running_loop()
        waiting = _QueuedRows(rows, deadline_s, loop.create_future(), origin)
        if len(self._queue) >= self._limits.waiting:
            waiting.fail("queue_full", f"{self._limits.waiting} wait already")
            return waiting.future
        self._deadlines.add(loop, deadline_s, waiting)
        self._queue.append(waiting)
        if not self._flush_due:
            self._flush_due = True
            loop.call_soon(self._flush)
        return waiting.future

    def forget(self) -> None:
        """Drop connections and address, because the process that listens there is not our
        predictor, or no longer. The next call asks the plane again."""
        self.close()
        self._address = None

    def close(self) -> None:
        """Drop the connections; waiting callers run into their deadlines."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _flush(self) -> None:
        self._flush_due = False
        while self._queue and len(self._calls) < self._limits.calls:
            batch = self._next_batch()
            if not batch:
                return
            shared = _Call()
            for waiting in batch:
                waiting.call = shared
            loop = asyncio.get_running_loop()
            call = loop.create_task(self._send(batch))
            self._calls.add(call)
            until_s = max(waiting.deadline_s for waiting in batch) + CALL_GRACE_S
            timer = loop.call_at(until_s, self._give_up, loop, call, batch)
            call.add_done_callback(partial(self._on_sent, timer))

    def _give_up(
        self, loop: asyncio.AbstractEventLoop, call: asyncio.Task[None], batch: list[_QueuedRows]
    ) -> None:
        """End a call and its connection when nobody waits for it any more."""
        if all(waiting.future.done() for waiting in batch):
            call.cancel()
        else:
            loop.call_later(CALL_GRACE_S, self._give_up, loop, call, batch)

    def _on_sent(self, timer: asyncio.TimerHandle, call: asyncio.Task[None]) -> None:
        timer.cancel()
        self._calls.discard(call)
        self._flush()

    def _next_batch(self) -> list[_QueuedRows]:
        batch: list[_QueuedRows] = []
        rows = 0
        while self._queue and rows < self._limits.rows:
            if not self._queue[0].future.done():
                if batch and rows + len(self._queue[0].rows) > self._limits.rows:
                    break
                batch.append(self._queue[0])
                rows += len(self._queue[0].rows)
            self._queue.popleft()
        return batch

    async def _send(self, batch: list[_QueuedRows]) -> None:
        rows = [row for waiting in batch for row in waiting.rows]
        until_s = max(waiting.deadline_s for waiting in batch)
        origin = batch[0].origin
        more = origin.header_lines if origin is not None else ""
        try:
            reply = await self._call(rows, until_s, more)
            numbers = self._limits.numbers
            values = self._codec.scores(reply, len(rows))
        except OSError as error:
            failure = PredictionFailed("unavailable", str(error))
        except PredictionFailed as error:
            failure = error
        else:
            timing = reply.headers.get(SERVER_TIMING, b"")
            for waiting in batch:
                own = len(waiting.rows) * numbers
                waiting.resolve(values[:own], timing)
                del values[:own]
            return
        for waiting in batch:
            waiting.fail(failure.reason, failure.detail)

    async def _call(self, rows: Sequence[Row], until_s: float, more: str) -> Reply:
        """One call, repeated at most once, with what the plane says then.

        A call is repeated if its connection was refused or broke before the answer was complete, or
        if its token is out of date. Scoring changes nothing at the predictor, so this is safe. It
        happens only within the retry budget, and while somebody can still use the answer. A
        complete answer (an error, a wrong shape, NaN) is not asked for again, because it would be
        the same.
        """
        self._retries.record_call()
        try:
            reply = await self._ask(rows, more)
            if reply.status != HTTPStatus.UNAUTHORIZED or not self._may_repeat(until_s):
                return reply
        except ConnectionError:
            if not self._may_repeat(until_s):
                self.forget()
                raise
        self.forget()
        return await self._ask(rows, more)

    def _may_repeat(self, until_s: float) -> bool:
        return until_s - time.monotonic() >= RETRY_LEAST_S and self._retries.may_repeat()

    async def _ask(self, rows: Sequence[Row], more: str) -> Reply:
        connection = await self._connection()
        authority = f"{connection.address[0]}:{connection.address[1]}"
        request = self._codec.request(authority, self._bearer, rows, more)
        reply = await connection.call(request, self._codec.reply_bytes(len(rows)))
        if connection.address != self._address:  # `forget` was called during the call
            connection.close()
        elif connection.usable:
            self._idle.append(connection)
        return reply

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        if self._address is None:
            self._address = self._locate()
        loop, address = asyncio.get_running_loop(), self._address
        _, connection = await loop.create_connection(lambda: Connection(address), *address)
        return connection

    def _locate(self) -> tuple[str, int]:
        url = urlsplit(self._endpoint(self.service) or "")
        if url.hostname is None or url.port is None:
            raise PredictionFailed("unavailable", f"{self.service} has no endpoint")
        self._bearer = self._token()
        return url.hostname, url.port
