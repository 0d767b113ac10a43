"""The payloads of a model that are due to go because of their age.

The time is the log's own latest event time, bounded by the wall clock: a clock that jumps forward
removes nothing unless the other does too. Even then one pass goes at most `MOST_DAYS` further than
the one before, and there is one pass a day. That bounds the loss before somebody looks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, NamedTuple

from mlplatform.decisions.records.retention import RetentionRule
from mlplatform.runtime.units import DAY_MS

MOST_DAYS: Final = 31
"""Most days of event time that one pass goes further than the one before."""


class HeldPayloads(NamedTuple):
    """Payloads of a model that go together: those of a sealed file, or the first of a writer's
    unsealed records.

    Args:
        first, last: numbers of the first and the last record of the group, both inclusive.
        payloads: number of payloads; 0 means that they were not counted, because none of them can
            be due.
        from_ms, to_ms: earliest and latest event time of the model's records in the group.
    """

    writer: str
    first: int
    last: int
    payloads: int
    from_ms: int
    to_ms: int


@dataclass(frozen=True, slots=True)
class DuePayloads:
    """The payloads of a model that are due.

    Args:
        before_ms: event time; payloads of older records are removed in this pass. None means that
            nothing is removed.
        due_ms: event time; payloads of older records are due, including those that `MOST_DAYS` or
            the day of rest postpones.
        payloads: number of payloads that this pass removes. `later` counts due payloads that wait
            for later passes.
        ranges: writer → first and last numbers of the records whose payloads this pass removes.
        oldest_ms: event time of the oldest payload; None if there is no payload.
        next_ms: event time at which the next payload becomes due; None if there is no later
            payload.
        rests_until_ms: wall time until which no pass runs, because the last one was less than a day
            ago; None if a pass may run.
    """

    due_ms: int
    before_ms: int | None
    payloads: int
    later: int
    ranges: Mapping[str, list[tuple[int, int]]]
    oldest_ms: int | None
    next_ms: int | None
    rests_until_ms: int | None


def reached_ms(latest_event_ms: int | None, wall_ms: int) -> int | None:
    """The event time that the log has certainly reached; None if it has no record."""
    return None if latest_event_ms is None else min(latest_event_ms, wall_ms)


def rests_until_ms(rules: Sequence[RetentionRule], wall_ms: int) -> int | None:
    """The wall time at which the next pass may begin; None if it may begin now.

    A rule whose time is in the future comes from a wrong clock, and delays nothing.
    """
    today = [r.recorded_ms for r in rules if 0 <= wall_ms - r.recorded_ms < DAY_MS]
    return max(today) + DAY_MS if today else None


def due_payloads(
    held: Sequence[HeldPayloads],
    rules: Sequence[RetentionRule],
    *,
    payload_days: int,
    now_ms: int,
    wall_ms: int,
) -> DuePayloads:
    """The payloads that go now and those that wait, and when the next are due.

    Args:
        held: all payloads of the model that no rule covers yet.
        rules: retention rules of the model that are on record.
        now_ms: present event time, from `reached_ms`.
    """
    due_ms = now_ms - payload_days * DAY_MS
    due = [one for one in held if one.to_ms < due_ms]
    kept = [one for one in held if one.to_ms >= due_ms]
    resting = rests_until_ms(rules, wall_ms)
    before_ms = None
    if due and resting is None:
        # from the end of the oldest file: one very old record says nothing about the others
        start = max([min(one.to_ms for one in due), *(rule.retention.before_ms for rule in rules)])
        before_ms = min(due_ms, start + MOST_DAYS * DAY_MS)
    goes = [] if before_ms is None else [one for one in due if one.to_ms < before_ms]
    payloads = sum(one.payloads for one in goes)
    return DuePayloads(
        due_ms,
        before_ms if goes else None,
        payloads,
        sum(one.payloads for one in due) - payloads,
        _ranges(held, goes),
        min((one.from_ms for one in held), default=None),
        min((one.to_ms + payload_days * DAY_MS + 1 for one in kept), default=None),
        resting,
    )


def _ranges(
    held: Sequence[HeldPayloads], goes: Sequence[HeldPayloads]
) -> dict[str, list[tuple[int, int]]]:
    """Ranges of records by writer whose payloads go. Two adjacent groups that go make one range,
    unless payloads between them stay."""
    going = set(goes)
    found: dict[str, list[tuple[int, int]]] = {}
    for writer, of_writer in groupby(sorted(held), key=lambda one: one.writer):
        ranges: list[tuple[int, int]] = []
        continues = False
        for one in of_writer:
            if one not in going:
                continues = False
                continue
            first = ranges.pop()[0] if continues else one.first
            ranges.append((first, one.last))
            continues = True
        if ranges:
            found[writer] = ranges
    return found
