"""Copies of answered requests for the challenger: they never delay answers, and each becomes a
record."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Record
from mlplatform.model.oip import PredictionFailed
from mlplatform.model.routes import Routes
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.telemetry.context import Origin
from mlplatform.scoring.arms.live import Target
from mlplatform.scoring.predictor_client.cache import Raw
from mlplatform.scoring.predictor_client.predictor import by_row
from mlplatform.scoring.request.prediction import RequestFacts
from mlplatform.scoring.request.recording import LogUnavailable, Recorder

QUEUE_LENGTH = 4096
BATCH_ROWS = 32
TIMEOUT_S = 5.0
WORKERS = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ShadowCopy:
    """An answered request that the challenger is to see too."""

    decision_id: str
    facts: RequestFacts
    routes: Routes
    target: Target
    unit: int
    bucket: int


class ShadowCopies:
    """A bounded queue and few workers; what does not fit is dropped and counted, not recorded.

    A copy that waited until its generation of the routes was over is also dropped: no window counts
    it any more, and a slow challenger would be kept busy long after its shadow phase.

    A drop says that the challenger or this gateway is too busy, which is no evidence about the
    challenger's scores, and a record per drop would cost most when there is least to spare.

    Args:
        dropped: called with the model, the reason ("full", "over", "stopped" or "unrecorded"), and
            the number of copies.
        generation: returns the generation of routes that a model has now; None if it is not served
            any more.
    """

    def __init__(
        self,
        recorder: Recorder,
        clock: Clock,
        dropped: Callable[[str, str, int], None],
        generation: Callable[[str], int | None],
    ) -> None:
        self._recorder = recorder
        self._clock = clock
        self._dropped = dropped
        self._generation = generation
        self._queue: deque[ShadowCopy] = deque()
        self._arrived = asyncio.Event()
        self._busy = 0
        self._workers: list[asyncio.Task[None]] = []

    def start(self) -> None:
        loop = asyncio.get_running_loop()
        self._workers = [loop.create_task(self._work()) for _ in range(WORKERS)]

    def offer(self, copy: ShadowCopy) -> None:
        """Queue a copy if there is room; returns at once either way."""
        if len(self._queue) >= QUEUE_LENGTH:
            self._dropped(copy.routes.model, "full", 1)
            return
        self._queue.append(copy)
        self._arrived.set()

    async def stop(self, within_s: float) -> None:
        """Send waiting copies for a while, and drop the rest."""
        loop = asyncio.get_running_loop()
        end_s = loop.time() + within_s
        while (self._queue or self._busy) and loop.time() < end_s:
            await asyncio.sleep(0.01)
        for copy in self._queue:
            self._dropped(copy.routes.model, "stopped", 1)
        self._queue.clear()
        for worker in self._workers:
            worker.cancel()
        await asyncio.gather(*self._workers, return_exceptions=True)

    async def _work(self) -> None:
        while True:
            await self._arrived.wait()
            self._drop_what_is_over()
            batch = self._next_batch()
            if not batch:
                self._arrived.clear()
                continue
            self._busy += 1
            try:
                await self._send(batch)
            except LogUnavailable as error:
                log.warning("%d shadow records were not written: %s", len(batch), error)
            except Exception:
                log.exception("%d shadow copies failed", len(batch))
            finally:
                self._busy -= 1

    def _drop_what_is_over(self) -> None:
        # Generations only rise, so for each model the outdated copies come first in the queue.
        over: Counter[str] = Counter()
        while self._queue:
            routes = self._queue[0].routes
            if routes.generation == self._generation(routes.model):
                break
            over[routes.model] += 1
            self._queue.popleft()
        for model, count in over.items():
            self._dropped(model, "over", count)

    def _next_batch(self) -> list[ShadowCopy]:
        batch: list[ShadowCopy] = []
        while self._queue and len(batch) < BATCH_ROWS:
            if batch and self._queue[0].target is not batch[0].target:
                break
            batch.append(self._queue.popleft())
        return batch

    async def _send(self, batch: list[ShadowCopy]) -> None:
        target = batch[0].target
        rows = [copy.facts.row(target) for copy in batch]
        started_ns = time.perf_counter_ns()
        deadline_s = time.monotonic() + TIMEOUT_S
        raw: list[Raw | None]
        try:
            origin = Origin(batch[0].decision_id, None, "shadow")
            found = await target.shadow.predict(rows, deadline_s, origin)
            raw, reason = list(by_row(found, target.bundle.classes)), None
        except PredictionFailed as failure:
            raw, reason = [None] * len(batch), failure.reason
        latency_us = (time.perf_counter_ns() - started_ns) // 1000
        recorded_ms = self._clock.wall_ms()
        pairs = zip(batch, rows, raw, strict=True)
        records = [
            shadow_record(*pair, reason, latency_us=latency_us, recorded_ms=recorded_ms)
            for pair in pairs
        ]
        appended = (self._recorder.append(Entry(record)) for record in records)
        outcomes = await asyncio.gather(*appended, return_exceptions=True)
        problems = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
        if problems:
            self._dropped(batch[0].routes.model, "unrecorded", len(problems))
            raise problems[0]


def shadow_record(
    copy: ShadowCopy,
    row: Sequence[float],
    raw: Raw | None,
    reason: str | None,
    *,
    latency_us: int,
    recorded_ms: int,
) -> Record:
    """The record of a copy: the challenger's decision, or why there is none.

    Args:
        row: the challenger's inputs.
        latency_us: microseconds of the call that carried this copy, and perhaps others.
    """
    bundle = copy.target.bundle
    if isinstance(raw, tuple):
        (best,) = bundle.choice.top(raw, 1)
        score: float | None = best.probability
        decision: str | None = best.class_
        raw = score
    else:
        score = None if raw is None else bundle.calibrate(raw)
        decision = None if score is None else bundle.decide(score, row)
    return Record(
        kind="shadow",
        decision_id=copy.decision_id,
        model=copy.routes.model,
        event_ms=copy.facts.event_ms,
        recorded_ms=recorded_ms,
        generation=copy.routes.generation,
        rollout_id=copy.routes.rollout_id,
        arm="challenger",
        answered_by=None if raw is None else "challenger",
        unit=copy.unit,
        bucket=copy.bucket,
        version=copy.target.arm.version,
        bundle=copy.target.arm.bundle,
        score=score,
        decision=decision,
        degraded=reason is not None,
        degraded_reason=reason,
        latency_us=latency_us,
        payload={"raw": raw},
    )
