"""Delivery of one receiver's events: in order, from the receiver's position, each until it is
taken."""

from __future__ import annotations

import asyncio
import logging
import random
import sqlite3
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, assert_never

from pg8000.exceptions import DatabaseError

from mlplatform.observing.events.receivers import Receiver
from mlplatform.observing.events.retries import delay_s
from mlplatform.observing.events.sender import (
    DeliveryFailure,
    DeliverySuccess,
    GoneReceiver,
    Outcome,
    Sender,
)
from mlplatform.rollouts.events.event import CloudEvent, Fact, event_of
from mlplatform.rollouts.events.positions import Attempt, Claim, Position
from mlplatform.rollouts.events.stream import JournalStream, StreamFact
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.errors import StaleFence, Unavailable
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter

POLL_S: Final = 1.0
LEASE_S: Final = 30.0
"""Seconds of a claim: twice as long as an attempt, because a claim is renewed once half of it is
over."""
BATCH: Final = 50
SKIPPED: Final = 200
"""Number of positions without an event that pass before they are recorded, because each recording
is a write."""
DOWN: Final = (Unavailable, sqlite3.Error, DatabaseError)

log = logging.getLogger(__name__)
log.addFilter(RateLimitFilter())


@dataclass(frozen=True, slots=True)
class DeliveryPorts:
    """The parts that all deliveries of a process share.

    Args:
        holder: name of the holder of claims; different for each start of a process, so that no two
            processes share it.
        page: address of the platform's page.
        redacted: removes personal values from a text.
        lease_s: seconds for which a claim holds; more than twice the time limit of one attempt.
        poll_s: seconds between two reads of the journals.
    """

    stream: JournalStream
    sender: Sender
    clock: Clock
    holder: str
    page: str
    redacted: Callable[[str], str]
    lease_s: float = LEASE_S
    poll_s: float = POLL_S

    def event(self, fact: Fact) -> CloudEvent:
        return event_of(fact, self.page, self.redacted)


class Delivery:
    """Sends events to one receiver. Its state is in the database, so that it may die at any
    time."""

    def __init__(self, receiver: Receiver, ports: DeliveryPorts) -> None:
        self._receiver = receiver
        self._ports = ports
        self._claim: Claim | None = None
        self._at = Position(0, 0)
        self._recorded = self._at
        self._until_ms = 0
        self._failures = 0

    async def run(self, stopping: asyncio.Event) -> None:
        """Deliver until told to stop; an attempt that is under way is finished and recorded."""
        while not stopping.is_set():
            try:
                pause_s = await self._turn(stopping)
            except StaleFence:
                self._claim, pause_s = None, self._ports.poll_s
            except DOWN as error:
                log.warning("%s waits for the database: %r", self._receiver.name, error)
                pause_s = self._ports.poll_s
            if pause_s:
                with suppress(TimeoutError):
                    await asyncio.wait_for(stopping.wait(), pause_s)
        await self._give_back()

    async def _turn(self, stopping: asyncio.Event) -> float:
        """Send the waiting events. Returns how many seconds to wait."""
        if not await self._holds():
            return self._ports.poll_s
        batch = await asyncio.to_thread(self._ports.stream.after, self._at, BATCH)
        for step in batch.steps:
            if stopping.is_set():
                return 0.0
            event = self._ports.event(step.fact)
            if not self._receiver.wants(event):
                self._at = step.at
                continue
            await self._renew()
            tried = await self._ports.sender.send(self._receiver, event)
            if (wait_s := await self._follow(tried, step, event)) is not None:
                return wait_s
        self._at = batch.end
        if _distance(self._at, self._recorded) >= (SKIPPED if not batch.steps else 1):
            await self._record(None)
        return 0.0 if batch.steps else self._ports.poll_s

    async def _follow(self, tried: Outcome, step: StreamFact, event: CloudEvent) -> float | None:
        """Seconds to wait after an attempt; None: the next event."""
        name = self._receiver.name
        match tried:
            case DeliverySuccess():
                self._failures = 0
                self._at = step.at
                await self._record(Attempt())
                return None
            case DeliveryFailure(why, asked):
                self._failures += 1
                await self._record(Attempt(why))
                wait_s = delay_s(self._failures, random.random(), asked)  # noqa: S311
                log.warning(
                    "%s did not take %s: %s; it is sent again in %.0f s",
                    name,
                    event.id,
                    why,
                    wait_s,
                )
                return wait_s
            case GoneReceiver(why):
                await self._record(Attempt(why, gone=True))
                self._claim = None
                log.error(
                    "%s is stopped: %s; `mlplatform events replay %s` starts it again",
                    name,
                    why,
                    name,
                )
                return self._ports.poll_s
            case _:
                assert_never(tried)

    async def _holds(self) -> bool:
        """Whether this process may send; if somebody moved the position, it is read again."""
        if self._claim is not None:
            known = await asyncio.to_thread(self._ports.stream.positions.list)
            token = {one.receiver: one.token for one in known}.get(self._receiver.name)
            if token == self._claim.token:
                await self._renew()
                return True
            self._claim = None
        now_ms = self._ports.clock.wall_ms()
        self._until_ms = now_ms + int(self._ports.lease_s * 1000)
        take = self._ports.stream.positions.take
        self._claim = await asyncio.to_thread(
            take, self._receiver.name, self._ports.holder, until_ms=self._until_ms, now_ms=now_ms
        )
        if self._claim is None:
            return False
        self._at = self._recorded = self._claim.at
        return True

    async def _renew(self) -> None:
        if self._until_ms - self._ports.clock.wall_ms() < self._ports.lease_s * 500:
            await self._record(None)

    async def _record(self, attempt: Attempt | None) -> None:
        """Record the receiver's position. While the database is away this waits, so that nothing is
        sent twice."""
        if self._claim is None:
            return
        while True:
            until_ms = self._ports.clock.wall_ms() + int(self._ports.lease_s * 1000)
            record = self._ports.stream.positions.record
            try:
                await asyncio.to_thread(record, self._claim, self._at, attempt, until_ms=until_ms)
            except DOWN as error:
                log.warning("%s waits for the database: %r", self._receiver.name, error)
                await asyncio.sleep(self._ports.poll_s)
            else:
                self._until_ms, self._recorded = until_ms, self._at
                return

    async def _give_back(self) -> None:
        """Give the claim back, so that the next process need not wait; a killed process lets its
        lease expire."""
        if self._claim is not None:
            with suppress(StaleFence, *DOWN):
                await asyncio.to_thread(
                    self._ports.stream.positions.record, self._claim, self._at, None, until_ms=0
                )


def _distance(one: Position, other: Position) -> int:
    return abs(one.rollouts - other.rollouts) + abs(one.incidents - other.incidents)
