"""The records to append for spilled ones whose idempotency key is in the log by then."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from mlplatform.decisions.records.port import StoredAnswer
from mlplatform.decisions.records.prepared_record import Key, StorableRecord
from mlplatform.decisions.records.record import Record, stored_form

KEY_ANSWERED_ELSEWHERE = "key-answered-elsewhere"


@dataclass(frozen=True, slots=True)
class SpillResolution:
    """The records to append in place of some spilled ones.

    Args:
        items: records to append, in order.
        conflicts: number of decisions among them whose key had been answered by another decision.
    """

    items: tuple[StorableRecord, ...]
    conflicts: int


def resolved(
    spilled: Sequence[StorableRecord],
    find: Callable[[str, str, str], StoredAnswer | None],
    *,
    now_ms: int,
) -> SpillResolution:
    """The spilled records in the form in which they are to be appended.

    The log's answer for a key stands. A spilled decision with another answer was given to a client
    too. So it is kept as a record without its key, and voided: its request counts once. A label
    that is there already is the same fact twice, and is left out.

    Args:
        find: returns the log's answer for a client, model and key; None if it has none.
        now_ms: wall time, for the void records.
    """
    items: list[StorableRecord] = []
    conflicts = 0
    seen: dict[Key, str | None] = {}
    for one in spilled:
        stands = _stands(one, find, seen)
        if stands is None:
            items.append(one)
            seen.update(dict.fromkeys(one.ended))
        elif stands != one.decision_id:
            conflicts += 1
            items += (StorableRecord(one.form), _void(one, stands, now_ms))
    return SpillResolution(tuple(items), conflicts)


def _stands(
    one: StorableRecord,
    find: Callable[[str, str, str], StoredAnswer | None],
    seen: dict[Key, str | None],
) -> str | None:
    """The decision that holds this record's key; None if none does, or its claim has ended."""
    key = one.key
    if key is None:
        return None
    if key in seen:
        stands = seen[key]
    else:
        stored = find(*key)
        stands = None if stored is None else stored.decision_id
    if stands is None:
        seen[key] = one.decision_id
    return stands


def _void(one: StorableRecord, stands: str, now_ms: int) -> StorableRecord:
    record = Record(
        kind="void",
        decision_id=one.decision_id,
        model=one.model,
        event_ms=one.event_ms,
        recorded_ms=now_ms,
        payload={"reason": KEY_ANSWERED_ELSEWHERE, "stands": stands},
    )
    return StorableRecord(stored_form(record))


class Mark(msgspec.Struct, frozen=True):
    """A part of a spill that goes into the log, from one byte to another."""

    spill: str
    start: int
    end: int
