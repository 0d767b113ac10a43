"""Plays recorded transactions through the scoring API in event-time order, and their labels later.

Every transaction id is an idempotency key, so that anything unanswered is simply sent again. Labels
go through the client library. Requests and answers of payments are the library's too, and sent by
aiohttp: a demo plays 1,300 a second beside the platform on its two cores.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import aiohttp
import numpy as np
import pyarrow as pa

import mlplatform_client as client_library
from demo.source import event_ms
from mlplatform.runtime.errors import InputInvalid, Unavailable
from mlplatform_client import Answer, AsyncClient, CallFailed, Label, Retries, calls
from mlplatform_client.exchange import Call, Reply, Result
from mlplatform_client.replies import error_of, may_repeat

WORKERS = 24
LABELS_A_POST = 500
GIVE_UP_S = 120.0
RETRY_PAUSE_S = 0.1
TIMEOUT = aiohttp.ClientTimeout(total=10.0)
T = TypeVar("T")


@dataclass(slots=True)
class Counts:
    """What was sent and what came back, counted once for each transaction."""

    requests: int = 0
    answers: int = 0
    degraded: int = 0
    retries: int = 0
    labels: int = 0
    by_route: dict[str, int] = field(default_factory=dict)

    def add(self, answer: Answer) -> None:
        self.answers += 1
        self.degraded += answer.degraded is not None
        route = answer.route.arm
        self.by_route[route] = self.by_route.get(route, 0) + 1


class Recording:
    """Transactions to play: columns of a canonical table, sorted by event time.

    Args:
        table: request_id, event_time, the request fields, label, label_time; rows without a label
            are answered, and never labelled.
        fields: names of the request fields.
    """

    def __init__(self, table: pa.Table, fields: tuple[str, ...]) -> None:
        self._fields = {name: table.column(name).to_pylist() for name in fields}
        self.keys = [str(key) for key in table.column("request_id").to_pylist()]
        self.event_ms = event_ms(table).to_numpy()
        self.labels: list[Any] = table.column("label").to_pylist()
        labelled = table.column("label").is_valid().to_numpy()
        times: Any = event_ms(table, "label_time")
        self.label_ms: np.ndarray = times.fill_null(0).to_numpy()
        order = np.argsort(self.label_ms, kind="stable")
        self.by_label_time: np.ndarray = order[labelled[order]]

    def __len__(self) -> int:
        return len(self.keys)

    def request(self, row: int) -> dict[str, object]:
        """The fields of one request, by name."""
        values = {name: column[row] for name, column in self._fields.items()}
        return {**values, "event_time": int(self.event_ms[row])}

    def label(self, row: int) -> Label:
        """How one transaction turned out, and when that became known."""
        return Label(
            label=self.labels[row],
            idempotency_key=self.keys[row],
            event_time=int(self.label_ms[row]),
        )

    def first_row_at(self, event_ms: int) -> int:
        """Index of the first transaction at or after an event time."""
        return int(np.searchsorted(self.event_ms, event_ms, side="left"))


class Player:
    """Sends rows in order with a few at a time, and remembers up to where all are answered.

    Once `stopping` is set, what is under way is answered and nothing more is sent.
    """

    def __init__(self, recording: Recording, url: str, model: str, api_key: str) -> None:
        self.recording = recording
        self.counts = Counts()
        self.position = 0
        self.labelled = 0
        self.stopping = False
        self._url = url
        self._model = model
        self._headers = {"Authorization": f"Bearer {api_key}"}
        settings = client_library.Settings(
            retries=Retries(attempt_s=10.0), on_retry=self._count_retry
        )
        self._client = AsyncClient(url, api_key, settings)
        self._session: aiohttp.ClientSession | None = None
        self._done: set[int] = set()

    async def __aenter__(self) -> Player:
        connector = aiohttp.TCPConnector(limit=WORKERS + 2)
        self._session = aiohttp.ClientSession(
            connector=connector, timeout=TIMEOUT, headers=self._headers
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()
        if self._session is not None:
            await self._session.close()

    def go_on_from(self, position: int, labelled: int, degraded: int, retries: int) -> None:
        """Take up the counts of a stopped demo; rows after the position are sent again."""
        self.position, self.labelled = position, labelled
        counts = self.counts
        counts.requests = counts.answers = position
        counts.labels, counts.degraded, counts.retries = labelled, degraded, retries

    @property
    def event_ms(self) -> int:
        """Event time of the last transaction that was answered with all before it."""
        return int(self.recording.event_ms[max(self.position - 1, 0)])

    async def play(self, end: int, rate: float, alive: Callable[[], bool]) -> None:
        """Send the rows from the present position up to (not including) `end`.

        Args:
            rate: requests a second at the most.

        Raises:
            Unavailable: the platform is gone, or one row stayed unanswered for two minutes.
        """
        first = self.position
        rows = iter(range(first, min(end, len(self.recording))))
        began = time.monotonic()

        def due_at(row: int) -> float:
            return began + (row - first) / rate

        await _all(*(self._work(rows, due_at, alive) for _ in range(WORKERS)))

    async def send_labels(self, until_ms: int, alive: Callable[[], bool]) -> None:
        """Report the labels that have arrived by an event time, for rows already played."""
        while True:
            batch = self._due_labels(until_ms)
            if len(batch) == 0:
                return
            await self._label([self.recording.label(row) for row in batch], alive)
            self.labelled += len(batch)
            self.counts.labels += len(batch)

    def _due_labels(self, until_ms: int) -> np.ndarray:
        order = self.recording.by_label_time[self.labelled : self.labelled + LABELS_A_POST]
        due = self.recording.label_ms[order] <= until_ms
        stop = len(order) if due.all() else int(np.argmin(due))
        return order[:stop]

    async def _work(
        self, rows: Iterator[int], due_at: Callable[[int], float], alive: Callable[[], bool]
    ) -> None:
        for row in rows:
            if self.stopping:
                return
            if (early_s := due_at(row) - time.monotonic()) > 0:
                await asyncio.sleep(early_s)
            self.counts.requests += 1
            request, key = self.recording.request(row), self.recording.keys[row]
            self.counts.add(await self._carry_out(calls.score(self._model, request, key), alive))
            self._finish(row)

    def _finish(self, row: int) -> None:
        self._done.add(row)
        while self.position in self._done:
            self._done.remove(self.position)
            self.position += 1

    async def _label(self, labels: list[Label], alive: Callable[[], bool]) -> None:
        give_up_at = time.monotonic() + GIVE_UP_S
        while True:
            try:
                await self._client.label(self._model, labels)
            except (
                client_library.Overloaded,
                client_library.Unavailable,
                client_library.DeadlineExceeded,
            ) as error:
                if not alive() or time.monotonic() > give_up_at:
                    raise Unavailable(f"the gateway at {self._url}: {error}") from error
            except CallFailed as error:
                raise InputInvalid(f"the gateway at {self._url}", None, str(error)) from error
            else:
                return
            self.counts.retries += 1
            await asyncio.sleep(RETRY_PAUSE_S)

    def _count_retry(self, error: CallFailed, pause_s: float) -> None:
        self.counts.retries += 1

    async def _carry_out(self, call: Call[T], alive: Callable[[], bool]) -> T:
        if self._session is None:
            raise RuntimeError("the player is used inside `async with`")
        give_up_at = time.monotonic() + GIVE_UP_S
        while True:
            try:
                async with self._session.request(
                    call.method, self._url + call.path, data=call.body, headers=call.headers
                ) as response:
                    reply = Reply(response.status, response.headers, await response.read())
                found = _read(call, reply)
                if isinstance(found, Result):
                    return found.value
                problem = str(found)
            except (aiohttp.ClientError, TimeoutError) as error:
                problem = repr(error)
            if not alive() or time.monotonic() > give_up_at:
                raise Unavailable(f"the gateway at {self._url}{call.path}: {problem}")
            self.counts.retries += 1
            await asyncio.sleep(RETRY_PAUSE_S)


def _read(call: Call[T], reply: Reply) -> Result[T] | CallFailed:
    """What a reply means; an error is one after which the same request may be answered.

    Raises:
        InputInvalid: the gateway refuses the request.
    """
    try:
        if reply.status < 400:
            found = call.read(reply)
            assert isinstance(found, Result)
            return found
        refusal = error_of(call.name, call.key, reply, time.time())
        if not may_repeat(refusal, is_repeatable=call.is_repeatable):
            raise refusal
    except CallFailed as error:
        raise InputInvalid(call.path, None, str(error)) from error
    return refusal


async def _all(*work: Awaitable[None]) -> None:
    """Run all; the first failure ends the others, and is raised as it is."""
    try:
        async with asyncio.TaskGroup() as group:
            for one in work:
                group.create_task(_coroutine(one))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from failures


async def _coroutine(work: Awaitable[None]) -> None:
    await work
