"""In what order rows are scored: at once where that is quick, else in one thread, in batches."""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Final

import numpy as np

from mlplatform.predictor.metrics import Metrics
from mlplatform.predictor.model import Model, RuntimeFailure
from mlplatform.predictor.protocol import Floats, RequestRefused

QUEUE_LIMIT: Final = 64
BATCH_ROWS: Final = 1024
RETRY_AFTER_S: Final = 1


class ScoreQueue:
    """Scores rows for one event loop; what waits is bounded and goes into common batches."""

    def __init__(self, model: Model, metrics: Metrics, limit: int = QUEUE_LIMIT) -> None:
        self._model = model
        self._metrics = metrics
        self._limit = limit
        self._waiting: deque[tuple[Floats, asyncio.Future[Floats]]] = deque()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="score")
        self._worker: asyncio.Task[None] | None = None

    async def score(self, rows: Floats) -> Floats:
        """Raw scores of the rows, in their order.

        Raises:
            RequestRefused: 503 when too much waits already, 500 when the model fails.
        """
        if len(rows) <= self._model.inline_rows:
            self._metrics.batch_rows.observe(len(rows))
            try:
                return self._model.score(rows)
            except RuntimeFailure as error:
                raise RequestRefused(500, f"the model failed: {error}") from error
        if len(self._waiting) >= self._limit:
            raise RequestRefused(503, f"{self._limit} requests wait already", RETRY_AFTER_S)
        future: asyncio.Future[Floats] = asyncio.get_running_loop().create_future()
        self._waiting.append((rows, future))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await future

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = self._take()
            rows = np.concatenate([part for part, _ in batch]) if len(batch) > 1 else batch[0][0]
            self._metrics.batch_rows.observe(len(rows))
            try:
                scores = await loop.run_in_executor(self._thread, self._model.score, rows)
            except RuntimeFailure as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(RequestRefused(500, f"the model failed: {error}"))
                continue
            start = 0
            for part, future in batch:
                if not future.done():
                    future.set_result(scores[start : start + len(part)])
                start += len(part)

    def _take(self) -> list[tuple[Floats, asyncio.Future[Floats]]]:
        batch = [self._waiting.popleft()]
        rows = len(batch[0][0])
        while self._waiting and rows + len(self._waiting[0][0]) <= BATCH_ROWS:
            batch.append(self._waiting.popleft())
            rows += len(batch[-1][0])
        return batch
