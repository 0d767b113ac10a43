"""The worker's loop: read, score, and commit results and offsets together."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Protocol

from mlplatform.decisions.topics.messages import (
    DroppedRange,
    Message,
    ReceivedMessage,
    Subscription,
    dropped_words,
)
from mlplatform.runtime.errors import StaleFence, Unavailable
from mlplatform.scoring.worker.messages import (
    Item,
    Names,
    Poison,
    ScoreReply,
    dead_letter,
    dropped_letter,
    item_of,
    result,
)
from mlplatform.scoring.worker.metrics import Metrics
from mlplatform.scoring.worker.spans import BatchSpan, FinishedBatch, context_of, parent_links

WAIT_S = 0.5
KEEP_ALIVE_S = 1.0
LAG_S = 5.0
BACK_OFF_S = 1.0
MAX_FENCED = 3
"""Most consecutive rebalances that cost a batch. After more, another process is using this name."""

log = logging.getLogger(__name__)


class Scorer(Protocol):
    """A scorer of the items of a batch."""

    def score(
        self, items: Sequence[Item], stopping: threading.Event, batch: BatchSpan
    ) -> list[ScoreReply | Poison]: ...


class Sink(Protocol):
    """The receiver of batches whose spans are wanted."""

    def offer(self, item: FinishedBatch) -> None: ...


@dataclass(frozen=True, slots=True)
class DrainLimits:
    """Limits of what is in work at once.

    Args:
        batch: messages in one transaction, and the largest number that this worker holds.
        chunk: items in one request to the gateway.
        connections: number of simultaneous requests to the gateway.
    """

    batch: int = 1000
    chunk: int = 100
    connections: int = 4


def chunks(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """The items in calls of the gateway; those accepted earlier go in calls of their own."""
    ways = [[i for i in items if i.is_accepted], [i for i in items if not i.is_accepted]]
    return [way[at : at + size] for way in ways for at in range(0, len(way), size)]


class Worker:
    """Works effectively once: scoring is idempotent by the request's key, and a result becomes
    visible in the transaction that counts the request as read. If it is killed anywhere, nothing
    appears twice."""

    def __init__(
        self,
        subscription: Subscription,
        scorer: Scorer,
        names: Names,
        metrics: Metrics,
        limits: DrainLimits,
        spans: Sink,
        trace_share: float,
        wall_ms: Callable[[], int],
    ) -> None:
        self._subscription = subscription
        self._scorer = scorer
        self._names = names
        self._metrics = metrics
        self._limits = limits
        self._spans = spans
        self._trace_share = trace_share
        self._wall_ms = wall_ms
        metrics.dropped.watch(names.model, names.requests)
        self._pool = ThreadPoolExecutor(limits.connections, "score")
        self._fenced = 0
        self._lag_s = 0.0

    def run(self, stopping: threading.Event) -> None:
        """Runs until `stopping` is set. Batches in work are then finished and committed, if the
        gateway allows it.

        Raises:
            StaleFence: another process works under this name.
            Refused: the gateway does not accept this worker.
        """
        try:
            while not stopping.is_set():
                try:
                    self.step(stopping)
                except Unavailable as error:
                    log.warning("a batch was given up, to be read again: %s", error)
                    self._metrics.count_given_up("unavailable")
                    self._subscription.rewind()
                    stopping.wait(BACK_OFF_S)
        finally:
            self._pool.shutdown(cancel_futures=True)
            self._subscription.close()

    def step(self, stopping: threading.Event) -> int:
        """Score one batch. Returns the number of its messages."""
        self._observe_lag()
        found = self._subscription.consume(self._limits.batch, WAIT_S)
        dropped = self._subscription.dropped_ranges()
        if not found and not dropped:
            return 0
        is_sampled = random.random() < self._trace_share  # noqa: S311
        batch = BatchSpan(
            self._names.requests, len(found), parent_links(found), time.monotonic(), is_sampled
        )
        try:
            return self._score_and_commit(found, dropped, stopping, batch)
        except BaseException:
            batch.is_error = True
            raise
        finally:
            sampled_for = batch.sampled_for
            if sampled_for is not None:
                self._spans.offer(FinishedBatch(batch, time.monotonic(), sampled_for))

    def _score_and_commit(
        self,
        found: Sequence[ReceivedMessage],
        dropped: Sequence[DroppedRange],
        stopping: threading.Event,
        batch: BatchSpan,
    ) -> int:
        letters = [one for gone in dropped if (one := dropped_letter(self._names, gone))]
        with self._metrics.in_work(len(found)):
            outcomes = self._score(found, stopping, batch)
            try:
                self._subscription.commit([*letters, *(self._message(o, batch) for o in outcomes)])
            except StaleFence:
                self._fenced += 1
                batch.is_error = True
                self._metrics.count_given_up("fenced")
                if self._fenced >= MAX_FENCED:
                    raise
                return 0
        self._fenced = 0
        self._metrics.count_batch(outcomes, time.monotonic() - batch.started_s)
        self._report_dropped(dropped)
        return len(found)

    def _report_dropped(self, dropped: Sequence[DroppedRange]) -> None:
        for gone in dropped:
            if gone.first is not None:
                words = dropped_words(gone.topic, gone.partition, gone.first, gone.last)
                log.error("requests of %s are lost: %s", self._names.model, words)
                now_ms = self._wall_ms()
                self._metrics.dropped.add(self._names.model, gone.topic, gone.most_messages, now_ms)

    def _score(
        self, found: Sequence[ReceivedMessage], stopping: threading.Event, batch: BatchSpan
    ) -> list[ScoreReply | Poison]:
        outcomes: list[ScoreReply | Poison] = []
        items: list[Item] = []
        for message in found:
            read = item_of(message)
            if isinstance(read, Item):
                items.append(read)
            else:
                outcomes.append(read)
        asked = {
            self._pool.submit(self._scorer.score, chunk, stopping, batch)
            for chunk in chunks(items, self._limits.chunk)
        }
        waiting = asked
        while waiting:
            # this takes no messages, but shows the group that the member lives
            _, waiting = wait(waiting, KEEP_ALIVE_S)
            if waiting:
                self._subscription.consume(0, 0.0)
                self._observe_lag()  # the lag grows while no gateway answers
        for future in asked:
            outcomes += future.result()
        return outcomes

    def _message(self, outcome: ScoreReply | Poison, batch: BatchSpan) -> Message:
        if isinstance(outcome, ScoreReply):
            return result(self._names, outcome)
        batch.is_error = True
        context = context_of(outcome.message)
        extra = {
            "trace_id": context.trace_id if context else batch.trace_id,
            "model": self._names.model,
        }
        log.warning(
            "message %s can't be scored and becomes a dead letter: %s",
            outcome.message.place,
            outcome.reason,
            extra=extra,
        )
        return dead_letter(self._names, outcome)

    def _observe_lag(self) -> None:
        if time.monotonic() >= self._lag_s:
            self._lag_s = time.monotonic() + LAG_S
            self._metrics.lag(self._subscription.lag())
