"""Retention on record: payloads of a model that were removed because of their age, as ranges of
records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import Annotated, Any, Final, NamedTuple

import msgspec
from msgspec import Meta

from mlplatform.decisions.records.port import Entry
from mlplatform.decisions.records.record import Kind, Record
from mlplatform.runtime.canonical import NOT_JSON
from mlplatform.runtime.clock import LAST_MS
from mlplatform.runtime.errors import Corrupt
from mlplatform.runtime.times import day_text

KEPT_KINDS: Final[tuple[Kind, ...]] = ("erasure", "retention")
"""Kinds of records that say what was removed; they stay as long as the log does."""
_Seq = Annotated[int, Meta(ge=1)]
Int64 = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]


class AbsentPayload(NamedTuple):
    """A record that has no payload."""

    seq: int
    decision_id: str
    kind: str
    model: str
    event_ms: int


class ExpiredRange(NamedTuple):
    """A range of one writer's records in which a model's payloads are removed, or will be.

    Args:
        first, last: numbers of the first and the last record of the range, both inclusive.
        before_ms: event time; payloads of older records are removed, others stay.
    """

    model: str
    first: int
    last: int
    before_ms: int

    def covers(self, one: AbsentPayload) -> bool:
        """Whether this range explains that a record has no payload."""
        return (
            self.first <= one.seq <= self.last
            and one.model == self.model
            and one.event_ms < self.before_ms
            and one.kind not in KEPT_KINDS
        )


class Retention(msgspec.Struct, frozen=True):
    """The payload of a retention record; a pass over a model writes one.

    Args:
        payload_days: days for which model.yaml kept payloads at the time of the pass.
        before_ms: event time; payloads of the model's older records are removed.
        payloads: number of these payloads when the pass was recorded.
        ranges: writer → first and last numbers of ranges of records, ascending. All records of the
            model in a range are older than `before_ms`.
    """

    act: str
    payload_days: Annotated[int, Meta(ge=1)]
    before_ms: Int64
    payloads: Annotated[int, Meta(ge=0)]
    ranges: dict[str, list[tuple[_Seq, _Seq]]]


class RetentionRule(NamedTuple):
    """A retention record with its model and time.

    Args:
        recorded_ms: wall time at which the record was written.
    """

    model: str
    recorded_ms: int
    retention: Retention

    def without(self, writers: Set[str]) -> RetentionRule:
        """The rule without its ranges of these writers."""
        ranges = {of: held for of, held in self.retention.ranges.items() if of not in writers}
        return self._replace(retention=msgspec.structs.replace(self.retention, ranges=ranges))

    @property
    def summary(self) -> str:
        """A sentence on what became of a payload that this record covers."""
        return (
            f"was removed by retention on {day_text(self.recorded_ms)}, after the"
            f" {self.retention.payload_days} days for which {self.model} keeps payloads"
            f" (act {self.retention.act})"
        )


_decode = msgspec.json.Decoder(Retention).decode


def retention_record(model: str, retention: Retention, *, event_ms: int, recorded_ms: int) -> Entry:
    """The record that removes payloads of a model; its decision id is the act's."""
    record = Record(
        kind="retention",
        decision_id=retention.act,
        model=model,
        event_ms=event_ms,
        recorded_ms=recorded_ms,
        payload=msgspec.to_builtins(retention),
    )
    return Entry(record)


def rule_of(row: Mapping[str, Any]) -> RetentionRule:
    """The rule in a retention record.

    Args:
        row: mapping with the record's model, recorded_ms and payload.

    Raises:
        Corrupt: the payload is not that of a retention record, or recorded_ms is not a time.
    """
    if not 0 <= row["recorded_ms"] <= LAST_MS:
        raise Corrupt(f"a retention was recorded at {row['recorded_ms']} ms, which is not a time")
    try:
        return RetentionRule(row["model"], row["recorded_ms"], _decode(row["payload"] or ""))
    except NOT_JSON as error:
        raise Corrupt(f"the payload of a retention is not what was logged: {error}") from error


def expired_ranges(rules: Iterable[RetentionRule]) -> dict[str, tuple[ExpiredRange, ...]]:
    """Ranges by writer that rules cover; adjoining ranges of a model are joined, however many rules
    they come from.

    No record of the model in a rule's range is younger than the rule, so one moment fits all of
    them.
    """
    found: dict[tuple[str, str], list[ExpiredRange]] = {}
    for model, _, retention in rules:
        for writer, ranges in retention.ranges.items():
            own = found.setdefault((writer, model), [])
            own += (ExpiredRange(model, first, last, retention.before_ms) for first, last in ranges)
    joined: dict[str, tuple[ExpiredRange, ...]] = {}
    for (writer, _), own in sorted(found.items()):
        joined[writer] = (*joined.get(writer, ()), *_joined(sorted(own)))
    return joined


def _joined(ranges: Iterable[ExpiredRange]) -> list[ExpiredRange]:
    """Args: ranges: ranges of one model, sorted by their first numbers."""
    found: list[ExpiredRange] = []
    for one in ranges:
        if found and one.first <= found[-1].last + 1:
            before = found.pop()
            last, before_ms = max(before.last, one.last), max(before.before_ms, one.before_ms)
            one = ExpiredRange(one.model, before.first, last, before_ms)
        found.append(one)
    return found
