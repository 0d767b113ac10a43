"""When rows are scored, and with which others: at once if that is fast, else in batches on one
thread.

Source: the delay rule is a bounded form of dynamic batching as in Crankshaw et al., "Clipper: A
Low-Latency Online Prediction Serving System", NSDI 2017, section 4.3.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

import numpy as np

from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter
from mlplatform.scoring.predictor.metrics import Metrics
from mlplatform.scoring.predictor.model import Model
from mlplatform.scoring.predictor.protocol import Floats, RequestRefused

RETRY_AFTER_S: Final = 1
SWITCH_INTERVAL_S: Final = 0.0005
"""Seconds after which the interpreter lock changes hands. With Python's own 5 ms, a busy event loop
would keep the scoring thread waiting for that long."""

log = logging.getLogger(__name__)
log.addFilter(RateLimitFilter())


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """Limits of the queue, and of how long it holds rows back.

    Args:
        waiting: number of requests in the queue; one more is refused.
        batch_rows: largest number of rows in one call of the model; a larger request is a call of
            its own.
        delay_us: microseconds for which the first request of a batch may wait for others; 0: no
            wait.
    """

    waiting: int = 256
    batch_rows: int = 1024
    delay_us: int = 300


@dataclass(slots=True)
class BatchScores:
    """Scores in the order of their rows, with the time spent.

    Args:
        queue_s: seconds between the request and the start of the model's call.
        compute_s: seconds of the model's call, with all rows in it.
    """

    scores: Floats
    queue_s: float
    compute_s: float


class _QueuedRows:
    __slots__ = ("asked_s", "future", "rows")

    def __init__(self, rows: Floats, future: asyncio.Future[BatchScores], asked_s: float) -> None:
        self.rows = rows
        self.future = future
        self.asked_s = asked_s


Outcome = BatchScores | RequestRefused


def wait_s(
    *, now_s: float, asked_s: float, last_end_s: float, last_requests: int, delay_s: float
) -> float:
    """How much longer the first row of a batch waits for others, in seconds; 0 sends the batch.

    It waits only under load: if the last call had several requests and ended less than a delay ago.
    A lone caller, or the first after a pause, does not wait.

    Args:
        asked_s: when the first request of the batch came.
        last_end_s: when the model's last call ended.
        last_requests: number of requests in that call.
        delay_s: seconds that the first row waits at most.
    """
    if last_requests < 2 or asked_s - last_end_s > delay_s:
        return 0.0
    return max(0.0, asked_s + delay_s - now_s)


class ScoreQueue:
    """Scores rows for one event loop.

    Row counts that warm-up found fast are scored on the loop, because leaving it costs more than
    the model. All others go through a bounded queue to one thread, in common batches. The thread
    itself waits for a batch to fill, because a timer of the event loop counts in milliseconds.
    """

    def __init__(self, model: Model, metrics: Metrics, limits: BatchLimits | None = None) -> None:
        self._model = model
        self._metrics = metrics
        self._limits = limits or BatchLimits()
        self._inline_rows = model.inline_rows
        self._waiting: deque[_QueuedRows] = deque()
        self._taken: Sequence[_QueuedRows] = ()
        self._arrived = threading.Condition(threading.Lock())
        self._loop: asyncio.AbstractEventLoop | None = None
        self.alive = True
        """Whether the scoring thread runs; False once it has ended, and then nothing more is
        scored."""

    async def score(self, rows: Floats) -> BatchScores:
        """Raw scores of the rows.

        Raises:
            RequestRefused: 503 when too much waits already or nothing is scored any more, 500 when
                the model fails.
        """
        asked_s = time.perf_counter()
        scored = self.score_at_once(rows)
        if scored is not None:
            return scored
        if len(self._waiting) >= self._limits.waiting:
            raise RequestRefused(
                503, f"{self._limits.waiting} requests wait already", RETRY_AFTER_S
            )
        if self._loop is None:
            self._start_thread()
        future: asyncio.Future[BatchScores] = asyncio.get_running_loop().create_future()
        with self._arrived:
            if not self.alive:
                raise RequestRefused(
                    503, "this predictor is stopping and scores nothing more", RETRY_AFTER_S
                )
            self._waiting.append(_QueuedRows(rows, future, asked_s))
            self._arrived.notify()
        return await future

    def score_at_once(self, rows: Floats) -> BatchScores | None:
        """Raw scores of rows for which the model is fast; None for all others.

        Raises:
            RequestRefused: 500 when the model fails.
        """
        if len(rows) > self._inline_rows:
            return None
        asked_s = time.perf_counter()
        try:
            scores = self._model.score(rows)
        except Exception as error:
            log.exception("%d rows were not scored", len(rows))
            raise _failure(error) from error
        self._metrics.loop_batch(len(rows))
        return BatchScores(scores, 0.0, time.perf_counter() - asked_s)

    def depth(self) -> float:
        """The number of requests that wait for the model."""
        return len(self._waiting)

    def _start_thread(self) -> None:
        self._loop = asyncio.get_running_loop()
        threading.Thread(target=self._work, name="score", daemon=True).start()

    def _work(self) -> None:
        try:
            self._score_batches()
        except BaseException as error:
            log.critical("the thread that scores has ended", exc_info=error)
            self._end(error)

    def _end(self, error: BaseException) -> None:
        """Become not ready for good, and answer every waiting request with the error."""
        self._metrics.ready.set(0)
        with self._arrived:
            self.alive = False
            left = [*self._taken, *self._waiting]
            self._waiting.clear()
        assert self._loop is not None
        with suppress(RuntimeError):  # the event loop has ended, too: nobody waits any more
            self._loop.call_soon_threadsafe(_deliver, left, [_failure(error) for _ in left])

    def _score_batches(self) -> None:
        last_end_s, last_requests = 0.0, 0
        while True:
            batch = self._taken = self._next_batch(last_end_s, last_requests)
            outcomes = self._scored(batch)
            last_end_s, last_requests = time.perf_counter(), len(batch)
            assert self._loop is not None
            try:
                self._loop.call_soon_threadsafe(_deliver, batch, outcomes)
            except RuntimeError:  # the event loop has ended: nobody waits any more
                return

    def _next_batch(self, last_end_s: float, last_requests: int) -> list[_QueuedRows]:
        with self._arrived:
            while not self._waiting:
                self._arrived.wait()
            while not self._full():
                left_s = wait_s(
                    now_s=time.perf_counter(),
                    asked_s=self._waiting[0].asked_s,
                    last_end_s=last_end_s,
                    last_requests=last_requests,
                    delay_s=self._limits.delay_us * 1e-6,
                )
                if left_s <= 0 or len(self._waiting) >= last_requests:
                    break
                self._arrived.wait(left_s)
            return self._take()

    def _full(self) -> bool:
        return sum(len(waiting.rows) for waiting in self._waiting) >= self._limits.batch_rows

    def _take(self) -> list[_QueuedRows]:
        batch = [self._waiting.popleft()]
        rows = len(batch[0].rows)
        while self._waiting and rows + len(self._waiting[0].rows) <= self._limits.batch_rows:
            batch.append(self._waiting.popleft())
            rows += len(batch[-1].rows)
        return batch

    def _scored(self, batch: Sequence[_QueuedRows]) -> list[Outcome]:
        parts = [waiting.rows for waiting in batch]
        start_s = time.perf_counter()
        try:
            rows = np.concatenate(parts) if len(parts) > 1 else parts[0]
            scores = self._model.score(rows)
        except Exception as error:
            log.exception("a batch of %d requests was not scored", len(batch))
            return [_failure(error) for _ in batch]
        compute_s = time.perf_counter() - start_s
        self._metrics.thread_batch(len(rows))
        outcomes: list[Outcome] = []
        first = 0
        for waiting in batch:
            end = first + len(waiting.rows)
            outcomes.append(BatchScores(scores[first:end], start_s - waiting.asked_s, compute_s))
            first = end
        return outcomes


def _deliver(batch: Sequence[_QueuedRows], outcomes: Sequence[Outcome]) -> None:
    for waiting, outcome in zip(batch, outcomes, strict=True):
        if waiting.future.done():
            continue
        if isinstance(outcome, BatchScores):
            waiting.future.set_result(outcome)
        else:
            waiting.future.set_exception(outcome)


def _failure(error: BaseException) -> RequestRefused:
    return RequestRefused(500, f"the model failed: {error}")
