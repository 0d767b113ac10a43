"""Tokens that this process holds: a request takes from them, and the shared store refills them.

A process takes tokens from the store in blocks, before it runs out, so that no request waits for
the store in the steady state. Only tokens that the store gave are used, and at most one block lies
here unused: in any stretch of time all processes together let through what one bucket would, plus
at most a block for each process.

A request that finds the block empty waits for the next renewal, at most `WAIT_S`: a burst that the
limit allows is not refused because it came faster than the last renewal.

While the store is late or does not answer, a process goes on alone, at the rate at which it was
given tokens before, at least its even share of the limit: in total at most twice the limit. When
the store answers again, up to a block of that is paid back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from mlplatform.runtime.errors import PlatformError
from mlplatform.scoring.admission.bucket import Take, TokenGrant, block_size
from mlplatform.scoring.admission.clients import RateLimit

WAIT_S = 0.025
"""Longest wait in seconds for a token: half of a usual deadline."""

RENEWAL_LIMIT_S = 0.015
"""Seconds after which a renewal is late; the process then goes on alone until it arrives."""

PAUSE_S = 0.005
"""Seconds between two renewals, so that a flood of refused requests does not flood the store."""

RATE_WINDOW_S = 5.0
MAX_BLOCKS = 10_000

log = logging.getLogger(__name__)


@dataclass(slots=True)
class TokenBlock:
    """The tokens of one bucket in this process; a number below zero is owed.

    Args:
        unpaid: tokens that the process gave itself while the store did not answer.
        waiting: number of requests that wait for a renewal.
        refused_until_s: monotonic time before which the store has no further tokens.
        supplied_s: monotonic time at which tokens last came, from any source; None if none came
            yet.
    """

    bucket: str
    limit: RateLimit
    spent_since_s: float
    tokens: float = 0.0
    unpaid: float = 0.0
    waiting: int = 0
    refused_until_s: float = 0.0
    supplied_s: float | None = None
    used_s: float = 0.0
    spent: int = 0
    spent_per_s: float = 0.0
    size: int = field(init=False)

    def __post_init__(self) -> None:
        self.size = block_size(self.limit)

    def tokens_needed(self) -> int:
        return math.ceil(self.size - self.tokens + self.unpaid) + self.waiting

    def supply(self, taken: TokenGrant, now_s: float) -> None:
        """Add tokens from the store. The number that it gives in a second is tracked in windows."""
        self.tokens += taken.tokens - self.unpaid
        self.unpaid = 0.0
        self.supplied_s = now_s
        self.refused_until_s = now_s + taken.retry_after_s if taken.retry_after_s else 0.0
        self.spent += taken.tokens
        passed_s = now_s - self.spent_since_s
        if passed_s >= RATE_WINDOW_S:
            self.spent_per_s = self.spent / passed_s
            self.spent, self.spent_since_s = 0, now_s

    def supply_alone(self, share: float, now_s: float) -> None:
        """Add tokens without the store, for the time since tokens last came; at most a full
        block."""
        room = self.size - self.tokens
        rate_per_s = max(self.spent_per_s, self.limit.rate_per_s * share)
        passed_s = math.inf if self.supplied_s is None else now_s - self.supplied_s
        tokens = max(min(rate_per_s * passed_s, room), 0.0)
        self.tokens += tokens
        self.unpaid = min(self.unpaid + tokens, float(self.size))
        self.supplied_s = now_s


class TokenBlocks:
    """The blocks of one process. All calls are made on the event loop, and none blocks it.

    Args:
        take: takes tokens from the store; called in a thread.
        processes: number of processes that share the limits.
        alone: called once for every renewal that was late or failed.
    """

    def __init__(
        self,
        take: Callable[[Sequence[Take]], list[TokenGrant]],
        processes: int,
        alone: Callable[[], None],
    ) -> None:
        self._take = take
        self._share = 1 / processes
        self._alone = alone
        self._blocks: dict[str, TokenBlock] = {}
        self._low: dict[str, TokenBlock] = {}
        self._wake = asyncio.Event()
        self._next: asyncio.Future[None] | None = None
        self._thread = ThreadPoolExecutor(1, "admission-tokens")
        self._call: asyncio.Future[list[TokenGrant]] | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        self._thread.shutdown(wait=False, cancel_futures=True)

    def block(self, bucket: str, limit: RateLimit) -> TokenBlock:
        """The block of a bucket; if the limit has changed, a new block without tokens."""
        block = self._blocks.get(bucket)
        if block is None or block.limit != limit:
            if len(self._blocks) >= MAX_BLOCKS:
                self._forget()
            block = self._blocks[bucket] = TokenBlock(bucket, limit, time.monotonic())
        return block

    def try_take(self, block: TokenBlock) -> bool:
        """Take one token if there is one. More tokens are asked for in time."""
        left = block.tokens - 1
        if left + left < block.size:
            self._ask(block)
        if left < 0:
            return False
        block.tokens = left
        return True

    async def wait_and_take(self, block: TokenBlock) -> float:
        """Take one token after a renewal. Returns 0.0, or after how many seconds there may be
        one."""
        now_s = time.monotonic()
        if now_s < block.refused_until_s:
            return block.refused_until_s - now_s
        if self._next is None:
            self._next = asyncio.get_running_loop().create_future()
        self._ask(block)
        block.waiting += 1
        try:
            done, _ = await asyncio.wait((self._next,), timeout=WAIT_S)
        finally:
            block.waiting -= 1
        if not done:
            block.supply_alone(self._share, time.monotonic())
        if self.try_take(block):
            return 0.0
        wait_s = block.refused_until_s - time.monotonic()
        return wait_s if wait_s > 0 else 1 / block.limit.rate_per_s

    def give_back(self, block: TokenBlock) -> None:
        """Give back a token that was taken and not used."""
        block.tokens += 1

    def owe(self, block: TokenBlock, tokens: int) -> None:
        """Take tokens without asking: the block may go below zero, and pays before it gives
        again."""
        block.tokens -= tokens
        self._ask(block)

    def _ask(self, block: TokenBlock) -> None:
        block.used_s = time.monotonic()
        self._low[block.bucket] = block
        self._wake.set()

    async def _run(self) -> None:
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._renew()
            await asyncio.sleep(PAUSE_S)

    async def _renew(self) -> None:
        """Renew all blocks that ran low: from the store or, if it is late, alone."""
        now_s = time.monotonic()
        low, self._low = self._low, {}
        waiters, self._next = self._next, None
        takes = [
            Take(block.bucket, block.limit, block.tokens_needed())
            for block in low.values()
            if now_s >= block.refused_until_s and block.tokens_needed() > 0
        ]
        try:
            if takes and not await self._ask_in_time(takes):
                self._alone()
                for block in low.values():
                    block.supply_alone(self._share, time.monotonic())
        finally:
            if waiters is not None:
                waiters.set_result(None)

    async def _ask_in_time(self, takes: Sequence[Take]) -> bool:
        """Ask the store for tokens. Returns whether it answered in time; a late answer is counted
        when it comes."""
        if self._call is not None:
            return False  # the previous call still waits
        call = asyncio.get_running_loop().run_in_executor(self._thread, self._take, takes)
        self._call = call
        call.add_done_callback(self._on_grants)
        await asyncio.wait((call,), timeout=RENEWAL_LIMIT_S)
        if not call.done():
            return False
        self._on_grants(call)  # its callback may run after the waiting requests
        return not call.cancelled() and call.exception() is None

    def _on_grants(self, call: asyncio.Future[list[TokenGrant]]) -> None:
        """Takes in what the store gave, once."""
        if call is not self._call:
            return
        self._call = None
        if call.cancelled():
            return
        error = call.exception()
        if error is not None:
            kind = logging.WARNING if isinstance(error, PlatformError) else logging.ERROR
            log.log(kind, "tokens were not renewed: %s", error)
            return
        now_s = time.monotonic()
        for taken in call.result():
            block = self._blocks.get(taken.bucket)
            if block is not None:
                block.supply(taken, now_s)

    def _forget(self) -> None:
        """Make room for new blocks: drop a tenth of those that owe nothing, the longest unused."""
        idle = sorted(
            (block for block in self._blocks.values() if block.tokens >= 0),
            key=lambda block: block.used_s,
        )
        for block in idle[: MAX_BLOCKS // 10]:
            del self._blocks[block.bucket]
