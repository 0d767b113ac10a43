"""The owner of a decision: the client who may report its outcome, take it back, or ask why."""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from mlplatform.decisions.log.lookup import recorded_clients
from mlplatform.decisions.log.sqlite import SqliteDecisionLog
from mlplatform.runtime.clock import SYSTEM_TOLERANCE_MS, Clock
from mlplatform.runtime.configuration.kinds import ClockMode
from mlplatform.runtime.errors import PlatformError
from mlplatform.runtime.http.problems import Problem
from mlplatform.runtime.telemetry.rate_limit_filter import RateLimitFilter
from mlplatform.runtime.telemetry.refusals import Refusal
from mlplatform.runtime.units import MINUTE_MS
from mlplatform.scoring.admission.clients import Client
from mlplatform.scoring.request.decision_ids import is_known, made_ms, ownership
from mlplatform.scoring.request.recording import log_unavailable

ClientLookup = Callable[[str, Sequence[str]], Mapping[str, str]]
"""Function from a model and ids to the client of each decision that is on record here."""

log = logging.getLogger(__name__)
log.addFilter(RateLimitFilter())


class Ownership:
    """Tells a client's decisions from those of others; a decision belongs to the client that asked
    for it.

    The id of a decision shows that by a keyed hash. Older ids do not: for these the decision log is
    asked, in a thread and once for all ids of a call.

    Args:
        keep: called with every refusal.
    """

    def __init__(
        self,
        find_clients: ClientLookup,
        clock: Clock,
        pseudonym_key: bytes,
        keep: Callable[[Refusal], None],
    ) -> None:
        self._find_clients = find_clients
        self._clock = clock
        self._key = pseudonym_key
        self._keep = keep
        self._reading = asyncio.Lock()

    async def of(
        self, model: str, client: Client, decision_ids: Sequence[str], *, reviews: bool = False
    ) -> frozenset[str]:
        """The ids for which the client may speak: its own, or with scope `any-client` all.

        Args:
            reviews: whether the client reports outcomes as a reviewer; scope `review` allows that
                for all decisions.

        Raises:
            Problem: 503 if the log can't be read.
        """
        if client.may(model, "any-client") or (reviews and client.may(model, "review")):
            return frozenset(i for i in decision_ids if is_known(model, i, self._key))
        found = {i: ownership(model, client.name, i, self._key) for i in decision_ids}
        unsaid = [i for i, whose in found.items() if whose == "unsaid"]
        recorded = await self._owners_on_record(model, unsaid) if unsaid else {}
        return frozenset(
            i for i, whose in found.items() if whose == "own" or recorded.get(i) == client.name
        )

    async def refuse(
        self, surface: str, model: str, client: Client, decision_id: str, status: int = 422
    ) -> Problem:
        """The answer to a client for an id that is not its own; the kept refusal says more.

        It is the same for a decision that exists and for one that does not, after the same work, so
        that a caller learns nothing of another client's decisions.

        Args:
            status: 422 for an id in a body, 404 for one in a path.
        """
        exists = is_known(model, decision_id, self._key)
        why = f"another client's, and the key has no {model}:any-client" if exists else "unknown"
        asked = f"{model} decision {decision_id}"
        refusal = Refusal(self._clock.wall_ms(), surface, client.name, asked, why)
        await asyncio.to_thread(self._keep, refusal)
        detail = f"no decision {decision_id!r} was given to {client.name} for model {model!r}"
        return Problem(status, "unknown-decision", detail, field="decision_id")

    async def _owners_on_record(self, model: str, decision_ids: Sequence[str]) -> Mapping[str, str]:
        async with self._reading:  # one thread is enough: old ids become rare
            try:
                return await asyncio.to_thread(self._find_clients, model, decision_ids)
            except (PlatformError, sqlite3.Error) as error:
                log.error("the decision log was not read: %s", error)
                raise log_unavailable() from error


class EventSpan(NamedTuple):
    """Event times of some decisions, `to_ms` exclusive; None where they are not known."""

    from_ms: int | None = None
    to_ms: int | None = None


def event_span(mode: ClockMode, decision_ids: Sequence[str]) -> EventSpan:
    """Event times that enclose these decisions; in live mode they are near the times of the known
    ids."""
    if mode == "replay":  # event times differ from the times of ids
        return EventSpan()
    apart_ms = SYSTEM_TOLERANCE_MS + MINUTE_MS
    made = [made_ms(i) for i in decision_ids]
    return EventSpan(min(made) - apart_ms, max(made) + apart_ms)


def client_lookup(decisions: SqliteDecisionLog, mode: ClockMode) -> ClientLookup:
    """A function that looks decisions up in the log of this home."""

    def found(model: str, decision_ids: Sequence[str]) -> Mapping[str, str]:
        from_ms, to_ms = event_span(mode, decision_ids)
        return recorded_clients(decisions, model, decision_ids, from_ms=from_ms, to_ms=to_ms)

    return found
