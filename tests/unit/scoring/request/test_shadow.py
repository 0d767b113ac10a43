"""Shadow copies: sent while their generation of the routes is in force, dropped after."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, cast

from mlplatform.decisions.records.port import AppendReceipt, Entry, Outcome
from mlplatform.learning.features.online import OnlineRow
from mlplatform.model.routes import Arm, Routes
from mlplatform.runtime.clock import SystemClock
from mlplatform.scoring.arms.live import Target
from mlplatform.scoring.request.prediction import RequestFacts
from mlplatform.scoring.request.recording import LogUnavailable, Recorder
from mlplatform.scoring.request.shadow import QUEUE_LENGTH, WORKERS, ShadowCopies, ShadowCopy

ARM = Arm(2, "b", "fraud-v2-b")


class SlowChallenger:
    """Answers nothing before it is let."""

    def __init__(self) -> None:
        self.let = asyncio.Event()
        self.rows = 0

    async def predict(
        self, rows: Sequence[Any], deadline_s: float, origin: object = None
    ) -> list[float]:
        self.rows += len(rows)
        await self.let.wait()
        return [0.5] * len(rows)


class KeepingRecorder:
    """A recorder that keeps what it is given."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    async def append(self, entry: Entry) -> Outcome:
        self.entries.append(entry)
        return AppendReceipt(len(self.entries))


class Full(KeepingRecorder):
    """A recorder that takes every other record."""

    def __init__(self) -> None:
        super().__init__()
        self.refused = 0

    async def append(self, entry: Entry) -> Outcome:
        if len(self.entries) > self.refused:
            self.refused += 1
            raise LogUnavailable("full")
        return await super().append(entry)


def routes(generation: int) -> Routes:
    champion = Arm(1, "a", "fraud-v1-a")
    return Routes("fraud", generation, champion, ARM, None, "r1", "shadow", 0.0)


def copy(challenger: SlowChallenger, generation: int) -> ShadowCopy:
    bundle = SimpleNamespace(
        calibrate=lambda raw: raw, decide=lambda score, row: "approve", classes=0
    )
    plan = SimpleNamespace(row=lambda *parts: (1.0,))
    target = SimpleNamespace(arm=ARM, bundle=bundle, shadow=challenger, plan=plan)
    facts = RequestFacts({}, 1, OnlineRow({}, {}))
    return ShadowCopy("d", facts, routes(generation), cast(Target, target), 1, 2)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0.001)


async def test_copies_of_a_generation_that_is_over_are_not_sent() -> None:
    """A slow challenger is not kept busy after its shadow phase."""
    challenger, kept = SlowChallenger(), KeepingRecorder()
    dropped: Counter[tuple[str, str]] = Counter()
    now = SimpleNamespace(generation=1)

    def count(model: str, why: str, copies: int) -> None:
        dropped[model, why] += copies

    copies = ShadowCopies(cast(Recorder, kept), SystemClock(), count, lambda model: now.generation)
    one = copy(challenger, 1)
    copies.start()
    for sent in range(1, WORKERS + 1):
        copies.offer(one)
        await until(lambda sent=sent: challenger.rows == sent)
    for _ in range(QUEUE_LENGTH + 3):
        copies.offer(one)
    assert dropped == {("fraud", "full"): 3}
    now.generation = 2
    challenger.let.set()
    await until(lambda: dropped["fraud", "over"] == QUEUE_LENGTH)
    assert challenger.rows == WORKERS
    copies.offer(copy(challenger, 2))
    await until(lambda: len(kept.entries) == WORKERS + 1)
    await copies.stop(within_s=1)
    assert dropped == {("fraud", "full"): 3, ("fraud", "over"): QUEUE_LENGTH}


async def test_copies_whose_records_were_not_written_are_counted() -> None:
    """Every copy is on record or counted: otherwise nobody could tell that some are missing."""
    challenger, full = SlowChallenger(), Full()
    dropped: Counter[tuple[str, str]] = Counter()

    def count(model: str, why: str, copies: int) -> None:
        dropped[model, why] += copies

    copies = ShadowCopies(cast(Recorder, full), SystemClock(), count, lambda model: 1)
    challenger.let.set()
    copies.start()
    for _ in range(10):
        copies.offer(copy(challenger, 1))
    await until(lambda: len(full.entries) + full.refused == 10)
    await copies.stop(within_s=1)
    assert dropped == {("fraud", "unrecorded"): full.refused}
    assert full.refused == 5
