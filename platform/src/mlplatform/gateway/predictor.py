"""A predictor as the gateway uses it: rows in, raw scores out, within a deadline.

Rows that arrive while earlier calls are under way wait and leave together, so batches grow with
the load and a lone row waits for nothing.
"""

from __future__ import annotations

import asyncio
import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from mlplatform.gateway.connection import Connection
from mlplatform.gateway.oip import PredictionFailed, Reply, infer_request, scores

Row = Sequence[float]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one predictor client may hold at a time.

    Args:
        calls: calls under way, each on its own connection.
        rows: rows in one call.
        waiting: groups of rows in the queue; one more is refused.
    """

    calls: int = 2
    rows: int = 128
    waiting: int = 512


DEFAULT_LIMITS = Limits()


class _Waiting:
    """Rows of one caller that leave together, and who waits for them."""

    __slots__ = ("deadline_s", "future", "rows", "timer")

    def __init__(
        self, rows: Sequence[Row], deadline_s: float, future: asyncio.Future[list[float]]
    ) -> None:
        self.rows = rows
        self.deadline_s = deadline_s
        self.future = future
        self.timer: asyncio.TimerHandle | None = None

    def expire(self) -> None:
        if not self.future.done():
            self.future.set_exception(PredictionFailed("deadline", "no answer in time"))

    def fail(self, failure: PredictionFailed) -> None:
        if not self.future.done():
            self.future.set_exception(failure)
            self._release()

    def answer(self, values: list[float]) -> None:
        if not all(map(math.isfinite, values)):
            self.fail(PredictionFailed("invalid_output", f"scores are {values[:8]}"))
        elif not self.future.done():
            self.future.set_result(values)
            self._release()

    def _release(self) -> None:
        if self.timer is not None:
            self.timer.cancel()


class Predictor:
    """Calls one service; connections, queue and batches are its own.

    Args:
        service: its InferenceService name.
        endpoint: where it listens now ("http://host:port"), None while it does not.
        token: what it wants to hear.
    """

    def __init__(
        self,
        service: str,
        endpoint: Callable[[str], str | None],
        token: Callable[[], str],
        limits: Limits = DEFAULT_LIMITS,
    ) -> None:
        self.service = service
        self._endpoint = endpoint
        self._token = token
        self._limits = limits
        self._queue: deque[_Waiting] = deque()
        self._idle: list[Connection] = []
        self._calls: set[asyncio.Task[None]] = set()
        self._flush_due = False
        self._address: tuple[str, int] | None = None

    def predict(self, rows: Sequence[Row], deadline_s: float) -> asyncio.Future[list[float]]:
        """A future of one raw score a row.

        It raises PredictionFailed: deadline, unavailable, invalid_output or queue_full.

        Args:
            deadline_s: on the event loop's clock.
        """
        loop = asyncio.get_running_loop()
        waiting = _Waiting(rows, deadline_s, loop.create_future())
        if len(self._queue) >= self._limits.waiting:
            waiting.fail(PredictionFailed("queue_full", f"{self._limits.waiting} wait already"))
            return waiting.future
        waiting.timer = loop.call_at(deadline_s, waiting.expire)
        self._queue.append(waiting)
        if not self._flush_due:
            self._flush_due = True
            loop.call_soon(self._flush)
        return waiting.future

    def close(self) -> None:
        """Drop the connections; whoever still waits runs into the deadline."""
        for connection in self._idle:
            connection.close()
        self._idle.clear()

    def _flush(self) -> None:
        self._flush_due = False
        while self._queue and len(self._calls) < self._limits.calls:
            batch = self._next_batch()
            if not batch:
                return
            call = asyncio.get_running_loop().create_task(self._send(batch))
            self._calls.add(call)
            call.add_done_callback(self._sent)

    def _sent(self, call: asyncio.Task[None]) -> None:
        self._calls.discard(call)
        self._flush()

    def _next_batch(self) -> list[_Waiting]:
        batch: list[_Waiting] = []
        rows = 0
        while self._queue and rows < self._limits.rows:
            if not self._queue[0].future.done():
                if batch and rows + len(self._queue[0].rows) > self._limits.rows:
                    break
                batch.append(self._queue[0])
                rows += len(self._queue[0].rows)
            self._queue.popleft()
        return batch

    async def _send(self, batch: list[_Waiting]) -> None:
        rows = [row for waiting in batch for row in waiting.rows]
        try:
            async with asyncio.timeout_at(max(waiting.deadline_s for waiting in batch)):
                values = scores(await self._call(rows), len(rows))
        except TimeoutError:
            failure = PredictionFailed("deadline", "no answer in time")
        except OSError as error:
            failure = PredictionFailed("unavailable", str(error))
        except PredictionFailed as error:
            failure = error
        else:
            for waiting in batch:
                waiting.answer(values[: len(waiting.rows)])
                del values[: len(waiting.rows)]
            return
        for waiting in batch:
            waiting.fail(failure)

    async def _call(self, rows: Sequence[Row]) -> Reply:
        """One call; a connection that broke is tried again once, where the service is now."""
        try:
            return await self._ask(rows)
        except ConnectionError:
            self.close()
            self._address = None
            return await self._ask(rows)

    async def _ask(self, rows: Sequence[Row]) -> Reply:
        connection = await self._connection()
        assert self._address is not None
        authority = f"{self._address[0]}:{self._address[1]}"
        reply = await connection.call(infer_request(self.service, authority, self._token(), rows))
        if connection.usable:
            self._idle.append(connection)
        return reply

    async def _connection(self) -> Connection:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                return connection
        if self._address is None:
            self._address = self._locate()
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(Connection, *self._address)
        return connection

    def _locate(self) -> tuple[str, int]:
        url = urlsplit(self._endpoint(self.service) or "")
        if url.hostname is None or url.port is None:
            raise PredictionFailed("unavailable", f"{self.service} has no endpoint")
        return url.hostname, url.port
