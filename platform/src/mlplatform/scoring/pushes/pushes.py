"""Handling of pushed values: stored durably, then served, then answered."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import msgspec

from mlplatform.learning.features.online import OnlineWriter
from mlplatform.learning.features.pushes.journal import (
    KeptPush,
    Push,
    PushedRow,
    Pushes,
    ReusedKey,
)
from mlplatform.learning.features.pushes.serving import serve
from mlplatform.model.features.purposes import RefusedView
from mlplatform.model.features.views import FeatureView
from mlplatform.runtime.errors import PlatformError, Unavailable
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter
from mlplatform.scoring.pushes.rows import RowsBody

MOST_WAITING: Final = 64
"""Most pushes that wait in one process; further ones are refused, and their clients send them
again."""
MOST_BEHIND: Final = 100
"""Most missing pushes that the online store gets before the next push."""
RETIRED_S: Final = 15.0
"""Seconds after which the stores of views that are no longer accepted are closed: a push that was
on its way still uses them."""
AGAIN_S: Final = 0.2
"""Seconds between two such deliveries, in which waiting pushes are handled."""

log = logging.getLogger(__name__)
log.addFilter(RateLimitFilter())


class PushAnswer(msgspec.Struct, frozen=True):
    """The rows are durable, and what requests read from now on.

    `available_time` is the time of their arrival, in milliseconds since 1970, or when the online
    store had them, if that was more than a second later: training joins them to what was asked
    since then.
    """

    view: str
    rows: int
    available_time: int


@dataclass(frozen=True, slots=True)
class PushTarget:
    """An external view of one model, with the stores for its rows."""

    model: str
    view: FeatureView
    body: RowsBody
    online: OnlineWriter


class PushEntry:
    """The only way of pushed rows from the journal into online stores; for one thread.

    Args:
        targets: all views that accept pushes here.
        journal: opens the journal, at its first use.
        event_ms: returns the present event time.
    """

    def __init__(
        self,
        targets: Sequence[PushTarget],
        journal: Callable[[], Pushes],
        event_ms: Callable[[], int],
    ) -> None:
        self._targets, self._open = targets, journal
        self._journal: Pushes | None = None
        self.event_ms = event_ms
        self._is_behind = True

    def use(self, targets: Sequence[PushTarget]) -> None:
        """Serve these views from now on."""
        self._targets, self._is_behind = targets, True

    @property
    def journal(self) -> Pushes:
        """The journal, opened at its first use. Raises Unavailable if it can't be opened."""
        if self._journal is None:
            self._journal = self._open()
        return self._journal

    def serve(self, target: PushTarget, kept: KeptPush) -> KeptPush:
        """Give a push to the online store, after earlier pushes that the store lacks.

        Raises:
            Unavailable: the store does not accept the push now; a later call delivers it.
        """
        if self._is_behind:
            self.catch_up()
        try:
            return serve(self.journal, target.view, kept, target.online, self.event_ms)
        except (PlatformError, sqlite3.Error) as error:
            self._is_behind = True
            raise Unavailable(str(error)) from error

    @property
    def is_behind(self) -> bool:
        """Whether there may be stored pushes that the online store does not have."""
        return self._is_behind

    def catch_up(self) -> None:
        """Serve the oldest pushes that are stored and not served; failed ones wait for the next
        time."""
        try:
            self._is_behind = any([self._served_some(target) for target in self._targets])
        except Unavailable as error:
            log.error("pushes that are kept are not served yet: %s", error)

    def serve_all(self) -> None:
        """Serve all pushes that are stored and not served.

        Raises:
            Unavailable: a store does not accept a push now; a later call delivers the rest.
        """
        self._is_behind = True
        for target in self._targets:
            while self._served_some(target):
                pass
        self._is_behind = False

    def _served_some(self, target: PushTarget) -> bool:
        """Serve the oldest pushes that are not served. Returns whether there may be more."""
        try:
            kept = self.journal.waiting(
                target.model, target.view.name, most=MOST_BEHIND, unserved=True
            )
            for push in kept:
                serve(self.journal, target.view, push, target.online, self.event_ms)
        except (PlatformError, sqlite3.Error) as error:
            raise Unavailable(str(error)) from error
        return len(kept) == MOST_BEHIND

    def close(self) -> None:
        for target in self._targets:
            target.online.close()
        if self._journal is not None:
            self._journal.close()


@dataclass(frozen=True, slots=True)
class PushResponse:
    """An answer, and whether it repeats that of an earlier push with the same key."""

    answer: PushAnswer
    replayed: bool


class FeaturePushes:
    """Accepts pushes, one after the other on a thread of its own, so that no other request waits.

    Args:
        targets: view → the models that have it; each of them gets every push to it.
        entry: the entry for these targets; only the thread uses it.
        refused: returns the views that other folders do not let their models use as they would.
    """

    def __init__(
        self,
        targets: Mapping[str, Sequence[PushTarget]],
        entry: PushEntry,
        refused: Callable[[], Sequence[RefusedView]] = tuple,
    ) -> None:
        self.targets = targets
        self._refused = refused
        self._entry = entry
        self._thread = ThreadPoolExecutor(1, "pushes")
        self._waiting = 0
        self._is_started = False
        self._following: asyncio.Task[None] | None = None

    def use(self, targets: Mapping[str, Sequence[PushTarget]]) -> None:
        """Accept pushes to these views from now on."""
        former = [one for group in self.targets.values() for one in group]
        present = [one for group in targets.values() for one in group]
        self.targets = targets
        self._entry.use(present)
        if not self._is_started:
            return
        if targets and self._following is None:
            self._following = asyncio.create_task(self._follow())
        retired = [one.online for one in former if one not in present]
        asyncio.get_running_loop().call_later(RETIRED_S, self._thread.submit, _close, retired)

    def accepting(
        self, targets: Sequence[PushTarget], is_read: Callable[[PushTarget], bool]
    ) -> Sequence[PushTarget]:
        """The targets of a view that get new values.

        Args:
            is_read: whether the champion of the target's model reads the view already: then it goes
                on as it is, whatever other folders say.

        Raises:
            Problem: 403: none gets any; it says why.
        """
        refused = {(one.model, one.view): one for one in self._refused()}
        if not refused:
            return targets
        found = [t for t in targets if (t.model, t.view.name) not in refused or is_read(t)]
        if not found:
            why = refused[targets[0].model, targets[0].view.name].error()
            detail = f"no model takes values of this view now: {why}"
            raise Problem(403, "view-refused", detail)
        return found

    async def push(
        self,
        targets: Sequence[PushTarget],
        client: str,
        idempotency: str | None,
        body: bytes,
    ) -> PushResponse:
        """Store the rows of a body for every model that has the view, or for none.

        Args:
            targets: those of `targets` that the client may push to: one view of each model.

        Raises:
            Problem: 400 or 422 names what is wrong; 503: sent again with the same key, it is taken
                once.
        """
        if self._waiting >= MOST_WAITING:
            detail = f"{MOST_WAITING} pushes are being taken in; send it again"
            raise Problem(503, "overloaded", detail, retry_after_s=1)
        self._waiting += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(
                self._thread, self._take, targets, client, idempotency, body
            )
        finally:
            self._waiting -= 1

    async def start(self) -> None:
        """Serve what an earlier process stored and did not serve: the oldest now; the rest, and
        what a store refuses, later between pushes."""
        self._is_started = True
        if self.targets:
            await self._catch_up()
            self._following = asyncio.create_task(self._follow())

    async def _catch_up(self) -> None:
        await asyncio.get_running_loop().run_in_executor(self._thread, self._entry.catch_up)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(AGAIN_S)
            if self._entry.is_behind:
                await self._catch_up()

    async def stop(self) -> None:
        if self._following is not None:
            self._following.cancel()
        await asyncio.to_thread(self._thread.shutdown)
        self._entry.close()

    def _take(
        self, targets: Sequence[PushTarget], client: str, idempotency: str | None, body: bytes
    ) -> PushResponse:
        view, now_ms = targets[0].view.name, self._entry.event_ms()
        pushes = [
            push_of(target, client, idempotency, target.body.rows(body, now_ms))
            for target in targets
        ]
        try:
            added = self._entry.journal.add(pushes, now_ms)
        except PlatformError as error:
            log.error("a push to %s was not taken: %s", view, error)
            detail = "the journal of pushes does not answer, so nothing was taken; send it again"
            raise Problem(503, "unavailable", detail, retry_after_s=1) from error
        if isinstance(added, ReusedKey):
            detail = "this Idempotency-Key was used with other rows; a new push takes a new key"
            raise Problem(422, "idempotency-key-reused", detail, field="Idempotency-Key")
        available_ms = 0
        try:
            for target, push, one in zip(targets, pushes, added, strict=True):
                kept = KeptPush(one.number, push, one.arrived_ms, one.served_ms)
                if kept.served_ms is None:
                    kept = self._entry.serve(target, kept)
                available_ms = max(available_ms, kept.counts_ms)
        except Unavailable as error:
            log.error("a push to %s is kept and not served: %s", view, error)
            detail = (
                "the rows are kept, and the online store does not take them now; send them again"
                " with the same Idempotency-Key"
            )
            raise Problem(503, "unavailable", detail, retry_after_s=1) from error
        answer = PushAnswer(view, len(pushes[0].rows), available_ms)
        return PushResponse(answer, replayed=not any(one.is_new for one in added))


def _close(stores: Sequence[OnlineWriter]) -> None:
    for store in stores:
        store.close()


def push_of(
    target: PushTarget, client: str, idempotency: str | None, rows: tuple[PushedRow, ...]
) -> Push:
    """The push of that client with these rows."""
    names = target.view.feature_names
    content = msgspec.json.encode((names, [(row.key, row.event_s, row.values) for row in rows]))
    digest = hashlib.sha256(content).hexdigest()
    return Push(target.model, target.view.name, client, idempotency, digest, names, rows)
