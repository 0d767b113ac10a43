"""Steps of requests on their way to the store of claims: many in one round trip, none waited for
beyond its time.

One call is under way at a time. What requests ask meanwhile goes in the next call, so
that under load a call serves many of them.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from mlplatform.runtime.errors import PlatformError
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter
from mlplatform.scoring.key_claims.port import ClaimResult, ClaimStep, ClaimStore
from mlplatform.scoring.predictor_client.deadlines import Deadlines
from mlplatform.scoring.predictor_client.predictor import STALL_S

MOST_AT_ONCE: Final = 256
SILENT_S: Final = 0.5
"""Seconds after which a call counts as unanswered: requests that come until it ends do not wait.
Before that each waits as long as its deadline allows, because a decision without the claim may be
a second one."""
STALLED_S: Final = 0.01
"""Seconds more for a wait that this process itself held up: the answer may be here already."""
PAUSE_S: Final = 0.5
"""Seconds after a failed call in which no request waits for the store."""
LATER_S: Final = 0.5
MOST_LATER: Final = 10_000
"""Most steps that wait for the store to be back; the oldest are dropped, and counted."""
REPEATED_S: Final = 10.0
"""Seconds before a failed call whose settled keys are sent again once the store is back: another
server may have taken its place, which lacks what was not replicated yet."""

log = logging.getLogger(__name__)
log.addFilter(RateLimitFilter())


class StepResult(msgspec.Struct, frozen=True):
    """The store's answer to a step."""

    result: ClaimResult


class LaterStep(msgspec.Struct, frozen=True):
    """A step that has to reach the store, whenever it is back.

    Args:
        take: called with the result. Returns whether the step is done; else it is sent again.
    """

    step: ClaimStep
    take: Callable[[ClaimResult], Awaitable[bool]]


class ClaimPipeline:
    """The way of one process to the store. All calls are made on the event loop, and none blocks
    it.

    Args:
        dropped: called with the number of steps that were dropped because too many waited.
    """

    def __init__(self, store: ClaimStore, dropped: Callable[[int], None]) -> None:
        self._store = store
        self._dropped = dropped
        self._waiting: list[tuple[ClaimStep, _Wait]] = []
        self._later: dict[tuple[bytes, str], LaterStep] = {}
        self._settled: collections.deque[tuple[float, LaterStep]] = collections.deque()
        self._away_s: float | None = None
        self._deadlines = Deadlines()
        self._is_called = False
        self._called_s = 0.0
        self._retry_at_s = 0.0
        self._task: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Future[bool]] = set()

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        """Stop; steps for later are sent once more, if the store answers."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
            await self._send_some()
        if self._later:
            log.error("%d idempotency keys were not settled in their store", len(self._later))
        await self._store.close()

    @property
    def waiting_later(self) -> int:
        """Number of steps that wait for the store to be back."""
        return len(self._later)

    @property
    def is_silent(self) -> bool:
        """Whether the store does not answer, as far as this process knows."""
        now_s = time.monotonic()
        return now_s < self._retry_at_s or (self._is_called and now_s - self._called_s > SILENT_S)

    async def result(self, step: ClaimStep, until_s: float) -> StepResult | None:
        """The store's answer; None if there is none by `until_s` on the monotonic clock, or if the
        store did not answer others lately. The step may have been carried out all the same."""
        if self.is_silent or time.monotonic() >= until_s:
            return None
        loop = asyncio.get_running_loop()
        wait = _Wait(loop.create_future(), until_s)
        self._waiting.append((step, wait))
        self._deadlines.add(loop, until_s, wait)
        if not self._is_called and len(self._waiting) == 1:
            loop.call_soon(self._call, loop)
        return await wait.answer

    def soon(self, step: LaterStep) -> None:
        """Have a step carried out without waiting for it: at once, or when the store answers."""
        self.later(step)
        if not self.is_silent:
            task = asyncio.ensure_future(self._send(step))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def later(self, step: LaterStep) -> None:
        """Have a step carried out when the store answers."""
        self._later[step.step.key, step.step.decision_id] = step
        if len(self._later) > MOST_LATER:
            del self._later[next(iter(self._later))]
            self._dropped(1)

    def note_settled(self, step: LaterStep) -> None:
        """Note that a step has settled its key, so that it is sent again if the store fails."""
        now_s, settled = time.monotonic(), self._settled
        settled.append((now_s, step))
        while settled[0][0] < now_s - REPEATED_S or len(settled) > MOST_LATER:
            settled.popleft()

    def _repeat(self, away_s: float) -> None:
        """Have the keys sent again that were settled shortly before the store failed."""
        for settled_s, step in self._settled:
            if settled_s > away_s - REPEATED_S:
                self.later(step)
        self._settled.clear()

    def _call(self, loop: asyncio.AbstractEventLoop) -> None:
        """Send what waits, unless a call is under way."""
        if self._is_called:
            return
        taken, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
        taken = [(step, wait) for step, wait in taken if not wait.is_over]
        if not taken:
            if self._waiting:
                loop.call_soon(self._call, loop)
            return
        steps = [step for step, _ in taken]
        self._is_called, self._called_s = True, time.monotonic()
        call = loop.create_task(self._store.carry_out(steps))
        call.add_done_callback(lambda done: self._take([wait for _, wait in taken], done))

    def _take(self, waits: list[_Wait], call: asyncio.Task[list[ClaimResult]]) -> None:
        self._is_called = False
        found: list[StepResult | None]
        if call.cancelled():
            found = [None] * len(waits)
        elif (error := call.exception()) is not None:
            self._fail(error)
            found = [None] * len(waits)
        else:
            found = [StepResult(one) for one in call.result()]
            if self._away_s is not None:
                self._repeat(self._away_s)
                self._away_s = None
        for wait, one in zip(waits, found, strict=True):
            if not wait.is_over:
                wait.answer.set_result(one)
        if self._waiting:
            self._call(asyncio.get_running_loop())

    def _fail(self, error: BaseException) -> None:
        self._retry_at_s = time.monotonic() + PAUSE_S
        if self._away_s is None:
            self._away_s = self._called_s
        kind = logging.WARNING if isinstance(error, PlatformError) else logging.ERROR
        log.log(kind, "claims on idempotency keys got no answer: %s", error)
        waiting, self._waiting = self._waiting, []
        for _, wait in waiting:
            if not wait.is_over:
                wait.answer.set_result(None)

    async def _run(self) -> None:
        try:
            for doubt in await self._store.doubts():
                log.warning(
                    "the store of idempotency keys may lose some before they end: %s", doubt
                )
        except PlatformError as error:
            log.warning("idempotency keys of other gateways are not known yet: %s", error)
        while True:
            await asyncio.sleep(LATER_S)
            await self._send_some()

    async def _send_some(self) -> None:
        """Send the steps for later once, as long as the store answers."""
        steps = list(self._later.values())
        for start in range(0, len(steps), MOST_AT_ONCE):
            some = steps[start : start + MOST_AT_ONCE]
            if not all(await asyncio.gather(*map(self._send, some))):
                return

    async def _send(self, step: LaterStep) -> bool:
        """Send a step that waits. Returns whether the store answered."""
        found = await self.result(step.step, time.monotonic() + LATER_S)
        if found is None:
            return False
        at = step.step.key, step.step.decision_id
        if self._later.get(at) is step and await step.take(found.result):
            self._later.pop(at, None)
        return True


class _Wait:
    """The wait of one step for its result."""

    __slots__ = ("_is_stalled", "_until_s", "answer")

    def __init__(self, answer: asyncio.Future[StepResult | None], until_s: float) -> None:
        self.answer = answer
        self._until_s = until_s
        self._is_stalled = False

    @property
    def is_over(self) -> bool:
        return self.answer.done()

    def expire(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give up. If this process itself is late, first take what the store has answered."""
        if self.answer.done():
            return
        if time.monotonic() - self._until_s > STALL_S and not self._is_stalled:
            self._is_stalled = True
            loop.call_later(STALLED_S, self.expire, loop)
            return
        self.answer.set_result(None)
