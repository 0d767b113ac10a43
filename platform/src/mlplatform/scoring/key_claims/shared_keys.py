"""The right to decide under an idempotency key, held by one gateway of all.

docs/decisions/0145 has the protocol: claim, decide, commit to the log, settle, answer. An answer is
sent only once its key is settled by it, so that any gateway can give it again.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import msgspec

from mlplatform.decisions.records.kept_keys import key_digest
from mlplatform.decisions.records.port import Entry, StoredAnswer
from mlplatform.decisions.records.prepared_record import Key
from mlplatform.decisions.records.record import Record
from mlplatform.runtime.clock import Clock
from mlplatform.runtime.configuration.kinds import KeyClaims
from mlplatform.runtime.errors import PlatformError
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter
from mlplatform.scoring.key_claims.pipeline import ClaimPipeline, LaterStep
from mlplatform.scoring.key_claims.port import (
    LEASE_MS,
    ClaimedKey,
    ClaimResult,
    ClaimStore,
    HeldKey,
    KeyClaim,
    KeyCompletion,
    KeyRelease,
    LostAnswer,
    SettledKey,
)
from mlplatform.scoring.key_claims.voids import void_entry

ALONE: Final = "own"
"""What `key_claim` says in the payload of a decision that was made without the shared claim."""
FIRST_POLL_S: Final = 0.002
BEYOND_S: Final = 0.01
"""Seconds beyond its deadline for which an answer waits for its key to be settled, as for its
record."""

MOST_DISOWNED: Final = 10_000
"""Most decisions of which a process knows that their answers may not be repeated."""

VOID_TRIES: Final = 600
VOID_RETRY_S: Final = 1.0

log = logging.getLogger(__name__)
log.addFilter(RateLimitFilter())

Append = Callable[[Entry], Awaitable[object]]


class KeyedRequest(msgspec.Struct, frozen=True):
    """A request with a key, before it is decided.

    Args:
        key: client, model and key.
        decision_id: id of the decision that will be made if the key is free.
    """

    key: Key
    body_digest: str
    decision_id: str
    keep_ms: int


def key_in_flight() -> Problem:
    """The problem of a key whose first request is not answered yet, here or at another gateway."""
    detail = "a request with this Idempotency-Key is being answered"
    return Problem(409, "in-flight", detail, field="Idempotency-Key", retry_after_s=1)


class SharedKeys:
    """The keys that the gateways of all logs share, as one process sees them.

    Args:
        policy: `strict` refuses keyed requests while the store does not answer; `shared` decides
            them by this gateway's own keys.
        count: called with the outcome of each claim, one of `signals.KEY_CLAIMS`.
    """

    def __init__(
        self, store: ClaimStore, policy: KeyClaims, clock: Clock, count: Callable[[str], None]
    ) -> None:
        self.pipeline = ClaimPipeline(store, lambda steps: count("dropped"))
        self.is_strict = policy == "strict"
        self.clock = clock
        self.count = count
        self._append: Append | None = None
        self._tasks: set[asyncio.Future[None]] = set()
        self._disowned: dict[str, None] = {}

    def start(self, append: Append) -> None:
        """Args: append: records a void, and returns once it is durable."""
        self._append = append
        self.pipeline.start()

    async def stop(self) -> None:
        """Stop; voids that the log takes within moments are on record."""
        await self.pipeline.stop()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks, timeout=VOID_RETRY_S)
            for task in late:
                task.cancel()

    async def hold(
        self, request: KeyedRequest, known: StoredAnswer | None, until_s: float
    ) -> KeyHold | StoredAnswer:
        """The right to decide, or the answer that the key has.

        Args:
            known: the answer that this gateway's own log has under the key.
            until_s: when the wait for the store, or for another gateway, ends.

        Raises:
            Problem: 409 while another gateway decides; 503 if the store does not answer and keyed
                requests are refused then.
        """
        if known is not None and not known.is_of(request.body_digest):
            return known  # another request, whatever became of the key
        claim = KeyClaim(
            key_digest(*request.key),
            request.body_digest,
            request.decision_id,
            request.keep_ms,
            known,
        )
        poll_s, is_held, asked_s = FIRST_POLL_S, False, time.monotonic()
        while (answer := await self.pipeline.result(claim, until_s)) is not None:
            match answer.result:
                case ClaimedKey(token, earlier):
                    self.count("taken_over" if token > 1 else "claimed")
                    is_kept = known is not None
                    return KeyHold(self, request, token, earlier, asked_s, is_kept_here=is_kept)
                case SettledKey(stored, superseded):
                    self.count("repeated")
                    if known is not None and known.decision_id != stored.decision_id:
                        self.disown(known.decision_id)
                    self.void_later(request.key, superseded, stored.decision_id)
                    return stored
                case LostAnswer():
                    self.count("refused")
                    raise keys_unavailable()
            is_held = True
            if time.monotonic() + poll_s > until_s:
                break
            await asyncio.sleep(poll_s)
            poll_s *= 2
        if is_held:
            self.count("in_flight")
            raise key_in_flight()
        return self._without_store(request, known, claim)

    def _without_store(
        self, request: KeyedRequest, known: StoredAnswer | None, claim: KeyClaim
    ) -> KeyHold | StoredAnswer:
        if self.is_strict or (known is not None and known.decision_id in self._disowned):
            self.count("refused")
            self.release(claim, may_be_recorded=False)
            raise keys_unavailable()
        self.count("alone")
        return known or KeyHold(self, request, 0, (), time.monotonic(), is_kept_here=False)

    def disown(self, decision_id: str) -> None:
        """Don't repeat this answer of the own log while the store does not answer: another gateway
        may have decided in its place."""
        self._disowned[decision_id] = None
        if len(self._disowned) > MOST_DISOWNED:
            del self._disowned[next(iter(self._disowned))]

    def own(self, decision_id: str) -> None:
        """Repeat this answer again: its key is settled by it."""
        self._disowned.pop(decision_id, None)

    def release(self, claim: KeyClaim, *, may_be_recorded: bool) -> None:
        """Give a claim up, now or when the store is back."""

        step = KeyRelease(claim.key, claim.decision_id, may_be_recorded)
        self.pipeline.soon(LaterStep(step, _take_any))

    def void_later(self, key: Key, decisions: Sequence[str], stands: str) -> None:
        """Record that these decisions are void, without a request that waits for it."""
        for decision_id in decisions:
            self.count("voided")
            task = asyncio.ensure_future(self._void(key[1], decision_id, stands))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _void(self, model: str, decision_id: str, stands: str) -> None:
        """Record a void, again and again while the log takes none."""
        if self._append is None:
            return
        times = {"event_ms": self.clock.event_ms(), "recorded_ms": self.clock.wall_ms()}
        for _ in range(VOID_TRIES):
            try:
                await self._append(void_entry(decision_id, model, stands, **times))
            except PlatformError:
                await asyncio.sleep(VOID_RETRY_S)
            else:
                return
        log.error("%s is not void on record, though %s stands in its place", decision_id, stands)


class KeyHold:
    """One gateway's right to decide under a key, for one request.

    Args:
        token: the claim's token; 0 without a claim.
        earlier: decisions whose claims ended without an answer.
        asked_s: when the claim was asked for, on the monotonic clock; its lease began then or
            later.
        is_kept_here: whether this gateway's own log has the key, by a decision that was replaced.
    """

    __slots__ = (
        "_asked_s",
        "_earlier",
        "_is_handed_in",
        "_is_over",
        "_keys",
        "_request",
        "_token",
        "is_kept_here",
    )

    def __init__(
        self,
        keys: SharedKeys,
        request: KeyedRequest,
        token: int,
        earlier: tuple[str, ...],
        asked_s: float,
        *,
        is_kept_here: bool,
    ) -> None:
        self._asked_s = asked_s
        self.is_kept_here = is_kept_here
        self._keys = keys
        self._request = request
        self._token = token
        self._earlier = earlier
        self._is_handed_in = False
        self._is_over = False

    @property
    def body_digest(self) -> str:
        """Digest of the request that holds the key."""
        return self._request.body_digest

    @property
    def is_alone(self) -> bool:
        """Whether the store did not answer, so that other gateways may decide too."""
        return self._token == 0

    def beside(self, record: Record) -> list[Entry]:
        """Voids of earlier decisions, for the transaction of this decision's record."""
        self._is_handed_in = True
        return [
            void_entry(
                *(earlier, record.model, record.decision_id),
                event_ms=record.event_ms,
                recorded_ms=record.recorded_ms,
            )
            for earlier in self._earlier
        ]

    async def settle(
        self, answer: bytes, score: float | None, deadline_s: float
    ) -> StoredAnswer | None:
        """Settle the key by an answer whose record is durable. Returns None if it may be sent, else
        the answer that another decision has given under the key.

        Raises:
            Problem: 409 if another gateway has taken the key over and decides; 503 if the store
                does not answer and keyed requests are refused then, or the lease is over, so that
                another gateway may have decided.
        """
        self._is_over = True
        request, keys = self._request, self._keys
        step = KeyCompletion(
            *(key_digest(*request.key), request.body_digest, request.decision_id, request.keep_ms),
            token=self._token,
            answer=answer,
            score=score,
        )
        if self.is_alone:
            keys.pipeline.later(LaterStep(step, self._take_late_result))
            return None
        found = await keys.pipeline.result(step, max(deadline_s, time.monotonic()) + BEYOND_S)
        if found is None:
            keys.pipeline.later(LaterStep(step, self._take_late_result))
            is_over = time.monotonic() - self._asked_s > LEASE_MS / 1000
            if is_over:
                keys.disown(request.decision_id)
            if is_over or keys.is_strict:
                keys.count("refused")
                raise keys_unavailable()
            keys.count("unsettled")
            return None
        match found.result:
            case SettledKey(stored) if stored.decision_id == request.decision_id:
                keys.pipeline.note_settled(LaterStep(step, self._take_late_result))
                return None
            case SettledKey(stored):
                self._lose(stored.decision_id)
                return stored
            case LostAnswer():
                raise keys_unavailable()
            case _:  # the gateway that took it over voids this decision beside its own record
                keys.count("lost")
                keys.disown(request.decision_id)
                raise key_in_flight()

    async def stand_back(self, known: StoredAnswer, deadline_s: float) -> None:
        """Settle the key by an answer that the own log turned out to have, instead of deciding."""
        self._is_over = True
        request, pipeline = self._request, self._keys.pipeline
        step = KeyClaim(
            *(key_digest(*request.key), request.body_digest, request.decision_id, request.keep_ms),
            known=known,
        )
        if await pipeline.result(step, deadline_s + BEYOND_S) is None:
            pipeline.later(LaterStep(step, _take_any))

    def let_go(self) -> None:
        """Give the claim up unless the key was settled: its request ends without an answer."""
        if self._is_over:
            return
        self._is_over = True
        request = self._request
        claim = KeyClaim(
            key_digest(*request.key), request.body_digest, request.decision_id, request.keep_ms
        )
        self._keys.release(claim, may_be_recorded=self._is_handed_in)

    async def _take_late_result(self, result: ClaimResult) -> bool:
        match result:
            case SettledKey(stored):
                if stored.decision_id == self._request.decision_id:
                    self._keys.own(stored.decision_id)
                else:
                    self._lose(stored.decision_id)
            case HeldKey() if self._token == 0:  # the gateway that has it settles it
                return False
        return True

    def _lose(self, stands: str) -> None:
        self._keys.count("lost")
        self._keys.disown(self._request.decision_id)
        self._keys.void_later(self._request.key, (self._request.decision_id,), stands)


async def _take_any(result: ClaimResult) -> bool:
    return True


def keys_unavailable() -> Problem:
    """The problem of a keyed request while the store of claims does not answer."""
    detail = (
        "whether another gateway has answered this Idempotency-Key cannot be known now; try again"
    )
    return Problem(503, "keys-unavailable", detail, field="Idempotency-Key", retry_after_s=1)
